"""Which of TRL's settings make it fastest on this machine, so that the race is against the best of them.

    python benchmarks/race/settings.py [TURNS]

DPO's and SimPO's trainers, one thread, all settings in turn: medians of the processor's seconds and of wall time. Beside
them the trainers on posweep's batches, and posweep itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from clock import Clock
from course import Course, lay_out
from opponent import BY_LENGTH, Opponent
from table import table

VARIANTS: dict[str, dict[str, Any]] = {
    "as raced": {},
    "group_by_length": BY_LENGTH,
    "unfused AdamW": {"optim": "adamw_torch"},
    "one log": {"logging_steps": 1000},
}


def main(turns: int) -> None:
    """Train with each variant in turn and print a table."""
    folder = Path("outputs/race/settings").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    course = lay_out(folder / "course", 3)
    course.put_pairs(folder)
    opponent = Opponent(course, folder, keeps=True, tracked=False)
    chosen = {trial["method"]: trial for trial in course.trials if trial["method"] != "ln_dpo"}
    fed, posweep = Opponent(course, folder, keeps=True, our_order=True, tracked=False), ours(course, course.folder)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(turns + 1):
        for name, others in VARIANTS.items():
            for method, trial in chosen.items():
                found.setdefault((name, method), []).append(seconds(opponent, trial, others))
        for method, trial in chosen.items():
            found.setdefault(("posweep's batches", method), []).append(seconds(fed, trial, {}))
            found.setdefault(("posweep", method), []).append(posweep(trial))
    rows = []
    for name in (*VARIANTS, "posweep's batches", "posweep"):
        cells = [[median(times) for times in zip(*found[name, method][1:], strict=True)] for method in chosen]
        rows.append([name, *(f"{value:.2f}" for pair in cells for value in pair)])
    print(table(["", *(f"{method}, {what}" for method in chosen for what in ("processor s", "wall s"))], rows))


def ours(course: Course, folder: Path) -> Callable[[dict[str, Any]], tuple[float, float]]:
    """posweep's own training of a trial, timed likewise."""
    from posweep.artifacts.shared import prepare
    from posweep.artifacts.store import Store
    from posweep.config import configure
    from posweep.policy.reproducible import threads
    from posweep.records import TrialSpec
    from posweep.trial.course import Course as Trial
    from posweep.trial.training import train

    shared = prepare(configure(course.facts["overrides"]), Store(folder / "artifacts"), measured=False)

    def once(trial: dict[str, Any]) -> tuple[float, float]:
        began, processor = time.perf_counter(), time.process_time()
        with threads(1):
            train(TrialSpec.from_json(trial), shared, Trial(), measured=False)
        return time.process_time() - processor, time.perf_counter() - began

    return once


def seconds(opponent: Opponent, trial: dict[str, Any], others: dict[str, Any]) -> tuple[float, float]:
    """Of the processor and of the clock, for the steps of one training."""
    clock = Clock()
    trainer = opponent.train(trial, *opponent.models(), clock, **others)
    return trainer.lap.processor, clock.seconds["train"]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
