"""The score of a method's best configuration, without the luck of having been picked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from posweep.errors import ShapeError

Table = NDArray[np.float64]
Halves = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Best:
    """The score of a best configuration and which rows were chosen.

    Args:
        value: in the unit of the table; NaN when there was nothing to choose from.
        standard_error: over prompts, given the configurations chosen, the seeds and the SFT checkpoint.
        chosen: row indices: two per split, or a single one with a selection table; () when `value` is NaN.
    """

    value: float
    standard_error: float
    chosen: tuple[int, ...]


NOTHING = Best(math.nan, math.nan, ())


def halves(prompts: int, rng: Generator, splits: int = 1) -> list[Halves]:
    """Random halvings of prompts: in each, the places of the one half (the larger, if odd) and of the other."""
    cut = (prompts + 1) // 2
    return [(order[:cut], order[cut:]) for order in (rng.permutation(prompts) for _ in range(splits))]


def cross_fitted_best(wins: Table, rng: Generator, selection: Table | None = None, splits: int = 1) -> Best:
    """The score of the best configuration, chosen on prompts other than those it is scored on.

        ½ ( mean_{p∈B} w[argmax_i mean_{A} w_i, p] + mean_{p∈A} w[argmax_i mean_{B} w_i, p] ),   A, B random halves

    The plain maximum picks noise as well as merit: of 24 equal configurations at 0.550 on 256 prompts it reports 0.593
    on average; this reports 0.550. It is the score of what half of the prompts would choose, hence at most the score of
    the truly best.

    Args:
        wins: (configurations, prompts), a score per response, in [0, 1] for wins; a row with a NaN (diverged) is never
            chosen.
        rng: draws the halves; unused with a selection table.
        selection: (configurations, other prompts), such as in-distribution rows: choose there, average over all of
            `wins`. Its prompts must not be those of `wins`.
        splits: how many random halvings to average; the expectation stays, the luck of one halving goes.

    Returns:
        The value, its standard error over prompts and the rows chosen; NaN with fewer than two prompts or no full row.

    Raises:
        ShapeError: a table is not two-dimensional, or the two differ in configurations.

    Source: cross-fitting as in Chernozhukov et al. 2018, arXiv 1608.00060, with prompts as the sample that is split.
    """
    _check(wins, selection)
    eligible = _full(wins)
    if selection is not None:
        return _chosen_elsewhere(wins, selection, eligible & _full(selection))
    if wins.shape[1] < 2 or not eligible.any():
        return NOTHING
    return _mean([_one_split(wins, eligible, pair) for pair in halves(wins.shape[1], rng, splits)])


def _check(wins: Table, selection: Table | None) -> None:
    for name, table in (("wins", wins), ("selection", selection)):
        if table is not None and table.ndim != 2:
            raise ShapeError(f"{name} must have shape (configurations, prompts), got {table.shape}.")
    if selection is not None and len(selection) != len(wins):
        raise ShapeError(f"selection has {len(selection)} configurations where wins has {len(wins)}.")


def _full(table: Table) -> NDArray[np.bool_]:
    """Which rows hold no NaN."""
    return np.asarray(~np.isnan(table).any(axis=1), dtype=np.bool_)


def _argmax(table: Table, eligible: NDArray[np.bool_]) -> int:
    """The eligible row of highest mean; the first of equals."""
    means = np.full(len(table), -np.inf)
    means[eligible] = table[eligible].mean(axis=1)
    return int(means.argmax())


def _scored(table: Table, row: int) -> Best:
    """The mean of one row and its standard error over prompts; with a single prompt there is none."""
    prompts = table.shape[1]
    error = table[row].std(ddof=1) / math.sqrt(prompts) if prompts > 1 else math.nan
    return Best(float(table[row].mean()), float(error), (row,))


def _one_split(wins: Table, eligible: NDArray[np.bool_], pair: Halves) -> Best:
    """Each half of the prompts chooses, the other scores; their errors are independent."""
    first, second = pair
    one = _scored(wins[:, second], _argmax(wins[:, first], eligible))
    other = _scored(wins[:, first], _argmax(wins[:, second], eligible))
    error = math.hypot(one.standard_error, other.standard_error) / 2
    return Best((one.value + other.value) / 2, error, one.chosen + other.chosen)


def _mean(splits: list[Best]) -> Best:
    """The mean over splits. They share the prompts, so the mean of their errors bounds the error of the mean."""
    return Best(
        float(np.mean([split.value for split in splits])),
        float(np.mean([split.standard_error for split in splits])),
        tuple(row for split in splits for row in split.chosen),
    )


def _chosen_elsewhere(wins: Table, selection: Table, eligible: NDArray[np.bool_]) -> Best:
    if 0 in (wins.shape[1], selection.shape[1]) or not eligible.any():
        return NOTHING
    return _scored(wins, _argmax(selection, eligible))
