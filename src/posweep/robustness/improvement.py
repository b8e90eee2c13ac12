"""How likely a random run of one method beats a random run of another, and how sure that is for every pair of methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from posweep.errors import ShapeError
from posweep.robustness.crossed import (
    REPLICATES,
    Interval,
    Sample,
    configuration_scores,
    finished,
    interval_of,
    run_scores,
    variances,
)
from posweep.robustness.ranking import holm_pairs, pooled_p_values, typical_differences

Table = NDArray[np.float64]

AT_ONCE = 4_000_000  # numbers in the largest array of one step: 32 MB


@dataclass(frozen=True)
class Improvement:
    """Every method against every other; arrays (methods, methods), row against column.

    Attributes:
        runs: P(a random run of the row beats one of the column), unit: configuration × seed; the diagonal is ½.
        means: the same of configurations, each the mean of its seeds.
        p: of no difference, two-sided; NaN on the diagonal.
        adjusted: p after Holm over all pairs of methods.
    """

    runs: Interval
    means: Interval
    p: Table
    adjusted: Table


def probability_of_improvement(one: ArrayLike, other: ArrayLike) -> Table:
    """The probability that a random run of one method beats a random run of another; ties count half.

        P(X > Y) + ½ P(X = Y) = U / (n m)

    Args:
        one: scores of X's runs, (…, n), any unit; NaN is a run without a score and is dropped.
        other: scores of Y's runs, (…, m), with the same leading axes (such as replicates).

    Returns:
        (…): ½ where neither method is ahead, 1 where every run of X beats every run of Y. It says how often, not by how
        much. NaN where a method has no run.

    Raises:
        ShapeError: the leading axes differ.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.4; Mann and Whitney 1947 (U).
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape[:-1] != second.shape[:-1]:
        raise ShapeError(f"both methods must have the same leading axes, got {first.shape} and {second.shape}.")
    runs = np.concatenate([first, second], axis=-1)
    owner = np.repeat([0, 1], [first.shape[-1], second.shape[-1]])
    flat = runs.reshape(math.prod(runs.shape[:-1]), len(owner))
    return all_pairs(flat, owner, np.ones_like(flat), 2)[:, 0, 1].reshape(runs.shape[:-1])


def all_pairs(runs: Table, owner: NDArray[np.intp], weights: Table, methods: int) -> Table:
    """`probability_of_improvement` for all pairs of methods at once, by one sort of all runs.

        Σ_i∈X w_i ( W_Y(< s_i) + ½ W_Y(= s_i) ) / (W_X W_Y),   W_Y(…): the weight of Y's runs there

    Args:
        runs: scores, (replicates, runs); NaN is dropped.
        owner: which method each run belongs to, (runs,).
        weights: how often each run counts, (replicates, runs).
        methods: how many there are.

    Returns:
        (replicates, methods, methods), row against column; NaN where a method has no run.
    """
    found = np.empty((len(runs), methods, methods))
    step = max(1, AT_ONCE // max(1, runs.shape[1] * methods))
    for first in range(0, len(runs), step):
        part = slice(first, first + step)
        found[part] = _sorted_pairs(runs[part], owner, weights[part], methods)
    return found


def _sorted_pairs(runs: Table, owner: NDArray[np.intp], weights: Table, methods: int) -> Table:
    order = np.argsort(runs, axis=1, kind="stable")
    scores = np.take_along_axis(runs, order, axis=1)
    weight = np.where(np.isnan(scores), 0.0, np.take_along_axis(weights, order, axis=1))
    owned = np.eye(methods)[owner][order] * weight[:, :, None]
    below = np.concatenate([np.zeros_like(owned[:, :1]), np.cumsum(owned, axis=1)], axis=1)
    first, last = _ties(scores)
    middle = (_rows(below, first) + _rows(below, last + 1)) / 2
    total = owned.sum(axis=1)
    pairs = total[:, :, None] * total[:, None, :]
    wins = np.swapaxes(owned, 1, 2) @ middle
    return np.divide(wins, pairs, out=np.full_like(wins, math.nan), where=pairs > 0)


def _ties(scores: Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the last place of the equals that each of the sorted scores belongs to."""
    count = scores.shape[1]
    places = np.broadcast_to(np.arange(count), scores.shape)
    new = np.ones(scores.shape, dtype=np.bool_)
    new[:, 1:] = scores[:, 1:] != scores[:, :-1]
    ends = np.ones_like(new)
    ends[:, :-1] = new[:, 1:]
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, count)[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _rows(table: Table, places: NDArray[np.intp]) -> Table:
    return np.take_along_axis(table, places[:, :, None], axis=1)


def improvement_matrix(tables: Sequence[Table], rng: Generator, replicates: int = REPLICATES) -> Improvement:
    """The probability of improvement of every pair of methods, with intervals and with p-values for all pairs together.

    Every replicate draws one set of seeds and one of prompts for all methods, so that what methods owe to the same
    prompts and seeds cancels in the intervals; the probability itself compares every run of X with every run of Y.

    p is the larger of two: that the probability is ½, and that the interquartile means agree (`typical_differences`); 1
    where the two point different ways, as where a method wins more often and its failures are worse.
    Where nearly all runs of X beat those of Y, so they do in every draw: the error of the probability vanishes and says
    nothing of how far apart the methods are, whereas a difference of means has no ceiling. Both are Student's t on crossed
    standard errors, so a few hundred replicates resolve them however small they are; percentile p-values would need
    30,000 and more for the 153 pairs of 18 methods.

    Args:
        tables: the scores of each method, (configurations, seeds, prompts), on the same seeds and prompts; NaN where a
            run has none.
        rng: draws seeds and prompts.
        replicates: draws of each kind.

    Returns:
        Probabilities with 95 % intervals over seeds and prompts, given the configurations; ends are cut at 0 and 1, and
        are NaN where no draw differs at all from 0 or 1: then there is nothing to learn a width from. NaN where a
        method has no score.

    Source: `probability_of_improvement`, `crossed_interval`, `holm`.
    """
    table, owner = np.concatenate(tables), np.repeat(np.arange(len(tables)), [len(one) for one in tables])

    def statistic(sample: Sample) -> Table:
        means = configuration_scores(table, sample)
        by_run = improvement_of_runs(table, owner, sample, len(tables))
        by_mean = all_pairs(means, owner, np.ones_like(means), len(tables))
        return np.stack([by_run, by_mean], axis=1)

    counts = table.shape[1], table.shape[2]
    found = variances(statistic, *counts, rng, replicates)
    differences = typical_differences(tables, rng, replicates)
    p = np.maximum(pooled_p_values(found[0], *counts, null=0.5), differences.p)
    p[(found[0].value - 0.5) * differences.value < 0] = 1.0
    runs, means = (_bounded(interval_of(found[place], *counts)) for place in (0, 1))
    return Improvement(runs, means, p, holm_pairs(p))


def improvement_of_runs(table: Table, owner: NDArray[np.intp], sample: Sample, methods: int) -> Table:
    """`probability_of_improvement` of all pairs under a sample: its prompts make scores, its seeds weigh the runs.

    Args:
        table: the scores of all methods below each other, (configurations, seeds, prompts); NaN where a run has none.
        owner: which method each configuration belongs to, (configurations,).
        sample: the replicates.
        methods: how many there are.

    Returns:
        (replicates, methods, methods), row against column; NaN where a method has no run.
    """
    configurations, seeds, _ = table.shape
    runs = run_scores(table, sample.prompts).reshape(-1, configurations * seeds)
    belongs = np.repeat(owner, seeds)
    there = finished(table).ravel()
    weights = np.tile(sample.seeds, configurations) * there
    drawn = weights @ np.eye(methods)[belongs]
    weights = np.where(drawn[:, belongs] > 0, weights, there)  # none of a method's runs was drawn: all stay
    return all_pairs(runs, belongs, weights, methods)


def _bounded(interval: Interval) -> Interval:
    """Ends within [0, 1]; none where every draw says 0 or every draw 1."""
    certain = (interval.error == 0) & np.isin(interval.value, (0.0, 1.0))
    low, high = (np.where(certain, math.nan, np.clip(end, 0, 1)) for end in (interval.low, interval.high))
    return dataclasses.replace(interval, low=low, high=high)
