"""What an objective costs in a training step of the demo model: `make bench`.

    python benchmarks/objectives.py [METHOD …]

For each method, over batches of the methods sweep: the median time of the objective itself (its losses, rewards and
charts, and the way back from the losses to the log-probs), of a whole step, their ratio, and the step beside DPO's.
Methods that need more of the policy than sums (KTO's mismatched pairs, WPO's collisions) pay for it in the last column.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from posweep.artifacts.shared import Shared, prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.plan import make_plan
from posweep.policy.batch import Batch, batches
from posweep.policy.load import trained
from posweep.policy.reproducible import threads
from posweep.policy.train import optimise, reset
from posweep.records import TrialSpec
from posweep.settings import TrainSettings
from posweep.trial.loss import PairLoss, preference_loss

STEPS = 24
WARM_UP = 4
ROUNDS = 5  # all methods in turn, so that what else the machine does falls on all of them


def main(methods: Sequence[str]) -> None:
    """Measure each method in turn and print a table."""
    chosen = [f"method=[{','.join(methods)}]"] if methods else []
    configuration = configure(["sweep=methods", *chosen])
    store = Store(Path("outputs/bench/artifacts"), lambda kind: print(f"making {kind} …", file=sys.stderr))
    shared = prepare(configuration, store)
    first = {spec.method: spec for spec in reversed(list(make_plan(configuration)))}
    with threads(1):
        measured(next(iter(first.values())), shared)  # the first of all pays for what is loaded late
        found = [{method: measured(first[method], shared) for method in configuration.methods} for _ in range(ROUNDS)]
    rows = {method: tuple(map(median, zip(*(turn[method] for turn in found), strict=True))) for method in found[0]}
    dpo = rows.get("dpo", next(iter(rows.values())))[1]
    print(f"{'method':<12}{'objective µs':>14}{'step ms':>10}{'share %':>9}{'step / DPO':>12}")
    for method, (objective, step) in rows.items():
        print(
            f"{method:<12}{objective * 1e6:>14.0f}{step * 1e3:>10.1f}{100 * objective / step:>9.2f}{step / dpo:>12.2f}"
        )


def measured(spec: TrialSpec, shared: Shared) -> tuple[float, float]:
    """Median seconds of the objective and of a whole step."""
    reset(trained(shared.policy), shared.weights)
    loss, plan = preference_loss(spec, shared), batches(shared.pairs.lengths(), 32, STEPS)
    return median(objective_seconds(loss, batch) for batch in plan[WARM_UP:]), step_seconds(loss, shared, plan)


def objective_seconds(loss: PairLoss, batch: Batch) -> float:
    """From the policy's columns to the losses, and from the losses back to the columns."""
    with torch.no_grad():
        columns = {name: value.requires_grad_() for name, value in loss.forward(batch).items()}

    def there_and_back() -> None:
        mean = loss.losses(batch, columns).losses.sum() / len(batch)
        torch.autograd.grad(mean, list(columns.values()), allow_unused=True)

    there_and_back()
    return seconds(there_and_back)


def step_seconds(loss: PairLoss, shared: Shared, plan: Sequence[Batch]) -> float:
    """A step of the loop, from batch to new weights: the median of the times between steps."""
    stamps: list[float] = []
    looks = {step: lambda: stamps.append(time.perf_counter()) for step in range(1, len(plan) + 1)}
    optimise(shared.policy.model, plan, loss, TrainSettings(), looks)
    return median(later - earlier for earlier, later in zip(stamps[WARM_UP:], stamps[WARM_UP + 1 :], strict=False))


def seconds(work: Callable[[], None]) -> float:
    """How long it takes once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
