"""How fast responses are drawn and compared with the SFT model's: `make bench`.

    python benchmarks/generation.py

Three tables on one thread. What each way of saving work brings alone: the same responses of the demo sweep drawn with and
without it, in turn; CPU seconds, medians. How far from what the machine can do, for models of several sizes: CPU time of a
step beside what its products, its memory traffic and the dispatch of its operations take at least, each by a rate measured
here. And the exact KL.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posweep.artifacts.shared import Shared, prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.policy import divergence, sample
from posweep.policy.base import Policy
from posweep.policy.divergence import kl_all
from posweep.policy.reproducible import stream, threads
from posweep.policy.scratch import new_policy
from posweep.settings import ScratchModel

TURNS = 5
SIZES = ((96, 2, 4), (256, 4, 8), (512, 8, 16))
"""Width, layers, heads."""
ROWS, STEPS, PROMPT = 256, 24, 16


def main() -> None:
    """Measure and print."""
    made = Store(Path("outputs/bench/artifacts"), lambda kind: print(f"making {kind} …", file=sys.stderr))
    shared = prepare(configure(["sweep=demo"]), made)
    with threads(1):
        savings(shared)
        limits(shared)
        comparing(shared)


# --- each saving alone


def savings(shared: Shared) -> None:
    """What the demo sweep's responses cost with everything, without one thing at a time, and without any."""
    works: dict[str, Callable[[], Any]] = {"everything": lambda: _drawn(shared)}
    works |= {f"without {name}": _under(without, shared) for name, without in WITHOUT.items()}
    works["without sets drawn together"] = lambda: [_drawn(shared, place) for place in range(len(shared.evaluation))]
    works["without any"] = _without_any(shared)
    spent = interleaved(works)
    whole = spent["everything"]
    lengths = [len(one.tokens) for one in _drawn(shared)]
    print(f"{len(lengths)} responses of the demo sweep, {sum(lengths)} tokens")
    print(f"{'':<44}{'CPU s':>8}{'tokens/s':>10}{'× everything':>14}")
    for name, seconds in spent.items():
        print(f"{name:<44}{seconds:>8.3f}{sum(lengths) / seconds:>10.0f}{seconds / whole:>14.2f}")
    print()


WITHOUT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "rows leaving once they have ended": lambda: patch.object(sample, "OVER", 2.0),
    "room for keys and values": lambda: patch.object(sample, "make_room", lambda cache: None),
    "leaving the mask out": lambda: patch.object(sample, "_padded", lambda prompts: True),
    "opening the model once a batch": lambda: patch.object(Policy, "opened", _opened_each_time),
}


@contextmanager
def _opened_each_time(policy: Policy, wanted: Callable[[Tensor], Tensor]) -> Iterator[Any]:
    yield lambda **inputs: _run(policy, wanted, inputs)


_OPENED = Policy.opened


def _run(policy: Policy, wanted: Callable[[Tensor], Tensor], inputs: Mapping[str, Any]) -> Any:
    with _OPENED(policy, wanted) as model:
        return model(**inputs)


def _under(without: Callable[[], AbstractContextManager[Any]], shared: Shared) -> Callable[[], Any]:
    def work() -> Any:
        with without():
            return _drawn(shared)

    return work


def _without_any(shared: Shared) -> Callable[[], Any]:
    def work() -> Any:
        with ExitStack() as stack:
            for without in WITHOUT.values():
                stack.enter_context(without())
            return [_drawn(shared, place) for place in range(len(shared.evaluation))]

    return work


def _drawn(shared: Shared, place: int | None = None) -> list[sample.Sampled]:
    """The responses of a trial that was not trained, to one set or to all of them."""
    sets = shared.evaluation if place is None else (shared.evaluation[place],)
    settings = shared.configuration.sample
    prompts = [prompt for one in sets for prompt in one.pairs.prompts]
    noise = [stream("trial", 0, 0, one.name).random((len(one.pairs), settings.max_new_tokens)) for one in sets]
    return sample.sample(shared.reference, prompts, np.concatenate(noise), batch_size=settings.batch_size)


def interleaved(works: Mapping[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, float]:
    """Median CPU seconds of each, all in turn so that what the machine does falls on all of them."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(turns):
        for name, work in works.items():
            began = time.process_time()
            work()
            spent[name].append(time.process_time() - began)
    return {name: median(seconds) for name, seconds in spent.items()}


# --- how far from the limit


@dataclasses.dataclass(frozen=True)
class Rates:
    """What this machine does on one thread: products and bytes a second, seconds an operation."""

    flops: float
    bytes: float
    dispatch: float


def limits(shared: Shared) -> None:
    """A step of generation beside what its parts take at least; they share one thread, so the least is their sum."""
    rates = measured_rates()
    print(f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s, {rates.dispatch * 1e6:.2f} µs an operation")
    titles = ("hidden × layers", "tokens/s", "ms a step", "products", "memory", "dispatch", "reached")
    print("".join(f"{title:>16}" for title in titles))
    for hidden, layers, heads in SIZES:
        settings = ScratchModel(hidden_size=hidden, layers=layers, heads=heads, context=256)
        policy = new_policy(settings, shared.reference.tokenizer)
        seconds, operations = step_seconds(policy)
        parts = least(policy, operations, rates)
        products, memory, dispatch = parts
        reached = (max(products, memory) + dispatch) / seconds  # arithmetic hides traffic, or the other way round
        cells = [
            f"{ROWS / seconds:.0f}",
            *(f"{1e3 * value:.2f}" for value in (seconds, *parts)),
            f"{100 * reached:.0f} %",
        ]
        print(f"{f'{hidden} × {layers}':>16}" + "".join(f"{cell:>16}" for cell in cells))
    print()


def measured_rates() -> Rates:
    """The best of several tries at a large product, a large copy, and an operation on one number."""
    left, right, large, one = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(2**25), torch.zeros(1)
    with torch.no_grad():
        flops = 2 * 1024**3 / best(lambda: left @ right)
        target = torch.empty_like(large).fill_(0)  # its pages are there before the clock runs
        copied = 2 * large.nbytes / best(lambda: target.copy_(large))
        dispatch = best(lambda: [one.add(one) for _ in range(1000)]) / 1000
    return Rates(flops, copied, dispatch)


def best(work: Callable[[], Any], tries: int = 9) -> float:
    """The fewest CPU seconds it took."""
    work()
    spent = []
    for _ in range(tries):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def step_seconds(policy: Policy) -> tuple[float, int]:
    """CPU seconds of a step behind the prompt, and its operations; nothing ends, so that every step has all rows."""
    rng = np.random.default_rng(0)
    endless = dataclasses.replace(policy, texts=dataclasses.replace(policy.texts, ends=()))
    prompts = rng.integers(5, policy.vocabulary, (ROWS, PROMPT)).tolist()

    def work(steps: int) -> Callable[[], Any]:
        return lambda: sample.sample(endless, prompts, rng.random((ROWS, steps)))

    spent = interleaved({"first": work(1), "all": work(1 + STEPS)}, turns=5)
    counted = [counter(work(steps)) for steps in (1, 2)]
    return (spent["all"] - spent["first"]) / STEPS, counted[1] - counted[0]


def counter(work: Callable[[], Any]) -> int:
    """Operations that reach a kernel, views included."""
    with _Counting() as counting:
        work()
    return counting.operations


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))


def least(policy: Policy, operations: int, rates: Rates) -> tuple[float, float, float]:
    """Seconds of products, memory traffic and dispatch in a step: every weight read once, every key and value too."""
    config = policy.model.config
    weights = sum(value.numel() for value in policy.model.parameters())  # the embedding is the head
    cached = ROWS * (PROMPT + STEPS / 2) * 2 * config.num_hidden_layers * config.hidden_size
    products = 2 * weights * ROWS + 2 * cached
    return products / rates.flops, 4 * (weights + cached) / rates.bytes, operations * rates.dispatch


# --- KL


def comparing(shared: Shared) -> None:
    """The exact KL along the responses, at the demo's vocabulary and at a large one."""
    drawn = [one.tokens for one in _drawn(shared)]
    prompts = [prompt for one in shared.evaluation for prompt in one.pairs.prompts]
    whole = {"cpu": 2**62}
    print(f"{'KL of all responses':<44}{'CPU s':>8}{'× chunks':>10}")
    for vocabulary in (shared.reference.vocabulary, 32_000):
        ours, theirs = (_widened(shared.reference, vocabulary, seed) for seed in (0, 1))
        count = len(prompts) if vocabulary < 1000 else 64

        def compare(ours: Policy = ours, theirs: Policy = theirs, count: int = count) -> Any:
            return kl_all(ours, theirs, prompts[:count], drawn[:count])

        def at_once(compare: Callable[[], Any] = compare) -> Any:
            with patch.object(divergence, "AT_ONCE", whole):
                return compare()

        spent = interleaved({"in chunks": compare, "at once": at_once}, turns=5)
        for name, seconds in spent.items():
            title = f"{count} responses, {vocabulary} words, {name}"
            print(f"{title:<44}{seconds:>8.3f}{seconds / spent['in chunks']:>10.2f}")


def _widened(policy: Policy, vocabulary: int, seed: int) -> Policy:
    """The demo model with another vocabulary and random weights, under the same texts."""
    config = type(policy.model.config).from_dict({**policy.model.config.to_dict(), "vocab_size": vocabulary})
    torch.manual_seed(seed)
    return dataclasses.replace(policy, model=type(policy.model)(config).eval())


if __name__ == "__main__":
    main()
