"""Several sweeps side by side: which methods and configurations they have in common, and on which prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.records import Response, TrialSpec
from posweep.report.points import default_point, levels, logs
from posweep.report.tables import Diverged, Tables
from posweep.robustness import Levels, Tasks, nearest
from posweep.robustness.crossed import what_was_drawn

Table = NDArray[np.float64]

ANY = "any method"
"""The row of all methods together: the best configuration, whichever method it is of."""


@dataclass(frozen=True)
class Shared:
    """The configurations of a method that two sweeps have in common, in the order of the first.

    Attributes:
        method: its name.
        points: each configuration's values.
        columns: hyperparameter → values, of those that vary among them.
        one: scores on the first sweep, (configurations, seeds, prompts).
        other: scores of the same configurations on the second.
        default: the configuration that lies nearest to the method's default; None of a method without.
    """

    method: str
    points: tuple[dict[str, Any], ...]
    columns: Levels
    one: Table
    other: Table
    default: int | None = None

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which configurations have a score on both."""
        return scored(self.one) & scored(self.other)

    def kept(self, rows: NDArray[np.bool_]) -> Shared:
        """Some of the configurations."""
        points = tuple(point for point, keep in zip(self.points, rows, strict=True) if keep)
        return Shared(self.method, points, _varied(pd.DataFrame(points)), self.one[rows], self.other[rows])


@dataclass(frozen=True)
class Comparison:
    """Several sweeps as tasks on which the same methods were tried."""

    tables: tuple[Tables, ...]

    @property
    def names(self) -> list[str]:
        """Of the sweeps."""
        return [one.record.name for one in self.tables]

    @property
    def methods(self) -> list[str]:
        """Every method of any sweep, in order of appearance."""
        return list(dict.fromkeys(method for one in self.tables for method in one.methods))

    def shared(self, one: int, other: int, diverged: Diverged = "dropped") -> list[Shared]:
        """What two sweeps have in common, by method; methods without a common configuration are left out."""
        first, second = self.tables[one], self.tables[other]
        found = (_shared(first, second, method, diverged) for method in first.methods if method in second.methods)
        return [common for common in found if common.points]

    def tasks(self, one: int, other: int) -> Tasks:
        """How many seeds and prompts two sweeps have, and whether the prompts are the same."""
        first, second = self.tables[one], self.tables[other]
        counts = (first.prompts(), second.prompts())
        same = counts[0] == counts[1] > 1 and _prompts(first) == _prompts(second)
        return Tasks((len(first.seeds), len(second.seeds)), counts, same)

    @property
    def over(self) -> str:
        """What intervals of two sweeps are over, for a caption."""
        drawn = [
            f"{tables.record.name}: {what_was_drawn(len(tables.seeds), tables.prompts())}" for tables in self.tables
        ]
        common = any(self.tasks(one, other).same_prompts for one, other in self.pairs())
        return "; ".join(drawn) + ("; the same prompts of two sweeps are drawn once for both" if common else "")

    def same_trials(self, one: int, other: int) -> int:
        """How many trials belong to both sweeps: they were run once, and their luck is the same."""
        first, second = ({spec.key for spec in self.tables[i].record.plan} for i in (one, other))
        return len(first & second)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Any two sweeps."""
        return combinations(range(len(self.tables)), 2)

    def directions(self) -> Iterator[tuple[int, int]]:
        """Any two sweeps, from the one to the other."""
        return permutations(range(len(self.tables)), 2)


def scored(table: Table) -> NDArray[np.bool_]:
    """Which configurations of (configurations, seeds, prompts) have a score with any seed."""
    return np.asarray(np.any(np.all(np.isfinite(table), axis=2), axis=1), dtype=np.bool_)


def _shared(first: Tables, second: Tables, method: str, diverged: Diverged) -> Shared:
    names = sorted({n for tables in (first, second) for s in _configurations(tables, method) for n in s.point})
    places = [
        {_point(spec, names): row for row, spec in enumerate(_configurations(t, method))} for t in (first, second)
    ]
    common = [point for point in places[0] if point in places[1]]
    one, other = (
        tables.scores(method, diverged=diverged)[[place[point] for point in common]]
        for tables, place in zip((first, second), places, strict=True)
    )
    specs = _configurations(first, method)
    points = tuple(specs[places[0][point]].point for point in common)
    frame, target = pd.DataFrame(points), default_point(first, method)
    default = nearest(levels(frame, list(frame)), target, logs(method, list(frame))) if target and points else None
    return Shared(method, points, _varied(frame), one, other, default)


def _varied(points: pd.DataFrame) -> Levels:
    return levels(points, [name for name in points if points[name].nunique(dropna=False) > 1])


def _configurations(tables: Tables, method: str) -> list[TrialSpec]:
    """A trial of each configuration, in the order of the first axis of its scores."""
    return list({spec.configuration: spec for spec in tables.record.plan if spec.method == method}.values())


def _point(spec: TrialSpec, names: Sequence[str]) -> tuple[Any, ...]:
    """What tells a configuration from others in either sweep: a setting that one sweep varies counts in the other too."""
    found = (spec.point.get(name, spec.train.get(name)) for name in names)
    return tuple(float(value) if isinstance(value, int | float) else str(value) for value in found)


def _prompts(tables: Tables) -> list[tuple[int, str]]:
    """The prompts behind the primary metric."""
    rows: Sequence[Response] = next((rows for rows in tables.record.responses.values() if rows), ())
    return sorted((row.index, row.prompt) for row in rows if row.set == tables.place)
