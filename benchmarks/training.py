"""How fast a step is trained: what each part of it brings alone, and how far it is from the matrix products it is made of.

    python benchmarks/training.py

1. Each optimisation switched off and on in turn, in one process, over the same batches: median CPU time of a token.
   The demo world's model and pairs, and four blocks of hidden size 128 with 4,096 words on rows of 12 to 76 tokens.
2. Prefix sharing, off and on, by the share of the prompt in a row.
3. Model FLOPs utilisation: floating-point operations of the model on real tokens (no padding), per second of training, over
   those of a large square matrix product in the same thread. Of the model, for T tokens of which R are response tokens, in
   rows that end behind n₁, n₂, … tokens (N weights of the blocks, L blocks, h hidden size, V words):

        forward = 2 N T + 4 L h Σᵢ nᵢ(nᵢ+1)/2 + 2 h V R        a step = 3 · forward

   The attention of causal rows counts half its matrix, and the vocabulary counts where a response token is predicted.

One thread, CPU seconds; what else the machine does falls on all variants alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.models.llama import modeling_llama

from posweep import data
from posweep.artifacts.pairs import TokenPairs, encode_pairs
from posweep.artifacts.reference import ReferenceLogps
from posweep.config import configure
from posweep.objectives import OBJECTIVES
from posweep.policy import score
from posweep.policy.allocator import keep_memory
from posweep.policy.base import Policy
from posweep.policy.batch import Batch, batches
from posweep.policy.load import trained
from posweep.policy.operations import ROTATION
from posweep.policy.score import TokenBatch
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.policy.train import optimise, reset
from posweep.settings import ScratchModel, TrainSettings
from posweep.trial import loss as trial_loss
from posweep.trial.loss import PairLoss

ROUNDS = 7  # all variants in turn, each second time the other way round
PAIRS = 32
"""A step."""


@dataclass(frozen=True)
class World:
    """A policy with pairs to train it on."""

    name: str
    policy: Policy
    pairs: TokenPairs
    steps: int

    def loss(self, **about: Any) -> PairLoss:
        """DPO, with a reference that is as sure as can be said without a second model."""
        logps = torch.full((len(self.pairs),), -40.0)
        reference = ReferenceLogps(logps, logps.clone())
        made = PairLoss(OBJECTIVES["dpo"](), self.policy, self.pairs, reference, "train", 0)
        return replace(made, **about)

    def plan(self, window: int = 16) -> list[Batch]:
        """The batches of the first steps; the same sizes for every seed."""
        return batches(self.pairs.lengths(), PAIRS, self.steps, window=window)


def demo(hidden: int = 96) -> World:
    """The demo world's pairs and its model, untrained."""
    configuration = configure(["sweep=demo", f"model.hidden_size={hidden}"])
    pairs = data.load(configuration.data, {}).train
    texts = [text for pair in pairs for text in (str(pair.prompt), pair.chosen, pair.rejected)]
    policy = new_policy(configuration.model, make_tokenizer(configuration.model, texts))
    limits = configuration.data.max_prompt_tokens, configuration.data.max_response_tokens
    return World(f"demo, hidden {hidden}", policy, encode_pairs(policy.texts, pairs, *limits)[0], 8)


def world(
    hidden: int, layers: int = 4, prompts: tuple[int, int] = (4, 20), responses: tuple[int, int] = (8, 56)
) -> World:
    """A model of a hidden size with 4,096 words, and pairs of random tokens with lengths between these."""
    model = ScratchModel(hidden_size=hidden, layers=layers, vocabulary_size=4096)
    policy = new_policy(model, make_tokenizer(model, [" ".join(f"w{i}" for i in range(4096))]))
    rng = np.random.default_rng(0)

    def rows(low: int, high: int) -> list[list[int]]:
        return [rng.integers(5, 4096, size=size).tolist() for size in rng.integers(low, high + 1, size=1024)]

    return World(
        f"hidden {hidden}, {layers} blocks, 4,096 words",
        policy,
        TokenPairs(rows(*prompts), rows(*responses), rows(*responses)),
        2,
    )


# --- measuring


def seconds(world: World, loss: PairLoss, plan: Sequence[Batch]) -> float:
    """CPU seconds of a real token, of which batches of other composition hold unequally many; the weights are put back."""
    weights = {name: value.detach().clone() for name, value in trained(world.policy).items()}
    began = time.process_time()
    optimise(world.policy.model, plan, loss, TrainSettings())
    spent = time.process_time() - began
    reset(trained(world.policy), weights)
    return spent / tokens(world, plan)


def tokens(world: World, plan: Sequence[Batch]) -> int:
    """Without padding, and with prompts as often as there are responses."""
    return int(sum(world.pairs.lengths()[batch.items].sum() for batch in plan))


def in_turn(variants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """All of them measured one after the other, several times."""
    for once in variants.values():
        once()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS):
        for name in variants if turn % 2 == 0 else reversed(variants):
            found[name].append(variants[name]())
    return found


def operations(world: World, plan: Sequence[Batch]) -> float:
    """Of the model on a real token, forward and backward; the formula above."""
    model = world.policy.model
    inside = sum(weight.numel() for name, weight in model.named_parameters() if "layers" in name and weight.dim() == 2)
    layers, size, total = model.config.num_hidden_layers, model.config.hidden_size, 0.0
    flat = world.pairs.flat
    for batch in plan:
        for side in ("chosen", "rejected"):
            answers = flat[side].lengths[batch.items]
            rows = flat["prompts"].lengths[batch.items] + answers
            total += 2 * inside * rows.sum() + 4 * layers * size * (rows * (rows + 1) / 2).sum()
            total += 2 * size * world.policy.vocabulary * answers.sum()
    return 3 * total / tokens(world, plan)


def matrix_seconds(side: int = 1536) -> float:
    """CPU seconds of an operation in a square matrix product."""
    one, other = torch.ones(side, side), torch.ones(side, side)
    began = time.process_time()
    torch.mm(one, other)
    return (time.process_time() - began) / (2 * side**3)


# --- switches


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Something else under a name, inside the block."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def with_optimizer(**how: bool) -> Callable[..., Any]:
    """AdamW, computed otherwise than the loop asks for."""
    usual = torch.optim.AdamW
    return lambda weights, *, fused, **settings: usual(weights, **settings, **how)


def every_logit(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    """Logits of prompts and padding too, which nobody reads."""
    logits = policy.run(lambda hidden: hidden, **batch.inputs).logits
    return logits.flatten(0, 1).index_select(0, batch.predicts)


def norm_of_transformers(self: Any, x: torch.Tensor) -> torch.Tensor:
    """In place of our own operation."""
    return super(type(self).__mro__[1], self).forward(x)  # type: ignore[misc, no-any-return]


def two_cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In place of our own operation."""
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def variants(world: World) -> dict[str, tuple[Callable[[], float], Callable[[], float]]]:
    """By name: without the optimisation, and with it; all else alike."""
    plan, mixed, usual = world.plan(), world.plan(window=1), world.loss()
    padded = world.loss(policy=replace(world.policy, packs=False))
    step = partial(seconds, world)

    def otherwise(place: Any, name: str, value: Any) -> Callable[[], float]:
        def once() -> float:
            with replaced(place, name, value):
                return step(usual, plan)

        return once

    now = partial(step, usual, plan)
    norm = next(type(one) for one in world.policy.model.modules() if type(one).__name__ == "LlamaRMSNorm")
    rotation = getattr(modeling_llama, ROTATION).__wrapped__
    return {
        "rows without padding": (partial(step, padded, plan), now),
        "batches of similar length": (partial(step, usual, mixed), now),
        "logits of responses only": (otherwise(score, "response_logits", every_logit), now),
        "RMSNorm with a gradient of its own": (otherwise(norm, "forward", norm_of_transformers), now),
        "rotation with a gradient of its own": (otherwise(modeling_llama, ROTATION, rotation), now),
        "log-probs with a gradient in place": (otherwise(trial_loss, "token_logps", two_cross_entropies), now),
        "fused AdamW instead of foreach": (otherwise(torch.optim, "AdamW", with_optimizer(foreach=True)), now),
    }


def with_prompts(share: float, size: int = 96) -> World:
    """A model of a hidden size and pairs whose rows, of 96 tokens, are prompts to that share."""
    prompt = round(size * share)
    return replace(world(128, 2, (prompt, prompt), (size - prompt, size - prompt)), name=f"{share:.2f}")


# --- tables


def main() -> None:
    """The three tables."""
    torch.set_num_threads(1)
    keep_memory()
    worlds = [demo(), demo(128), demo(256), world(128), world(256), world(512, layers=2)]
    print("| optimisation alone | model | without, µs | with, µs | without / with |\n|---|---|---|---|---|")
    for one in (worlds[0], worlds[3]):
        for name, (without, with_it) in variants(one).items():
            found = in_turn({"without": without, "with": with_it})
            print(f"| {name} | {one.name} | {_row(found['without'], found['with'])} |", flush=True)
    print("\n| prompt's share of a row | plain, µs | shared, µs | plain / shared |\n|---|---|---|---|")
    for one in (worlds[0], *map(with_prompts, (0.1, 0.25, 0.5, 0.75))):
        plan = one.plan()
        found = in_turn({str(shares): partial(seconds, one, one.loss(shares=shares), plan) for shares in (False, True)})
        print(f"| {one.name} | {_row(found['False'], found['True'])} |", flush=True)
    print(
        "\n| model | weights | token, µs | tokens/s | GFLOP/s | product | utilisation |\n|---|---|---|---|---|---|---|"
    )
    for one in worlds:
        plan, loss = one.plan(), one.loss()
        found = in_turn({"token": partial(seconds, one, loss, plan), "matrix": matrix_seconds})
        token, matrix = (median(found[name]) for name in ("token", "matrix"))
        rate, most = operations(one, plan) / token, 1 / matrix
        cells = [
            one.name, f"{_weights(one):.2f}M", f"{token * 1e6:.1f}", f"{1 / token:,.0f}",
            f"{rate / 1e9:.1f}", f"{most / 1e9:.1f}", f"{rate / most:.2f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def _row(without: Sequence[float], with_it: Sequence[float]) -> str:
    """Medians, and that of the ratios of runs that followed each other, which what else the machine does moves least."""
    ratio = median(one / other for one, other in zip(without, with_it, strict=True))
    return f"{median(without) * 1e6:.1f} | {median(with_it) * 1e6:.1f} | {ratio:.2f}"


def _weights(world: World) -> float:
    return sum(weight.numel() for weight in world.policy.model.parameters()) / 1e6


if __name__ == "__main__":
    main()
