"""The numbers behind "what to try first": default, best, what tuning adds, and which point to start at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.drawing.axes import symbol
from posweep.report.points import default_point, ends_of_grid, levels, logs, sources, written
from posweep.report.tables import SPLIT_SEED, SPLITS, Tables
from posweep.robustness import (
    Grid,
    Interval,
    Levels,
    Sample,
    configuration_scores,
    cross_fitted_reach,
    crossed_interval,
    halves,
    holm,
    missing,
    nearest,
    one_changed,
    p_value,
    tunability,
    with_scores,
)

SEED = 0
SIGNIFICANT = 0.05
Table = NDArray[np.float64]
DEFAULT, BEST, JOINTLY = 0, 1, 2  # places among a method's numbers; then the gain by hyperparameter, then the losses
GAINS = ["method", "hyperparameter", "gain", "gain_low", "gain_high", "loss", "loss_low", "loss_high"]


@dataclass(frozen=True)
class Tuned:
    """A method's configurations around its default.

    Attributes:
        method: its name.
        columns: every hyperparameter and training setting → values, of all planned configurations.
        varied: the names of those that vary.
        table: (configurations, seeds, prompts).
        cited: the default as its authors (or these settings) have it.
        grid: whether the points are a grid or a list, of which an end is a choice of whoever made it.
    """

    method: str
    columns: Levels
    varied: tuple[str, ...]
    table: Table
    cited: dict[str, Any] = field(default_factory=dict)
    grid: bool = True

    @cached_property
    def default(self) -> int | None:
        """The row nearest to the default."""
        return nearest(self.columns, self.cited, logs(self.method, list(self.columns))) if self.cited else None

    @cached_property
    def best(self) -> int:
        """The row of the highest mean over all data."""
        return int(np.nanargmax(configuration_scores(self.table, Sample.everything(*self.table.shape[1:]))[0]))

    @cached_property
    def choices(self) -> dict[str, NDArray[np.int64]]:
        """What may be chosen among: everything, then around the default one hyperparameter at a time."""
        everything = {"": np.arange(len(self.table))}
        if self.default is None or len(self.varied) < 2:
            return everything
        alone = one_changed({name: self.columns[name] for name in self.varied}, self.default)
        return everything | {name: rows for name, rows in alone.items() if len(rows) > 1}

    def point(self, row: int) -> dict[str, Any]:
        """What varies, at one configuration; everything, where nothing varies."""
        return {name: self.columns[name][row] for name in self.varied or self.columns}

    def exact(self) -> bool:
        """Whether the nearest configuration is the default itself."""
        found = self.default
        return found is not None and all(
            missing(self.columns[name][found]) or self.columns[name][found] == value
            for name, value in self.cited.items()
        )

    def numbers(self, sample: Sample, splits: Any) -> Table:
        """(replicates, 2 + 2 choices): score of the default, of the best, gains, losses."""
        alone = np.arange(0) if self.default is None else np.array([self.default])
        reach = cross_fitted_reach(self.table, sample, [alone, *self.choices.values()], splits)
        known = configuration_scores(self.table[alone], sample) if len(alone) else reach[:, 0, :1]
        lonely = len(with_scores(self.table)) < 2
        gains, losses = np.moveaxis(np.where(lonely, math.nan, tunability(reach)), -1, 0)
        return np.concatenate([known, reach[:, 1, :1], gains, losses], axis=1)


@dataclass(frozen=True)
class Starts:
    """What to try first.

    Attributes:
        methods: a row each, in the order of the plan.
        gains: a row per method and hyperparameter, "" for all jointly: how much can be won and lost from the default.
        pairs: (method, other) → Holm p of the difference of their starting points.
        over: what intervals are over.
        silent: methods without a score.
    """

    methods: pd.DataFrame
    gains: pd.DataFrame
    pairs: dict[tuple[str, str], float]
    over: str
    silent: list[str]


def starts(tables: Tables) -> Starts | None:
    """Default, best and start of every method that has a score, under one draw of seeds and prompts; None without any."""
    every = [tuned(tables, method) for method in tables.methods]
    found = [one for one in every if len(with_scores(one.table))]
    if not found:
        return None
    seeds, prompts = len(tables.seeds), tables.prompts()
    splits = halves(prompts, np.random.default_rng(SPLIT_SEED), SPLITS)
    interval = crossed_interval(
        lambda sample: np.concatenate([one.numbers(sample, splits) for one in found], axis=1),
        seeds, prompts, np.random.default_rng(SEED),
    )  # fmt: skip
    own = _split(interval if prompts > 1 else _of_defaults(interval, found), found)
    gained = holm([p_value(part)[JOINTLY] for part in own])
    chosen = [_start(one, part, p) for one, part, p in zip(found, own, gained, strict=True)]
    beats = holm([p_value(part, 0.5)[start] for part, start in zip(own, chosen, strict=True)])
    rows = zip(found, own, gained, chosen, beats, strict=True)
    methods = pd.DataFrame([_row(tables, *row) for row in rows])
    gains = pd.DataFrame(
        [row for one, part in zip(found, own, strict=True) for row in _gains(one, part)], columns=GAINS
    )
    pairs = _pairs(found, chosen, splits, seeds, prompts)
    silent = [one.method for one in every if one not in found]
    return Starts(methods, gains, pairs, interval.over, silent)


def tuned(tables: Tables, method: str) -> Tuned:
    """A method's configurations with what is known of its default."""
    points, names = tables.points(method), tables.settings(method, varied=False)
    order = sorted(names, key=lambda name: name == "learning_rate")
    columns = levels(points, order)
    varied = tuple(name for name in order if len(Grid.of({name: columns[name]}).levels[0]) > 1)
    cited = default_point(tables, method)
    grid = bool(points["design"].isin(["grid", "list"]).all())
    return Tuned(
        method, levels(points, order), varied, tables.scores(method), {n: cited[n] for n in order if n in cited}, grid
    )


def _split(interval: Interval, found: Sequence[Tuned]) -> list[Interval]:
    """Each method's part of the numbers."""
    ends = np.cumsum([2 + 2 * len(one.choices) for one in found])
    return [interval[slice(end - 2 - 2 * len(one.choices), end)] for one, end in zip(found, ends, strict=True)]


def _of_defaults(interval: Interval, found: Sequence[Tuned]) -> Interval:
    """The intervals of defaults alone: plain maxima flatter, and would look as if they were no luck."""
    kept = np.concatenate([np.arange(2 + 2 * len(one.choices)) == DEFAULT for one in found])
    error, low, high = (np.where(kept, ends, math.nan) for ends in (interval.error, interval.low, interval.high))
    return dataclasses.replace(interval, error=error, low=low, high=high)


def _start(one: Tuned, own: Interval, gained: float) -> int:
    """Where to start: at the default, unless a better point is known to be better."""
    better = own.value[JOINTLY] > 0 and gained < SIGNIFICANT
    return BEST if better or not math.isfinite(own.value[DEFAULT]) else DEFAULT


def _row(tables: Tables, one: Tuned, own: Interval, gained: float, start: int, beats: float) -> dict[str, Any]:
    default, best = one.default, one.best
    at = best if start == BEST or default is None else default
    ends, luck = _ends_of_grid(one)
    return {
        "method": one.method,
        "cited_default": written(one.method, {n: v for n, v in one.cited.items() if n in one.varied or not one.varied}),
        "source": sources(one.method, list(one.cited)),
        "default": "" if default is None else written(one.method, one.point(default)),
        "default_is_cited": one.exact(),
        **_ends("default_score", own, DEFAULT),
        "default_lost": "" if default is None else _lost(tables, one.method, default),
        "best": written(one.method, one.point(best)),
        **_ends("best_score", own, BEST),
        "cross_fitted": tables.prompts() > 1,
        **_ends("gain", own, JOINTLY),
        "gain_p": gained,
        "gain_by_hyperparameter": _gain_words(one, own),
        "ends_of_grid": ends,
        "ends_by_luck": luck,
        "start": written(one.method, one.point(at)),
        "start_is_default": start == DEFAULT,
        **_ends("start_score", own, start),
        "start_p": beats,
    }


def _ends_of_grid(one: Tuned) -> tuple[str, float]:
    """What of the best point ends the grid, and the share of all points of which something does."""
    if not one.grid:
        return "", 0.0
    varied = {name: one.columns[name] for name in one.varied}
    found = [ends_of_grid(one.method, varied, row) for row in range(len(one.table))]
    return ", ".join(found[one.best]), sum(map(bool, found)) / len(found)


def _ends(name: str, own: Interval, place: int) -> dict[str, float]:
    """A number and its interval as three columns."""
    return {name: own.value[place], f"{name}_low": own.low[place], f"{name}_high": own.high[place]}


def _lost(tables: Tables, method: str, row: int) -> str:
    """How many trials of a configuration did not finish, by how they ended."""
    point = tables.points(method).iloc[row]
    parts = [f"{point[word]} {word}" for word in ("diverged", "failed", "missing") if point.get(word, 0) > 0]
    return f"{', '.join(parts)} of {point['trials']}" if parts else ""


def _gain_words(one: Tuned, own: Interval) -> str:
    """`β +0.012, learning rate +0.004`."""
    names = list(one.choices)[1:]
    gains = own.value[JOINTLY + 1 : JOINTLY + 1 + len(names)]
    words = (
        f"{symbol(one.method, n)} {gain:+z.3f}" for n, gain in zip(names, gains, strict=True) if math.isfinite(gain)
    )
    return ", ".join(words).replace("-", "−")


def _gains(one: Tuned, own: Interval) -> list[dict[str, Any]]:
    count = len(one.choices)
    if not math.isfinite(own.value[JOINTLY]):
        return []
    return [
        {"method": one.method, "hyperparameter": name, **_ends("gain", own, 2 + i), **_ends("loss", own, 2 + count + i)}
        for i, name in enumerate(one.choices)
    ]


def _pairs(
    found: Sequence[Tuned], chosen: Sequence[int], splits: Any, seeds: int, prompts: int
) -> dict[tuple[str, str], float]:
    """Holm p of the difference between every two methods' starting points, paired by seeds and prompts."""
    pairs = list(combinations(range(len(found)), 2))
    if not pairs:
        return {}
    one, other = np.array(pairs).T

    def differences(sample: Sample) -> Table:
        scores = [_at(each, start, sample, splits) for each, start in zip(found, chosen, strict=True)]
        together = np.concatenate(scores, axis=1)
        return together[:, one] - together[:, other]

    p = holm(p_value(crossed_interval(differences, seeds, prompts, np.random.default_rng(SEED))))
    return {(found[i].method, found[j].method): float(value) for (i, j), value in zip(pairs, p, strict=True)}


def _at(one: Tuned, start: int, sample: Sample, splits: Any) -> Table:
    """A method's starting point, (replicates, 1)."""
    if start == BEST or one.default is None:
        return cross_fitted_reach(one.table, sample, [np.arange(len(one.table))], splits)[..., 0]
    return configuration_scores(one.table[[one.default]], sample)
