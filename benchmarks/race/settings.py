"""Which of TRL's settings make it fastest on this machine, so that the race is against the best of them.

    python benchmarks/race/settings.py [TURNS]

DPO's and SimPO's trainers, one thread, all settings in turn: medians of the processor's seconds and of wall time.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

from clock import Clock
from course import lay_out
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
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(turns + 1):
        for name, others in VARIANTS.items():
            for method, trial in chosen.items():
                found.setdefault((name, method), []).append(seconds(opponent, trial, others))
    rows = []
    for name in VARIANTS:
        cells = [[median(times) for times in zip(*found[name, method][1:], strict=True)] for method in chosen]
        rows.append([name, *(f"{value:.2f}" for pair in cells for value in pair)])
    print(table(["", *(f"{method}, {what}" for method in chosen for what in ("processor s", "wall s"))], rows))


def seconds(opponent: Opponent, trial: dict[str, Any], others: dict[str, Any]) -> tuple[float, float]:
    """Of the processor and of the clock, for the steps of one training."""
    clock = Clock()
    trainer = opponent.train(trial, *opponent.models(), clock, **others)
    return trainer.lap.processor, clock.seconds["train"]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
