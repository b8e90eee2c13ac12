"""What the parts of this chapter share: a piece of a chapter, the methods that can be compared, and words for luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from posweep.report.chapter import Column
from posweep.report.tables import Tables, is_win_rate
from posweep.robustness import Interval, Sample, configuration_scores, crossed_interval, typical, with_scores
from posweep.robustness.crossed import Statistic

Table = NDArray[np.float64]

RATE = "learning_rate"
STATISTICS = {"median": "median", "iqm": "IQM", "p10": "10th pct."}
SEED = 0  # of every draw: the same record gives the same bytes
LEVEL, PERCENT = 0.05, "5 %"
COVERED = {1: "28 to 95 %", 2: "88 to 97 %", 3: "92 to 98 %"}
"""Of simulated sweeps with so few seeds, in how many a 95 % interval held what other seeds and prompts would give."""


def compared(tables: Tables) -> list[str]:
    """The methods with a score on the primary metric, in the order of the plan."""
    return [method for method in tables.methods if with_scores(tables.scores(method)).size]


def scores(tables: Tables, methods: Sequence[str]) -> list[Table]:
    """The primary metric's scores of each method."""
    return [tables.scores(method) for method in methods]


def middles(values: Sequence[Table]) -> Table:
    """The interquartile mean of each method's configurations, (methods,)."""
    return np.array([typical(configuration_scores(table, Sample.everything(*table.shape[1:])))[0] for table in values])


def drawn(tables: Tables) -> bool:
    """Whether seeds or prompts can be drawn at all: without, there is no interval and no p-value."""
    return len(tables.seeds) > 1 or tables.prompts() > 1


def few_seeds(tables: Tables) -> str:
    """What intervals of so few seeds are worth, as measured by simulation; empty from five on."""
    seeds = len(tables.seeds)
    if seeds == 1:
        return (
            "One seed: every interval here is over prompts and holds for this seed. How far another seed would move "
            f"the numbers cannot be known from it: in simulated sweeps such intervals held what other seeds give in "
            f"{COVERED[1]} of cases, least where seeds matter most, where 95 % were asked for."
        )
    if seeds in COVERED:
        return (
            f"{seeds} seeds are few: in simulated sweeps intervals like these held what other seeds give in "
            f"{COVERED[seeds]} of cases, least where seeds matter most, where 95 % were asked for."
        )
    return ""


def described(scores: Table) -> Table:
    """Median, interquartile mean and 10th percentile of the configurations with a score, (replicates, 3); else NaN."""
    kept = scores[:, ~np.isnan(scores).any(axis=0)]
    if not kept.shape[1]:
        return np.full((len(scores), len(STATISTICS)), np.nan)
    return np.stack([np.median(kept, axis=1), typical(kept), np.percentile(kept, 10, axis=1)], axis=1)


def interval(tables: Tables, statistic: Statistic) -> Interval:
    """A statistic of the primary metric with its interval; that of a share stays between 0 and 1."""
    found = crossed_interval(statistic, len(tables.seeds), tables.prompts(), np.random.default_rng(SEED))
    if not is_win_rate(tables.metric):
        return found
    return dataclasses.replace(found, low=np.clip(found.low, 0, 1), high=np.clip(found.high, 0, 1))


def described_values(found: Interval, side: str) -> dict[str, float]:
    """`described` with its ends, as columns `<statistic>_<side>`, `…_low` and `…_high`."""
    values: dict[str, float] = {}
    for place, name in enumerate(STATISTICS):
        numbers = (float(part[place]) for part in (found.value, found.low, found.high))
        values |= dict(zip((f"{name}_{side}{end}" for end in ("", "_low", "_high")), numbers, strict=True))
    return values


def described_columns(sides: Mapping[str, str]) -> dict[str, Column]:
    """How those columns are read: every statistic on one side after the other."""
    return {
        f"{name}_{side}": Column(f"{words}, {how}", interval=(f"{name}_{side}_low", f"{name}_{side}_high"))
        for name, words in STATISTICS.items()
        for side, how in sides.items()
    }
