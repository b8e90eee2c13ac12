"""Every method that TRL implements, end to end against TRL: the same weights and tokens, the same loss and gradient.

Both sides are code that trains: here `PairLoss` under the gradient of an optimisation step, there a trainer's
`compute_loss` on what its own collator makes of the tokens. Each row of `CASES` is a method; where TRL defines it
otherwise, the row says how and converts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor

from posweep import objectives as our
from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import (
    ReferenceLogps,
    load_mismatched,
    load_reference,
    load_token_logps,
    save_mismatched,
    save_reference,
    save_token_logps,
)
from posweep.objectives import OBJECTIVES, Objective
from posweep.policy.base import Policy
from posweep.policy.batch import Batch
from posweep.policy.gradient import Alone, accumulate
from posweep.policy.reproducible import stream, threads
from posweep.policy.score import score_all
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.settings import ScratchModel
from posweep.trial.loss import PairLoss

trl = pytest.importorskip("trl")
trl_cpo = import_module("trl.experimental.cpo")  # where TRL is, a part that has moved is an error
trl_orpo = import_module("trl.experimental.orpo")

PAIRS = 7
MICRO = 3  # pairs a micro-batch here: TRL takes all at once or, where it pools tokens, one by one

SAME = 5e-6
"""Largest difference in float32, of losses relative and of gradients in units of their largest entry.

A rounding error or two: over random worlds the largest seen are 8e-7 and 2e-6.
"""


# --- what is compared


@dataclass(frozen=True)
class World:
    """A random policy and another as its reference, random tokens, and what the reference makes of them."""

    policy: Policy
    reference: Policy
    pairs: TokenPairs
    known: ReferenceLogps


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    tokenizer = make_tokenizer(ScratchModel(), [" ".join(f"word{i}" for i in range(25))])
    policy, reference = (random_policy(tokenizer, seed) for seed in (1, 0))
    pairs = random_pairs(len(tokenizer))
    return World(policy, reference, pairs, scored(reference, pairs, tmp_path_factory.mktemp("reference")))


def random_policy(tokenizer: Any, seed: int) -> Policy:
    policy = new_policy(ScratchModel(hidden_size=16, layers=2, heads=2, seed=seed), tokenizer)
    policy.model.model.embed_tokens.weight.data.mul_(10)  # as new, π is nearly flat and gains are nearly 0
    return policy


def random_pairs(vocabulary: int) -> TokenPairs:
    rng = stream("peers")

    def some(least: int, most: int) -> list[list[int]]:
        return [rng.integers(vocabulary, size=rng.integers(least, most + 1)).tolist() for _ in range(PAIRS)]

    return TokenPairs(some(2, 5), some(1, 12), some(1, 12))


def scored(reference: Policy, pairs: TokenPairs, folder: Path) -> ReferenceLogps:
    sums, mismatched, by_token = folder / "sums.npz", folder / "mismatched.npz", folder / "by_token.npz"
    save_reference(reference, pairs, sums)
    save_mismatched(reference, pairs, mismatched)
    save_token_logps(reference, pairs, by_token)
    return replace(
        load_reference(sums, reference.device),
        mismatched=load_mismatched(mismatched, pairs, reference.device),
        by_token=load_token_logps(by_token),
    )


# --- TRL's side

Examples = list[dict[str, Any]]
Shift = Callable[[Any, World], tuple[Tensor, Tensor]]


class Peer(NamedTuple):
    """A trainer, its settings, and how its data set holds the pairs."""

    trainer: type
    config: type
    examples: Callable[[World], Examples]
    settings: dict[str, Any]

    def build(self, world: World, folder: Path) -> Any:
        arguments = self.config(
            str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, **self.settings
        )
        reference = {} if self.examples is as_labels else {"ref_model": copy.deepcopy(world.reference.model)}
        text = Dataset.from_list([{"prompt": "word0 ", "chosen": "word1", "rejected": "word2"}])  # a trainer wants one
        return self.trainer(
            copy.deepcopy(world.policy.model), args=arguments, train_dataset=text,
            processing_class=world.policy.tokenizer, **reference,
        )  # fmt: skip


def dpo(loss_type: str | list[str], **settings: Any) -> Peer:
    return Peer(trl.DPOTrainer, trl.DPOConfig, as_pairs, {"loss_type": loss_type, **settings})


def kto(**settings: Any) -> Peer:
    return Peer(trl.KTOTrainer, trl.KTOConfig, as_singles, settings)


def cpo(loss_type: str, **settings: Any) -> Peer:
    return Peer(trl_cpo.CPOTrainer, trl_cpo.CPOConfig, as_labels, {"loss_type": loss_type, **settings})


def orpo(**settings: Any) -> Peer:
    return Peer(trl_orpo.ORPOTrainer, trl_orpo.ORPOConfig, as_labels, settings)


def rows(pairs: TokenPairs) -> Iterator[tuple[list[int], list[int], list[int]]]:
    return zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True)


def as_pairs(world: World) -> Examples:
    return [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in rows(world.pairs)]


def as_singles(world: World) -> Examples:
    """Each response an example; both of a pair bring the pair's mismatched response, so TRL's KL is the same mean."""
    return [
        {"prompt_ids": prompt, "completion_ids": response, "KL_completion_ids": mismatched, "label": label}
        for (prompt, *both), mismatched in zip(rows(world.pairs), world.known.mismatched.responses, strict=True)
        for response, label in zip(both, (True, False), strict=True)
    ]


def as_labels(world: World) -> Examples:
    return [labels("chosen", p, c) | labels("rejected", p, r) for p, c, r in rows(world.pairs)]


def labels(side: str, prompt: list[int], response: list[int]) -> dict[str, list[int]]:
    return {
        f"{side}_input_ids": prompt + response,
        f"{side}_attention_mask": [1] * len(prompt + response),
        f"{side}_labels": [-100] * len(prompt) + response,
    }


# --- the table


@dataclass(frozen=True)
class Case:
    """One of our objectives, and how TRL comes to the same.

    Args:
        objective: ours.
        peer: TRL's trainer and settings.
        alone: TRL is given one pair at a time, and the mean over pairs is taken here. Its NLL is a mean over all tokens
            of a micro-batch, ours one over pairs: a long response weighs more there and not here.
        times: what TRL's loss is multiplied by.
        shift: what is added to log π_ref on TRL's side, chosen and rejected: whatever a method adds to DPO's rewards
            can be said in this way too.
        prompt: how many tokens of each prompt are kept, on both sides.
    """

    objective: Objective
    peer: Peer
    alone: bool = False
    times: float = 1.0
    shift: Shift | None = None
    prompt: int | None = None

    def of(self, world: World) -> World:
        """What the case is computed on."""
        prompts = [tokens[: self.prompt] for tokens in world.pairs.prompts]
        return replace(world, pairs=replace(world.pairs, prompts=prompts))


def lengths(side: list[list[int]]) -> Tensor:
    return torch.tensor([len(tokens) for tokens in side])


def margin(objective: Any, world: World) -> tuple[Tensor, Tensor]:
    """β (ρ_w − γ/β − ρ_l) = β (ρ_w − ρ_l) − γ."""
    return torch.full((PAIRS,), objective.gamma / objective.beta), torch.zeros(PAIRS)


def margin_per_token(objective: Any, world: World) -> tuple[Tensor, Tensor]:
    """The same where gains are divided by lengths."""
    chosen, rejected = margin(objective, world)
    return chosen * lengths(world.pairs.chosen), rejected


def length_penalty(objective: Any, world: World) -> tuple[Tensor, Tensor]:
    """β (ρ + α|y|/β) = β ρ + α|y|."""
    per_token = -objective.alpha / objective.beta
    return per_token * lengths(world.pairs.chosen), per_token * lengths(world.pairs.rejected)


def centre(objective: Any, world: World) -> tuple[Tensor, Tensor]:
    """β (ρ − δ/β) = r − δ, where δ/β is the mean gain of all responses."""
    gains = torch.cat(policy_logps(world)) - torch.cat([world.known.chosen, world.known.rejected])
    return gains.mean().expand(PAIRS), gains.mean().expand(PAIRS)


def policy_logps(world: World) -> tuple[Tensor, Tensor]:
    chosen, rejected = (
        score_all(world.policy, world.pairs.prompts, side) for side in (world.pairs.chosen, world.pairs.rejected)
    )
    return chosen, rejected


CASES = {
    "sft": Case(our.SFT(), dpo("sft"), alone=True),
    "dpo": Case(our.DPO(beta=0.2), dpo("sigmoid", beta=0.2)),
    # TRL has no margin γ; here and below, whatever it lacks in the rewards is put into its reference
    "dpo with a margin": Case(our.DPO(beta=0.2, gamma=0.7), dpo("sigmoid", beta=0.2), shift=margin),
    # TRL's "sigmoid" ignores the label smoothing; its "aot" does not, and of one pair there is nothing to sort
    "cdpo": Case(our.CDPO(beta=0.2, epsilon=0.15), dpo("aot", beta=0.2, label_smoothing=0.15), alone=True),
    "robust_dpo": Case(our.RobustDPO(beta=0.2, epsilon=0.15), dpo("robust", beta=0.2, label_smoothing=0.15)),
    "ln_dpo": Case(our.LNDPO(beta=2.0), dpo("sigmoid_norm", beta=2.0)),
    "ln_dpo with a margin": Case(our.LNDPO(beta=2.0, gamma=0.7), dpo("sigmoid_norm", beta=2.0), shift=margin_per_token),
    "ld_dpo": Case(our.LDDPO(beta=0.2, alpha=0.4), dpo("sigmoid", beta=0.2, ld_alpha=0.4)),
    # not a loss of TRL, but its DPO against a reference that counts tokens
    "r_dpo": Case(our.RDPO(beta=0.2, alpha=0.05), dpo("sigmoid", beta=0.2), shift=length_penalty),
    "wpo": Case(our.WPO(beta=0.2), dpo("sigmoid", beta=0.2, use_weighting=True)),
    "irpo": Case(
        our.IRPO(beta=0.2, nll_weight=0.6), dpo(["sigmoid", "sft"], beta=0.2, loss_weights=[1.0, 0.6]), alone=True
    ),
    "ipo": Case(our.IPO(tau=0.4), dpo("ipo", beta=0.4)),
    "exo": Case(our.EXO(beta=0.2, epsilon=0.01), dpo("exo_pair", beta=0.2, label_smoothing=0.01)),
    "nca": Case(our.NCA(beta=0.2), dpo("nca_pair", beta=0.2)),
    "sppo": Case(our.SPPO(beta=0.1), dpo("sppo_hard", beta=0.1)),
    # TRL has no shift δ
    "bco": Case(our.BCO(beta=0.2), dpo("bco_pair", beta=0.2), shift=centre),
    "aot": Case(our.AOT(beta=0.2), dpo("aot", beta=0.2)),
    "apo_zero": Case(our.APOZero(beta=0.2), dpo("apo_zero", beta=0.2)),
    # KTOTrainer takes a mean over examples, and a pair is two of them
    "apo_zero, unpaired": Case(our.APOZero(beta=0.2), kto(loss_type="apo_zero_unpaired", beta=0.2), times=2.0),
    "apo_down": Case(our.APODown(beta=0.2), dpo("apo_down", beta=0.2)),
    "discopop": Case(our.DiscoPOP(beta=0.05, tau=0.2), dpo("discopop", beta=0.05, discopop_tau=0.2)),
    # the same mean, but here the ½ is in our formula
    "kto": Case(
        our.KTO(beta=0.2, desirable_weight=1.2, undesirable_weight=0.7),
        kto(beta=0.2, desirable_weight=1.2, undesirable_weight=0.7),
    ),
    "cpo": Case(our.CPO(beta=0.2, nll_weight=0.6), cpo("sigmoid", beta=0.2, cpo_alpha=0.6), alone=True),
    # TRL divides γ by β and multiplies all by β: its γ is the margin itself, as ours
    "simpo": Case(our.SimPO(beta=2.0, gamma=0.7), cpo("simpo", beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0)),
    "alphapo": Case(
        our.AlphaPO(alpha=0.25, beta=2.0, gamma=0.7),
        cpo("simpo", alpha=0.25, beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0),
    ),
    # TRL's hinge is max(0, 1 − β Δ); at β = 1/δ, times δ, it is max(0, δ − Δ), and λ/δ becomes λ
    "slic": Case(
        our.SLiC(delta=2.5, nll_weight=0.5), cpo("hinge", beta=1 / 2.5, cpo_alpha=0.5 / 2.5), alone=True, times=2.5
    ),
    # TRL's NLL counts the prompt too, all but its first token, which nothing predicts: of one token, nothing
    "orpo": Case(our.ORPO(odds_weight=0.6), orpo(beta=0.6), alone=True, prompt=1),
}

NO_PEER = {
    "rrhf": "TRL has no rank loss on averages",
    "dpop": "TRL has no penalty on a chosen response that falls",
    "simper": "TRL has no loss on inverse perplexities",
    "chi_po": "TRL's f-divergences are the reverse and forward KL, Jensen–Shannon and α; none is χPO's mixture",
    "sampo": "TRL draws no tokens",
}


# --- both sides


class Found(NamedTuple):
    """A mean loss and its gradient by parameter."""

    loss: float
    gradient: dict[str, Tensor]


def gradient_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def our_side(objective: Objective, world: World) -> Found:
    loss = PairLoss(objective, world.policy, world.pairs, world.known, "train", seed=0)
    world.policy.model.zero_grad()
    [charts] = accumulate(Batch(np.arange(PAIRS)), [loss], MICRO, Alone())
    return Found(charts["loss"].item(), gradient_of(world.policy.model))


def their_side(case: Case, world: World, folder: Path) -> Found:
    trainer = case.peer.build(world, folder)
    examples = case.peer.examples(world)
    if case.shift:
        trainer.precompute_ref_logps = True
        examples = shifted(examples, world.known, case.shift(case.objective, world))
    parts = [[example] for example in examples] if case.alone else [examples]
    losses = [trainer.compute_loss(trainer.model, trainer.data_collator(part)) for part in parts]
    loss = case.times * torch.stack(losses).mean()
    loss.backward()
    return Found(loss.item(), gradient_of(trainer.model))


def shifted(examples: Examples, known: ReferenceLogps, by: tuple[Tensor, Tensor]) -> Examples:
    """The examples with a reference of their own, as TRL takes it when it was computed before."""
    both = zip((known.chosen + by[0]).tolist(), (known.rejected + by[1]).tolist(), strict=True)
    references = ({"ref_chosen_logps": chosen, "ref_rejected_logps": rejected} for chosen, rejected in both)
    return [example | reference for example, reference in zip(examples, references, strict=True)]


def assert_same(one: Found, other: Found) -> None:
    assert one.loss == pytest.approx(other.loss, rel=SAME)
    largest = max(slope.abs().max().item() for slope in other.gradient.values())
    torch.testing.assert_close(one.gradient, other.gradient, rtol=SAME, atol=SAME * largest)


def slightly_off(objective: Any) -> Iterator[Objective]:
    """The objective with one hyperparameter a percent larger, for each that is not 0."""
    values = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return (replace(objective, **{name: value * 1.01}) for name, value in values.items() if value)


# --- the tests


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(name, world, tmp_path):
    case = CASES[name]
    world = case.of(world)
    expected = their_side(case, world, tmp_path)
    assert all(slope.any() for slope in expected.gradient.values())
    assert_same(our_side(case.objective, world), expected)
    for wrong in slightly_off(case.objective):
        with pytest.raises(AssertionError):
            assert_same(our_side(wrong, world), expected)


def test_the_inputs_leave_nothing_out(world):
    """KTO's reference point is above 0, SLiC's hinge is on and off, and AOT compares other pairs than DPO does."""
    mismatched, (chosen, rejected) = world.known.mismatched, policy_logps(world)
    assert score_all(world.policy, world.pairs.prompts, mismatched.responses).mean() > mismatched.logps.mean()
    hinge = chosen - rejected < CASES["slic"].objective.delta
    assert hinge.any()
    assert not hinge.all()
    assert (chosen - rejected).argsort().tolist() != (world.known.chosen - world.known.rejected).argsort().tolist()


def test_every_other_method_is_known_to_have_no_peer():
    """A new method is two files and two rows, none of them here; it is named until it has a case or a reason."""
    compared = {name for name, method in OBJECTIVES.items() if method in {type(c.objective) for c in CASES.values()}}
    assert set(NO_PEER) <= set(OBJECTIVES) - compared
    if unnamed := set(OBJECTIVES) - compared - set(NO_PEER):
        pytest.skip(f"compared with nothing yet: {', '.join(sorted(unnamed))}")
