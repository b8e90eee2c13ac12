"""The peak that a search found: the only place of a report where adaptive trials appear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.chapter import Column, Part, Sheet
from posweep.report.points import written
from posweep.report.tables import SPLIT_SEED, SPLITS, Tables, configurations, title, trials
from posweep.robustness import Interval, Sample, configuration_scores, cross_fitted_reach, crossed_interval, halves

SEED = 0
PEAK, GRID, DIFFERENCE = "peak", "grid_best", "difference"
CAUTION = (
    "It is the peak of an adaptive search, no distribution: its trials enter no other table, figure or number of this "
    "report. A maximum grows with the number of trials, so peaks, and a peak and the best of a grid, are not comparable as "
    "maxima at unequal numbers. The search saw the scores on all prompts before it placed a point, so a little of their "
    "luck may be left in where it looked."
)


def peak(tables: Tables) -> Part:
    """Each method's peak beside the best of its planned trials; nothing where nothing was searched."""
    if tables.whole is None:
        return Part()
    by_trial = trials(tables.whole)
    both = Tables(tables.whole, by_trial, configurations(by_trial))
    rows = [row for method in both.methods if (row := _row(both, method))]
    if not rows:
        return Part(silences=("No trial of the search has finished with a score, so it has no peak.",))
    over = rows[0]["over"]
    data = pd.DataFrame(rows).drop(columns="over")
    sheet = Sheet("search_peak", "The peak a search found", _caption(both, over), data, _columns())
    return Part(words=(_said(rows, both),), sheets=(sheet,))


def _row(both: Tables, method: str) -> dict[str, Any] | None:
    """A method's peak, the best of its planned trials, and what the one has over the other."""
    points, table = both.points(method), both.scores(method)
    adaptive = np.asarray(points["design"] == "adaptive")
    searched, planned = np.flatnonzero(adaptive), np.flatnonzero(~adaptive)
    means = configuration_scores(table, Sample.everything(*table.shape[1:]))[0, searched]
    if np.isnan(means).all():
        return None
    at, names = searched[np.nanargmax(means)], both.settings(method)
    found = _interval(table, searched, planned)
    own = points.iloc[searched]
    values = {
        name + end: float(number)
        for place, name in enumerate((PEAK, GRID, DIFFERENCE))
        for end, number in zip(
            ("", "_low", "_high"), (found.value[place], found.low[place], found.high[place]), strict=True
        )
    }
    return {
        "method": method,
        "points": len(searched),
        "trials": int(own["trials"].sum()),
        "diverged": int(own["diverged"].sum()),
        "planned_points": len(planned),
        "planned_trials": int(points.iloc[planned]["trials"].sum()),
        "peak_at": written(method, {name: points[name].iloc[at] for name in names if name in points}),
        **values,
        "over": found.over,
    }


def _interval(table: NDArray[np.float64], searched: NDArray[np.intp], planned: NDArray[np.intp]) -> Interval:
    """Peak, best of the grid and their difference, under one draw of seeds and prompts; plain maxima have no interval."""
    seeds, prompts = table.shape[1:]
    splits = halves(prompts, np.random.default_rng(SPLIT_SEED), SPLITS)

    def statistic(sample: Sample) -> NDArray[np.float64]:
        best = cross_fitted_reach(table, sample, [searched, planned], splits)[..., 0]
        return np.column_stack([best, best[:, 0] - best[:, 1]])

    return crossed_interval(statistic, seeds if prompts > 1 else 1, prompts, np.random.default_rng(SEED))


def _said(rows: list[dict[str, Any]], both: Tables) -> str:
    """What was searched, and where that found more than the planned trials had."""
    tried = sorted({row["points"] for row in rows})
    count = f"{tried[0]}" if len(tried) == 1 else f"{tried[0]} to {tried[-1]}"
    said = f"A search tried {count} more points a method, where scores were high."
    above = [f"{title(row['method'])} ({_with_interval(row)})" for row in rows if row[f"{DIFFERENCE}_low"] > 0]
    if not any(math.isfinite(row[f"{DIFFERENCE}_low"]) for row in rows):
        return f"{said} Whether its peaks lie above the best of the planned trials cannot be told from luck."
    if not above:
        return f"{said} Its peaks lie above the best of the planned trials by no more than luck."
    return f"{said} By more than luck, its peak lies above the best of the planned trials for {', '.join(above)}."


def _with_interval(row: dict[str, Any]) -> str:
    """`+0.021 [+0.004, +0.038]`."""
    value, low, high = (f"{row[DIFFERENCE + end]:+z.3f}".replace("-", "−") for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _caption(both: Tables, over: str) -> str:
    split = both.prompts() > 1
    how = (
        "each half of the prompts chooses a point and the other scores it, as for the best of the planned trials beside it"
        if split
        else "its score is the plain maximum, which flatters and has no interval, as there are no scores by prompt"
    )
    drawn = f" Intervals: 95 %, over {over}, given the points." if split else ""
    return (
        f"{both.metric}. Peak: the best point that the search tried; {how}. Adaptive, planned: trials. {CAUTION}{drawn}"
    )


def _columns() -> dict[str, Column]:
    ends = {name: (f"{name}_low", f"{name}_high") for name in (PEAK, GRID, DIFFERENCE)}
    return {
        "method": Column("method", "method"),
        PEAK: Column("peak", interval=ends[PEAK]),
        GRID: Column("best planned", interval=ends[GRID]),
        DIFFERENCE: Column("difference", interval=ends[DIFFERENCE]),
        "peak_at": Column("peak at", "text"),
        "trials": Column("adaptive", "count"),
        "planned_trials": Column("planned", "count"),
    }
