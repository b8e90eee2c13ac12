"""How a method's scores spread over its configurations. NaN is a configuration without a score and is dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import trim_mean

from posweep.robustness.crossed import Table
from posweep.robustness.variance import variance_components


@dataclass(frozen=True)
class Distribution:
    """A method's scores in five numbers, each in the unit of the scores; NaN where there is no score.

    Args:
        count: configurations that have a score.
        median: half of the configurations do at least as well.
        interquartile_mean: see `interquartile_mean`.
        tenth_percentile: nine configurations of ten do at least as well: what a poor choice costs.
        maximum: the largest score, biased upward as an estimate of the best (see `cross_fitted_best`).
    """

    count: int
    median: float
    interquartile_mean: float
    tenth_percentile: float
    maximum: float


def with_score(scores: ArrayLike) -> NDArray[np.float64]:
    """The scores that are not NaN, flattened, in order."""
    values = np.asarray(scores, dtype=np.float64).ravel()
    return values[~np.isnan(values)]


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of the scores.

        IQM = mean( s_(k+1) … s_(n−k) ),   k = ⌊n/4⌋

    Args:
        scores: (configurations,), any unit; NaN dropped.

    Returns:
        The typical score, in the unit of the scores: less noisy than the median, blind to the extremes. Whole scores
        are cut, so n not divisible by 4 keeps a little more than half, as in rliable. NaN without scores.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3.
    """
    values = with_score(scores)
    return float(trim_mean(values, 0.25)) if values.size else math.nan


def percentile(scores: ArrayLike, percent: float) -> float:
    """The score that `percent` % of the configurations do not exceed.

        s at position (n − 1)·percent/100 of the sorted scores, linear in between

    Args:
        scores: (configurations,), any unit; NaN dropped.
        percent: between 0 and 100.

    Returns:
        The percentile in the unit of the scores; NaN without scores.

    Source: Hyndman and Fan 1996, definition 7 (numpy's default).
    """
    values = with_score(scores)
    return float(np.percentile(values, percent)) if values.size else math.nan


def share_above(scores: ArrayLike, threshold: float) -> float:
    """The share of configurations whose score is strictly above a threshold: one point of the performance profile.

        #{i : s_i > τ} / n

    Args:
        scores: (configurations,), any unit; NaN dropped.
        threshold: τ in the unit of the scores; ½ for a win-rate against the SFT model.

    Returns:
        A share between 0 and 1 of point estimates, no statement on their errors; NaN without scores.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.2.
    """
    values = with_score(scores)
    return float(np.mean(values > threshold)) if values.size else math.nan


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Table:
    """The share of configurations whose score is strictly above each threshold: the whole distribution at one glance.

        P(τ) = #{i : s_i > τ} / n

    Args:
        scores: (…, configurations), any unit; NaN dropped.
        thresholds: τ, (thresholds,), in the unit of the scores.

    Returns:
        (…, thresholds), shares between 0 and 1 that fall with τ: a method whose profile lies above another's does better
        at every level. Scores carry the error of their prompts, so profiles are flatter than those of true scores. NaN
        without scores.

    Source: Dolan and Moré 2002; Agarwal et al. 2021, arXiv 2108.13264, section 4.2.
    """
    values, at = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    ordered = np.sort(values, axis=-1).reshape(math.prod(values.shape[:-1]), values.shape[-1])
    counts = (~np.isnan(ordered)).sum(axis=1)
    reached = [np.searchsorted(row[:count], at, side="right") for row, count in zip(ordered, counts, strict=True)]
    above = counts[:, None] - np.array(reached, dtype=np.float64).reshape(len(ordered), len(at))
    shares = np.divide(above, counts[:, None], out=np.full_like(above, math.nan), where=counts[:, None] > 0)
    return shares.reshape(*values.shape[:-1], len(at))


def spread(table: Table) -> float:
    """How far apart configurations truly are: the standard deviation of their scores, freed of the error in them.

        √ max(0, Σ_c (s_c − s̄)² / (C − 1) − v),   v: the part of it that is luck of seeds and prompts

    Luck that all configurations share moves none apart and is no part of v, which is found by `variance_components`.

    Args:
        table: (configurations, seeds, prompts), any unit; only configurations with a score for every seed count.

    Returns:
        In the unit of the scores: what the choice of hyperparameters moves. 0 where all of the spread is explained by
        luck; NaN with fewer than two such configurations, or with one seed and one prompt. A single seed or a single
        prompt is taken as given, and what it does to single configurations is part of their spread.

    Source: Searle, Casella and McCulloch 1992, Variance Components, chapter 4.
    """
    return math.sqrt(variance_components(table).terms.get("configuration", math.nan))


def describe(scores: ArrayLike) -> Distribution:
    """Count, median, interquartile mean, 10th percentile and maximum of one method's scores.

    Args:
        scores: (configurations,), any unit, one score each (the mean over seeds); NaN dropped.

    Returns:
        The numbers of one row of the summary table; NaN without scores.

    Source: the statistics above.
    """
    values = with_score(scores)
    return Distribution(
        count=values.size,
        median=percentile(values, 50),
        interquartile_mean=interquartile_mean(values),
        tenth_percentile=percentile(values, 10),
        maximum=float(values.max()) if values.size else math.nan,
    )
