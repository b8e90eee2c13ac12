"""What it brings to train several trials in one pass, and to draw their responses in one.

    python benchmarks/fused.py

Seconds of a trial's training step and of its responses, where K trials share every pass, beside those of a trial alone
(K = 1, which is the plain path). Turns of all K alternate in one process; medians. On a CPU they are CPU seconds of one
thread; where there is a GPU, seconds on it, for a larger model in bfloat16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from posweep.policy.base import Policy
from posweep.policy.batch import Batch, Losses, PerItem
from posweep.policy.gradient import Alone, Passes
from posweep.policy.load import trained
from posweep.policy.packed import packs
from posweep.policy.sample import sample
from posweep.policy.score import lay_out, sequence_logps
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.policy.stack import Stack
from posweep.policy.train import Training, optimise_all
from posweep.settings import ScratchModel, TrainSettings

COUNTS = (1, 2, 4, 8)
TURNS = 7
STEPS, TOKENS = 4, 32
"""Of a training that is timed, and new ones of a response."""
SHAPES = {"cpu": [(32, 1, 8), (96, 2, 8), (96, 2, 32)], "cuda": [(768, 12, 32)]}
"""Hidden size, layers, pairs a step."""


def main() -> None:
    """Print a table for each model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    for hidden, layers, pairs in SHAPES[device]:
        print(f"\nhidden {hidden} × {layers} layers, {pairs} pairs a step, {device}")
        print("| trials in a pass | training, ms a trial and step | × | 64 responses, ms a trial | × |")
        print("|---|---|---|---|---|")
        found = measured(made(hidden, layers, device), pairs)
        for count, (step, drawn) in found.items():
            print(f"| {count} | {step:.1f} | {found[1][0] / step:.2f} | {drawn:.0f} | {found[1][1] / drawn:.2f} |")


def made(hidden: int, layers: int, device: str) -> Policy:
    """A Llama with random weights over words."""
    words = [f"w{i}" for i in range(80 if device == "cpu" else 4000)]
    dtype = "float32" if device == "cpu" else "bfloat16"
    settings = ScratchModel(
        hidden_size=hidden, layers=layers, heads=max(2, hidden // 64), dtype=dtype, tokenizer="words"
    )
    policy = new_policy(settings, make_tokenizer(settings, [" ".join(words)]))
    policy.model.to(device).eval()
    return replace(policy, packs=packs(policy.model))


def measured(policy: Policy, pairs: int) -> dict[int, tuple[float, float]]:
    """Milliseconds of a trial by how many share a pass: of a training step, and of its responses."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 80, 8).tolist() for _ in range(64)]
    answers = [rng.integers(5, 80, rng.integers(8, 24)).tolist() for _ in range(2 * pairs)]
    noise, turns = rng.random((len(prompts), TOKENS)), {count: list[tuple[float, float]]() for count in COUNTS}
    works = {count: tuple(_work(policy, count, prompts, answers, noise)) for count in COUNTS}
    for _ in range(TURNS + 1):
        for count, (step, draw) in works.items():
            turns[count].append((_seconds(step, policy) / STEPS / count, _seconds(draw, policy) / count))
    return {
        count: tuple(1e3 * statistics.median(each) for each in zip(*rows[1:], strict=True))  # type: ignore[misc]
        for count, rows in turns.items()
    }


def _work(
    policy: Policy, count: int, prompts: list[list[int]], answers: list[list[int]], noise: np.ndarray
) -> Iterator[Callable[[], None]]:
    """A step of so many trials, and their responses."""
    stack = Stack.of(policy, count) if count > 1 else None
    whole, members = (stack.policy, stack.members()) if stack else (policy, (policy,))
    weights, passes = (stack.weights, stack) if stack else ([trained(policy)], Alone())
    pairs = len(answers) // 2

    def loss_of(one: Policy) -> PerItem:
        def loss(items: np.ndarray) -> Losses:
            asked = [prompts[i % len(prompts)] for i in items]
            replies = [answers[i] for i in items] + [answers[pairs + i] for i in items]
            chosen, rejected = sequence_logps(one, lay_out(one, asked * 2, replies)).chunk(2)
            return Losses(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)), {})

        return PerItem(loss)

    yield lambda: _step(whole, [(own, loss_of(one)) for own, one in zip(weights, members, strict=True)], pairs, passes)
    yield lambda: _draw(whole, prompts, noise, count)


def _step(policy: Policy, trials: list, pairs: int, passes: Passes) -> None:  # type: ignore[type-arg]
    policy.model.train()
    batch = Batch(np.arange(pairs))
    optimise_all([Training(own, loss, TrainSettings(), STEPS) for own, loss in trials], [batch] * STEPS, {}, passes)


def _draw(policy: Policy, prompts: list[list[int]], noise: np.ndarray, count: int) -> None:
    policy.model.eval()
    sample(policy, prompts, np.tile(noise, (count, 1)), groups=count, batch_size=len(prompts) * count)


def _seconds(work: Callable[[], None], policy: Policy) -> float:
    """Of the processor, or of the GPU."""
    gpu = policy.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize()
    began = clock()
    work()
    if gpu:
        torch.cuda.synchronize()
    return clock() - began


if __name__ == "__main__":
    main()
