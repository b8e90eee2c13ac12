"""How long plans take that are far larger than any sweep of today.

    python benchmarks/plan.py            1,000 and 10,000 trials of one method

Prints a row per size: seconds to plan, to write the plan as JSON lines, to read it, and bytes of that file.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from posweep.config import configure
from posweep.plan import Plan, make_plan
from posweep.settings import Configuration


def sweep(trials: int) -> Configuration:
    """DPO over as many values of β as learning rates."""
    side = math.isqrt(trials)
    grid = {
        "beta": [i / side for i in range(1, side + 1)],
        "learning_rate": [i * 1e-6 for i in range(1, trials // side + 1)],
    }
    smoke = configure(["sweep=smoke", "method=[dpo]"])
    blocks = ({"method": "dpo", "grid": grid},)
    return dataclasses.replace(smoke, sweep=dataclasses.replace(smoke.sweep, blocks=blocks))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def main() -> None:
    """A row per size."""
    print(f"{'trials':>8} {'plan, s':>8} {'write, s':>9} {'read, s':>8} {'MB':>6}")
    for trials in (1_000, 10_000):
        configuration = sweep(trials)
        plan, planning = timed(lambda configuration=configuration: make_plan(configuration))
        text, writing = timed(plan.to_jsonl)
        _, reading = timed(lambda text=text: Plan.from_jsonl("smoke", text))
        print(f"{len(plan):>8} {planning:>8.2f} {writing:>9.2f} {reading:>8.2f} {len(text) / 1e6:>6.1f}")


if __name__ == "__main__":
    main()
