"""What tuning buys: the score at a method's default, and how much a better choice adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posweep.robustness.best import Halves
from posweep.robustness.crossed import Sample, configuration_scores, finished
from posweep.robustness.grid import Levels, missing

Table = NDArray[np.float64]
Rows = NDArray[np.int64]


def nearest(levels: Levels, point: Mapping[str, Any], logs: frozenset[str] = frozenset()) -> int | None:
    """The configuration that lies nearest to a point, such as a method's default.

        argmin_c Σ_i ( (φ_i(x_ci) − φ_i(x*_i)) / (max_c φ_i(x_ci) − min_c φ_i(x_ci)) )²,   φ: log where declared

    On a full grid that is the nearest level of every hyperparameter for itself. Words are 0 apart where they are equal,
    else 1; a value that is missing is taken to be the point's.

    Args:
        levels: hyperparameter → its value in every configuration; those the point does not name are ignored.
        point: hyperparameter → value.
        logs: the hyperparameters that are compared on a log axis.

    Returns:
        Its row, the first of equals; None without configurations.
    """
    distances = [_distances(list(levels[n]), value, n in logs) ** 2 for n, value in point.items() if n in levels]
    count = max((len(values) for values in levels.values()), default=0)
    return int(np.sum([np.zeros(count), *distances], axis=0).argmin()) if count else None


def one_changed(levels: Levels, default: int) -> dict[str, Rows]:
    """For every hyperparameter the configurations that differ from the default in nothing else, with the default itself."""
    same = {name: _equal(list(values), default) for name, values in levels.items()}
    everything = np.arange(len(next(iter(same.values()), ())))
    return {
        name: everything[np.all([same[other] for other in same if other != name] or [everything >= 0], axis=0)]
        for name in same
    }


def cross_fitted_reach(table: Table, sample: Sample, choices: Sequence[Rows], splits: Sequence[Halves]) -> Table:
    """The scores of the best and of the worst of several configurations, each half of the prompts choosing for the other.

        mean over splits of ½ ( s^B[argmax_{c∈C} s^A_c] + s^A[argmax_{c∈C} s^B_c] ),   and the same with argmin

    The first is `cross_fitted_best` for every replicate of a sample. Drawn prompts stay in the half they were dealt, so
    that a prompt drawn twice never chooses and scores.

    Args:
        table: (configurations, seeds, prompts); NaN where a run has no score.
        sample: the replicates.
        choices: what may be chosen from, each the rows of some configurations; those without a score are passed over.
        splits: of `halves`. With fewer than two prompts nothing can be split, and the result is the plain maximum and
            minimum, which flatter.

    Returns:
        (replicates, choices, 2), best and worst; NaN where none of a choice's configurations has a score.
    """
    there = np.asarray(finished(table).any(axis=1))
    rows = [choice[there[choice]] for choice in choices]
    if table.shape[2] < 2:
        whole = configuration_scores(table, sample)
        return _chosen(whole, whole, rows)
    total = np.zeros((len(sample.prompts), len(rows), 2))
    for pair in splits:
        one, other = (configuration_scores(table[:, :, half], sample.part(half)) for half in pair)
        total += _chosen(one, other, rows) + _chosen(other, one, rows)
    return total / (2 * len(splits))


def tunability(reach: Table) -> Table:
    """How much better than its default a method can be made by choosing among some configurations, and how much worse.

        T = s[best of C] − s[default],   best: chosen on one half of the prompts, both scored on the other

    About 0, or a little below, where tuning buys nothing: the plain maximum would promise a gain even from identical
    configurations. With C all configurations it is the tunability of the method, with C those that differ from the
    default in one hyperparameter only (`one_changed`) the tunability of that.

    Args:
        reach: of `cross_fitted_reach`, (replicates, 1 + choices, 2), where the first choice is the default alone.

    Returns:
        (replicates, choices, 2), in the unit of the scores: what can be won, and what can be lost (≤ 0 but for luck);
        NaN where the default has no score.

    Source: Probst, Boulesteix and Bischl 2019, Tunability: importance of hyperparameters of machine learning algorithms,
        arXiv 1802.09596, with the best cross-fitted over prompts.
    """
    return reach[:, 1:] - reach[:, :1]


def _distances(values: list[Any], target: Any, log: bool) -> Table:
    """How far every value lies from a target, in spans of the axis."""
    filled = [target if missing(value) else value for value in values]
    numbers = [v for v in (*filled, target) if isinstance(v, int | float | np.number) and not isinstance(v, bool)]
    if not values or len(numbers) <= len(values):
        return np.array([float(str(value) != str(target)) for value in filled])
    scaled = np.array([math.log(v) if log and min(numbers) > 0 else float(v) for v in numbers])
    span = np.ptp(scaled[:-1])
    return np.asarray(np.abs(scaled[:-1] - scaled[-1]) / span if span > 0 else np.zeros(len(values)))


def _equal(values: list[Any], row: int) -> NDArray[np.bool_]:
    both = [missing(value) and missing(values[row]) for value in values]
    return np.array([value == values[row] for value in values]) | both


def _chosen(chooser: Table, scorer: Table, choices: Sequence[Rows]) -> Table:
    """The second scores of the rows that are best and worst by the first, (replicates, choices, 2)."""
    found = np.full((len(chooser), len(choices), 2), np.nan)
    everyone = np.arange(len(scorer))
    for place, rows in enumerate(choices):
        if len(rows):
            seen = chooser[:, rows]
            found[:, place, 0] = scorer[everyone, rows[seen.argmax(axis=1)]]
            found[:, place, 1] = scorer[everyone, rows[seen.argmin(axis=1)]]
    return found
