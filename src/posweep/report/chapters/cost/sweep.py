"""The scores that every part of the chapter reads: wins of the configurations that finished, their KL, their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from posweep.records import Opponents
from posweep.report.tables import SPLIT_SEED, Diverged, Tables, is_win_rate, title
from posweep.robustness import Interval, Sample, configuration_scores, halves
from posweep.robustness.best import Halves
from posweep.robustness.crossed import finished

Table = NDArray[np.float64]

SEED = 0
SPLITS = 4
SIGNIFICANT = 0.05
SAID = 6
"""Methods that get a sentence each; of more, the table speaks."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's wins and what they cost; every table is (configurations, seeds, prompts), NaN where a run has no score.

    Attributes:
        tables: of the sweep.
        metric: the primary metric where that is a win-rate; elsewhere wins against the SFT model on the same set.
        kept: which of a method's configurations have a win-rate, by method; methods without any are left out.
        diverged: what a diverged trial scores.
    """

    tables: Tables
    metric: str
    kept: dict[str, NDArray[np.intp]] = field(repr=False)
    diverged: Diverged = "dropped"

    @classmethod
    def of(cls, tables: Tables) -> Sweep | None:
        """None where no trial has a win-rate."""
        return cls.with_metric(
            tables, tables.metric if is_win_rate(tables.metric) else f"{tables.place}/win_rate_vs_sft"
        )

    @classmethod
    def with_metric(cls, tables: Tables, metric: str, diverged: Diverged = "dropped") -> Sweep | None:
        """The same of another win-rate (of another judge, on another set), or with diverged trials at the worst."""
        there = {m: finished(tables.scores(m, metric, diverged)).any(axis=1) for m in tables.methods}
        kept = {method: np.flatnonzero(found) for method, found in there.items() if found.any()}
        return cls(tables, metric, kept, diverged) if kept else None

    @property
    def methods(self) -> list[str]:
        """Those with a win-rate, in the order of the plan."""
        return list(self.kept)

    @property
    def place(self) -> str:
        """The evaluation set."""
        return self.metric.partition("/")[0]

    @property
    def label(self) -> str:
        """The metric on an axis."""
        against = {"sft": "against SFT", "chosen": "against chosen"}.get(self.versus, "")
        return f"win-rate {against} ({self.place})".replace("  ", " ")

    @property
    def versus(self) -> str:
        """What responses are compared with: `sft` or `chosen`."""
        return self.metric.rpartition("win_rate_vs_")[2]

    @property
    def judge(self) -> str:
        """The judge behind the metric; "" where the record does not name it."""
        named = self.metric.split("/")[1:-1]
        listed = str(self.tables.record.facts.get("judges", "")).split(", ")
        return named[0] if named else listed[0]

    @property
    def wins_name(self) -> str:
        """How the wins of a response are named, as in `Response.wins`."""
        return "/".join([*self.metric.split("/")[1:-1], f"vs_{self.versus}"])

    @property
    def judged(self) -> str:
        """The judge in a sentence."""
        return self.judge or "the judge"

    @cached_property
    def wins(self) -> dict[str, Table]:
        """By method, of the configurations kept."""
        return {method: self.scores(method, self.metric) for method in self.kept}

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.tables.seeds)

    @cached_property
    def prompts(self) -> int:
        """How many stand behind the wins; 1 where there are no rows."""
        return max(table.shape[2] for table in self.wins.values())

    def scores(self, method: str, metric: str) -> Table:
        """Any metric of the configurations kept."""
        return self.tables.scores(method, metric, self.diverged)[self.kept[method]]

    def beside(self, method: str, measure: str) -> Table:
        """A measure on the set, in the shape of the wins; where it has other rows, a run's mean stands at every prompt."""
        found, wins = self.scores(method, f"{self.place}/{measure}"), self.wins[method]
        return found if found.shape == wins.shape else np.broadcast_to(found.mean(axis=2, keepdims=True), wins.shape)

    def rng(self) -> Generator:
        """A generator that is the same for every statistic: their replicates are the same draws."""
        return np.random.default_rng(SEED)

    def splits(self, count: int = SPLITS) -> list[Halves]:
        """The halves that choose and score, the same for all methods; none without prompts to split."""
        return halves(self.prompts, np.random.default_rng(SPLIT_SEED), count) if self.prompts > 1 else []

    @cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """The prompts of each evaluation set in the order of the scores' last axis, by their index in the set."""
        rows = next(iter(self.tables.record.responses.values()), ())
        places = dict.fromkeys(row.set for row in rows)
        return {place: tuple(sorted({row.index for row in rows if row.set == place})) for place in places}

    def opponents(self, place: str, prompts: int) -> list[Opponents] | None:
        """What responses were compared with, in the order of that many prompts; None where any is not recorded."""
        known = {row.index: row for row in self.tables.record.opponents if row.set == place}
        order = self.indices.get(place, ())
        return [known[i] for i in order] if len(order) == prompts and set(order) <= set(known) else None


def means(table: Table) -> Table:
    """Every configuration's mean over prompts and the seeds that finished, (configurations,)."""
    return configuration_scores(table, Sample.everything(*table.shape[1:]))[0]


def and_words(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def titles(methods: Sequence[str]) -> str:
    """Methods in a sentence."""
    return and_words([title(method) for method in methods])


def ends(name: str, found: Interval) -> dict[str, float]:
    """One value of an interval and its ends as columns of a table."""
    return {name: float(found.value), f"{name}_low": float(found.low), f"{name}_high": float(found.high)}


def points(value: float) -> str:
    """A difference of win-rates in points: `+3.1`, `−0.4`."""
    return f"{100 * value:+.1f}".replace("-", "−")
