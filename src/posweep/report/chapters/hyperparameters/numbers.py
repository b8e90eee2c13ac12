"""The tables behind "what does each hyperparameter do": shares of the variance, curves, pairs, steps between neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.drawing.axes import number, symbol
from posweep.report.points import levels, logs, written
from posweep.report.tables import Diverged, Tables
from posweep.robustness import (
    Anova,
    Grid,
    Levels,
    Sample,
    anova,
    cliffs,
    configuration_scores,
    crossed_interval,
    ice,
    missing,
    neighbours,
    ped_anova,
    steps,
)

SEED = 0
SHARES = ["method", "parameter", "hyperparameters", "order", "share", "low", "high", "how"]
STEPS = [
    "method",
    "hyperparameter",
    "from",
    "to",
    "held",
    "score_from",
    "score_to",
    "drop",
    "low",
    "high",
    "p",
    "cliff",
]
ALONE = "the only one that varies"
RESIDUAL = "holds the luck of the one seed"


@dataclass(frozen=True)
class Design:
    """A method's configurations with a score, and how their variance can be taken apart.

    Attributes:
        method: its name.
        columns: hyperparameter → values, of those that vary among these configurations.
        table: (configurations, seeds, prompts).
        how: exactly, and with which trials, in words; empty where only a model of the scores could.
    """

    method: str
    columns: Levels
    table: NDArray[np.float64]
    how: str = ""

    @property
    def scores(self) -> NDArray[np.float64]:
        """Of the data as they are, (configurations,)."""
        return configuration_scores(self.table, Sample.everything(*self.table.shape[1:]))[0]


def designs(tables: Tables) -> list[Design]:
    """Every method with at least two scores among which a hyperparameter varies."""
    found = (_exact(tables, method) for method in tables.methods)
    there = (design for design in found if np.isfinite(tables.scores(design.method)).any())
    return [design for design in there if len(design.table) > 1 and design.columns]


def _exact(tables: Tables, method: str) -> Design:
    """The design with which a full grid is whole, if there is one: diverged dropped, at the worst, or what there is."""
    planned = len(tables.points(method))
    kept, lost = design(tables, method, "dropped"), design(tables, method, "worst")
    whole = (
        (kept, len(kept.table) == planned, "ANOVA"),
        (lost, len(lost.table) == planned, "ANOVA, diverged trials at the worst score"),
        (kept, True, f"ANOVA of the {len(kept.table)} that finished"),
    )
    for found, complete, how in whole:
        if complete and Grid.of(found.columns).full:
            return Design(method, found.columns, found.table, ALONE if len(found.columns) == 1 else how)
    return kept


def design(tables: Tables, method: str, diverged: Diverged = "dropped") -> Design:
    """A method's configurations that have a score."""
    table = tables.scores(method, diverged=diverged)
    there = np.asarray(np.isfinite(table).all(axis=2)).any(axis=1)
    names = sorted(
        tables.settings(method, varied=False), key=lambda name: name == "learning_rate"
    )  # last: along x in every panel
    columns = levels(tables.points(method)[there], names)
    varied = {name: values for name, values in columns.items() if len(Grid.of({name: values}).levels[0]) > 1}
    return Design(method, varied, table[there])


def share_table(tables: Tables, found: Sequence[Design]) -> tuple[pd.DataFrame, str]:
    """A row per method and effect, with what the intervals are over."""
    exact = [one for one in found if one.how]
    parts, over = _intervals(tables, exact)
    for one in found:
        if not one.how:
            parts[one.method] = _by_density(one)
    rows = [row for one in found for row in parts[one.method]]
    return pd.DataFrame(rows, columns=SHARES), over


def _intervals(tables: Tables, exact: Sequence[Design]) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The rows of every method that ANOVA can take apart, under one draw of seeds and prompts for all."""
    if not exact:
        return {}, ""
    seeds, prompts = len(tables.seeds), tables.prompts()

    def statistic(sample: Sample) -> NDArray[np.float64]:
        scores = [configuration_scores(one.table, sample) for one in exact]
        return np.concatenate([anova(s, one.columns).shares for s, one in zip(scores, exact, strict=True)], axis=1)

    interval = crossed_interval(statistic, seeds, prompts, np.random.default_rng(SEED))
    ends = np.clip([interval.low, interval.high], 0, 1)
    start, parts = 0, {}
    for one in exact:
        parted = anova(one.scores, one.columns, seeds)
        stop = start + len(parted.terms)
        parts[one.method] = _rows(one, parted, ends[:, start:stop])
        start = stop
    return parts, interval.over


def _rows(one: Design, parted: Anova, ends: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows = []
    for term, share, low, high in zip(parted.terms, parted.shares, *ends, strict=True):
        noisy = term == parted.residual and one.how != ALONE
        name = " × ".join(symbol(one.method, part) for part in term)
        how = f"{one.how}; {RESIDUAL}" if noisy else one.how
        values = (one.method, name, " × ".join(term), len(term), share, low, high, how)
        rows.append(dict(zip(SHARES, values, strict=True)))
    return rows


def _by_density(one: Design) -> list[dict[str, Any]]:
    """The rows of a method without a full grid: PED-ANOVA, or why not."""
    found = ped_anova(one.scores, one.columns, logs(one.method, list(one.columns)))
    if found.refused:
        return [{"method": one.method, "how": f"refused: no full grid, and {found.refused}"}]
    return [
        {"method": one.method, "parameter": symbol(one.method, n), "hyperparameters": n, "order": 1, "share": share}
        | {"how": "PED-ANOVA"}
        for n, share in found.shares.items()
    ]


def curve_table(found: Sequence[Design]) -> pd.DataFrame:
    """A row per method, hyperparameter, setting of the others (`context`; empty: their mean) and level."""
    rows = [row for one in found for name in one.columns for row in _curves(one, name)]
    return pd.DataFrame(rows, columns=["method", "hyperparameter", "context", "learning_rate", "level", "score"])


def _curves(one: Design, name: str) -> list[dict[str, Any]]:
    """The curves of at least two points, and their mean where every context has every level."""
    has = [not missing(value) for value in one.columns[name]]
    curves = ice(
        one.scores[has],
        {n: [v for v, kept in zip(values, has, strict=True) if kept] for n, values in one.columns.items()},
        name,
    )
    base = {"method": one.method, "hyperparameter": name}
    rows = []
    for context, scores in zip(curves.contexts, curves.scores, strict=True):
        if np.isfinite(scores).sum() > 1:
            held = {
                "context": written(one.method, context) or "nothing else",
                "learning_rate": context.get("learning_rate"),
            }
            rows += [{**base, **held, "level": x, "score": y} for x, y in zip(curves.along, scores, strict=True)]
    if np.isfinite(curves.mean).all():
        rows += [
            {**base, "context": "", "level": x, "score": y} for x, y in zip(curves.along, curves.mean, strict=True)
        ]
    return rows


def pair_table(found: Sequence[Design]) -> pd.DataFrame:
    """A row per method, pair of hyperparameters and pair of their levels: the mean score over everything else."""
    columns = ["method", "y", "x", "y_level", "x_level", "score", "configurations"]
    rows = [row for one in found for y, x in combinations(one.columns, 2) for row in _pair(one, y, x)]
    return pd.DataFrame(rows, columns=columns)


def _pair(one: Design, y: str, x: str) -> list[dict[str, Any]]:
    frame = pd.DataFrame({"y": one.columns[y], "x": one.columns[x], "score": one.scores}, dtype=object)
    groups = frame.astype({"score": float}).groupby(["y", "x"], sort=False)["score"]
    return [
        {"method": one.method, "y": y, "x": x, "y_level": a, "x_level": b, "score": scores.mean()}
        | {"configurations": len(scores)}
        for (a, b), scores in groups
    ]


def step_table(tables: Tables, threshold: float) -> tuple[pd.DataFrame, str]:
    """A row per step between grid neighbours, from the better to the worse, the largest drop first; Holm over all.

    Diverged trials are at the worst score here: a step into divergence is the steepest of all.
    """
    found = [(one, neighbours(one.columns)) for m in tables.methods for one in [design(tables, m, "worst")]]
    found = [(one, pairs) for one, pairs in found if pairs.names]
    if not found:
        return pd.DataFrame(columns=STEPS), ""

    def statistic(sample: Sample) -> NDArray[np.float64]:
        return np.concatenate([steps(configuration_scores(one.table, sample), pairs) for one, pairs in found], axis=1)

    interval = crossed_interval(statistic, len(tables.seeds), tables.prompts(), np.random.default_rng(SEED))
    adjusted, steep = cliffs(interval, threshold)
    ends = [(one, pairs, i) for one, pairs in found for i in range(len(pairs.names))]
    numbers = zip(interval.value, interval.low, interval.high, adjusted, steep, strict=True)
    rows = [_step(*place, *row) for place, row in zip(ends, numbers, strict=True)]
    table = pd.DataFrame([dict(zip(STEPS, row, strict=True)) for row in rows])
    return table.sort_values("drop", ascending=False, kind="stable", ignore_index=True), interval.over


def _step(
    one: Design, pairs: Any, i: int, value: float, low: float, high: float, p: float, steep: bool
) -> tuple[Any, ...]:
    """One step as a row, turned so that it goes down."""
    name = pairs.names[i]
    rows = (pairs.lower[i], pairs.higher[i]) if value <= 0 else (pairs.higher[i], pairs.lower[i])
    a, b = (number(one.columns[name][row]) for row in rows)
    held = written(one.method, {n: values[rows[0]] for n, values in one.columns.items() if n != name})
    scores = one.scores[list(rows)]
    low, high = (-high, -low) if value <= 0 else (low, high)
    return (one.method, symbol(one.method, name), a, b, held, *scores, abs(value), low, high, p, steep)
