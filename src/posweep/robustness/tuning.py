"""What a budget of n trials buys: the expected score of the best of n configurations, and how many it takes.

`ranked` scores are those of the configuration ranked worst, …, best: sorted, or cross-fitted so that the luck of having
been ranked there is gone. Curves are linear in them, which is why they are made once and used for every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kstwo

from posweep.errors import ShapeError
from posweep.robustness.best import Halves
from posweep.robustness.crossed import Sample, Table, configuration_scores

DIGITS = 12  # of a score when ranked: the rest is the order of summation, which would break ties
TOGETHER = 1_000_000  # weights held at once


def tuning_curve(scores: ArrayLike, n: ArrayLike | None = None) -> Table:
    """The expected score of the best of n configurations drawn at random, without replacement, from those that ran.

        E[max of n] = Σ_i [C(i, n) − C(i−1, n)] / C(N, n) · s_(i),   s_(1) ≤ … ≤ s_(N)

    On a grid it is exact for that grid; of random draws it is the unbiased estimate for their distribution, unlike the
    usual one with replacement. Noise in the scores is picked along with merit: `cross_fitted_tuning_curve` frees it.

    Args:
        scores: (…, configurations), any unit; a configuration that is NaN throughout is dropped.
        n: numbers of trials, (budgets,); 1 … N where None.

    Returns:
        (…, budgets), in the unit of the scores: what a search of n trials may expect to find. NaN where n is not between
        1 and the number of configurations.

    Source: Tang et al. 2020, Showing Your Work Doesn't Always Tell the Whole Story, arXiv 2004.13705; Dodge et al. 2019,
        arXiv 1909.03004 (the curve).
    """
    values = np.asarray(scores, dtype=np.float64)
    there = ~np.isnan(values).all(axis=tuple(range(values.ndim - 1)))
    return expected_best(np.sort(values[..., there], axis=-1), n)


def cross_fitted_tuning_curve(
    table: Table, sample: Sample, splits: Sequence[Halves], n: ArrayLike | None = None, selection: Table | None = None
) -> Table:
    """The tuning curve of scores by prompt, with the configurations ranked on other prompts than those that score them.

        ½ ( Σ_i w_ni x̄_B(i; A) + Σ_i w_ni x̄_A(i; B) ),   A, B random halves, (i; A): ranked i-th on A

    With n = 1 it is the mean of all configurations, with n = N the `cross_fitted_best`.

    Args:
        table: (configurations, seeds, prompts), every configuration with a score (see `with_scores`).
        sample: the replicates.
        splits: of `halves`, the same for every method that is compared, and every replicate.
        n: numbers of trials, (budgets,); 1 … N where None.
        selection: scores on other prompts to rank by instead; see `cross_fitted_ranks`.

    Returns:
        (replicates, budgets): what a search of n trials that sees half of the prompts (or those of `selection`) may
        expect its choice to score on the others.

    Source: as `tuning_curve` and `cross_fitted_best`.
    """
    return expected_best(cross_fitted_ranks(table, sample, splits, selection), n)


def cross_fitted_ranks(table: Table, sample: Sample, splits: Sequence[Halves], selection: Table | None = None) -> Table:
    """The score of the configuration ranked worst, …, best, on other prompts than those it is ranked on.

    Args:
        table: (configurations, seeds, prompts), every configuration with a score.
        sample: the replicates; each half of the prompts keeps its weights.
        splits: of `halves`; their mean is taken.
        selection: (configurations, seeds, other prompts), such as in-distribution rows: rank there, with each of those
            prompts weighing the same, and score on all of `table`.

    Returns:
        (replicates, configurations). They need not rise: where configurations are equal they are level, while sorted
        scores always spread. With a single prompt there is nothing to split and they are the sorted scores, of which the
        last flatters.

    Raises:
        ShapeError: `selection` has other configurations or seeds than `table`.
    """
    if selection is None:
        return cross_fitted_ranks_of_all([table], sample, splits)[0]
    if selection.shape[:2] != table.shape[:2]:
        raise ShapeError(f"selection has shape {selection.shape} where scores have {table.shape}.")
    even = Sample(sample.seeds, np.full((len(sample.seeds), selection.shape[2]), 1 / selection.shape[2]))
    return _ranked(configuration_scores(table, sample), by=configuration_scores(selection, even))


def cross_fitted_ranks_of_all(tables: Sequence[Table], sample: Sample, splits: Sequence[Halves]) -> list[Table]:
    """`cross_fitted_ranks` of several methods on the same prompts: each half of them is weighed once for all.

    Args:
        tables: of each method, (configurations, seeds, prompts), every configuration with a score.
        sample: the replicates.
        splits: of `halves`.

    Returns:
        Of each method (replicates, configurations).
    """
    whole, cuts = np.concatenate(list(tables)), np.cumsum([len(table) for table in tables])[:-1]
    if whole.shape[2] < 2:
        return [np.sort(part, axis=1) for part in np.split(configuration_scores(whole, sample), cuts, axis=1)]
    totals = [np.zeros((len(sample.seeds), len(table))) for table in tables]
    for pair in splits:
        scores = [configuration_scores(whole[:, :, half], sample.part(half)) for half in pair]
        for total, one, other in zip(totals, *(np.split(found, cuts, axis=1) for found in scores), strict=True):
            total += _ranked(other, by=one) + _ranked(one, by=other)
    return [total / (2 * len(splits)) for total in totals]


def expected_best(ranked: Table, n: ArrayLike | None = None) -> Table:
    """The tuning curve of scores in the order of their rank, worst first; see `tuning_curve`.

    Args:
        ranked: (…, configurations).
        n: numbers of trials, (budgets,); 1 … N where None.

    Returns:
        (…, budgets).
    """
    count = ranked.shape[-1]
    wanted = np.arange(1, count + 1) if n is None else np.atleast_1d(np.asarray(n, dtype=np.int64))
    found = np.full((*ranked.shape[:-1], len(wanted)), math.nan)
    step = max(1, TOGETHER // max(count, 1))
    for start in range(0, len(wanted), step) if count else ():
        found[..., start : start + step] = ranked @ draw_weights(count, wanted[start : start + step]).T
    return found


def tuning_area(ranked: Table, most: int | None = None) -> Table:
    """The mean of the tuning curve over n = 1 … m: one number for a budget one does not know.

    Args:
        ranked: (…, configurations), worst first.
        most: m; all N configurations where None. Methods of unequal N are compared at an m that all of them have.

    Returns:
        (…), in the unit of the scores: between the mean, which is the curve at n = 1, and the best. NaN without
        configurations, or with fewer than m.
    """
    count = ranked.shape[-1]
    most = count if most is None else most
    if not 1 <= most <= count:
        return np.full(ranked.shape[:-1], math.nan)
    budgets, step = np.arange(1, most + 1), max(1, TOGETHER // count)
    total = sum(draw_weights(count, budgets[start : start + step]).sum(axis=0) for start in range(0, most, step))
    return np.asarray(ranked @ (total / most), dtype=np.float64)


def draw_variance(ranked: Table, n: ArrayLike) -> Table:
    """How much the tuning curve would vary over other random draws of as many configurations: the jackknife.

        (N−1)/N Σ_k (y_n^(−k) − ȳ_n)²,   y^(−k): the curve without the configuration ranked k-th

    Args:
        ranked: (configurations,), worst first, of configurations drawn at random and independently.
        n: numbers of trials, (budgets,), well below N: of the best of all, leaving one out says little.

    Returns:
        (budgets,), in squared units of the scores; NaN where n is not between 1 and N − 1.

    Source: Efron and Stein 1981, The jackknife estimate of variance.
    """
    count, wanted = len(ranked), np.atleast_1d(np.asarray(n, dtype=np.int64))
    if count < 2:
        return np.full(len(wanted), math.nan)
    weights = draw_weights(count - 1, wanted)
    nothing = np.zeros((len(wanted), 1))
    below = np.concatenate([nothing, np.cumsum(weights * ranked[:-1], axis=1)], axis=1)
    above = np.concatenate([nothing, np.cumsum((weights * ranked[1:])[:, ::-1], axis=1)], axis=1)[:, ::-1]
    return np.asarray((below + above).var(axis=1) * (count - 1), dtype=np.float64)


def tuning_cost(curve: Table, share: float = 0.95, floor: float = 0.0, n: ArrayLike | None = None) -> Table:
    """How many trials it takes to reach most of what the whole search reaches.

        min { n : y_n ≥ f + share · (y_N − f) }

    Args:
        curve: y, (…, budgets), from `tuning_curve` or its cross-fitted version.
        share: of the best, 95 %.
        floor: f, from where the share is measured, in the unit of the scores. 0 takes the raw value, so 95 % of a
            win-rate of 0.60 is 0.57; ½ asks for 95 % of the way from the SFT model to the best.
        n: the budgets of the curve; 1 … N where None.

    Returns:
        (…), trials: few where most configurations are good, many where one must find the needle. NaN where the best is
        not above the floor, of which a share says nothing, and without a curve.
    """
    budgets = np.arange(1, curve.shape[-1] + 1) if n is None else np.asarray(n)
    if not curve.shape[-1]:
        return np.full(curve.shape[:-1], math.nan)
    best = curve[..., -1:]
    reached = curve >= floor + share * (best - floor)
    return np.where(best[..., 0] > floor, budgets[reached.argmax(axis=-1)], math.nan)


def tuning_band(
    scores: ArrayLike, n: ArrayLike, low: float = 0.0, high: float = 1.0, level: float = 0.95
) -> tuple[Table, Table]:
    """Between which curves the tuning curve of all configurations lies, for every n at once; for random draws only.

        [ b − ∫_a^b F₊(y)ⁿ dy,  b − ∫_a^b F₋(y)ⁿ dy ],   F₋ ≤ F ≤ F₊ of `distribution_band`

    It is about which configurations were drawn, given seeds and prompts; the points of a grid, of a quasi-random sequence
    or of an adaptive search are no independent draws and have no such band.

    Args:
        scores: (configurations,), independent draws; NaN dropped.
        n: numbers of trials, (budgets,), at least 1.
        low: a, the lowest score there can be; 0 for shares.
        high: b, the highest.
        level: of confidence, for all n together.

    Returns:
        Lower and upper curve, (budgets,) each; NaN without scores. However few draws there are, the curve is inside at
        least as often as `level` says: exactly so often the whole distribution is, and its means leave it less easily.
        The upper curve tends to b: no sample excludes a rare excellent configuration.

    Source: Lourie, Cho and He 2024, Show Your Work with Confidence, arXiv 2311.09480.
    """
    values = np.asarray(scores, dtype=np.float64)
    ordered = np.sort(values[~np.isnan(values)])
    powers = np.atleast_1d(np.asarray(n, dtype=np.float64))[:, None]
    if not len(ordered):
        return np.full(len(powers), math.nan), np.full(len(powers), math.nan)
    steps = np.diff(ordered, prepend=low, append=high)
    under, over = distribution_band(len(ordered), level)
    return high - over**powers @ steps, high - under**powers @ steps


def distribution_band(count: int, level: float = 0.95) -> tuple[Table, Table]:
    """Between which values a distribution function lies at every y, seen from independent draws.

        F̂ ± d within [0, 1],   P(D_N ≤ d) = level

    D_N is the Kolmogorov–Smirnov statistic, whose distribution is the same for every continuous distribution of scores:
    the band is exact for any number of draws. Scores that tie make it wider than need be.

    Args:
        count: N, draws.
        level: of confidence, for all y together.

    Returns:
        Lower and upper bound between the i-th and the next of the sorted draws, i = 0 … N: (N + 1,) each.

    Source: Kolmogorov 1933; Marsaglia, Tsang and Wang 2003 (the distribution, as scipy computes it).
    """
    empirical, margin = np.arange(count + 1) / count, float(kstwo.ppf(level, count))
    return np.maximum(empirical - margin, 0.0), np.minimum(empirical + margin, 1.0)


def draw_weights(count: int, wanted: NDArray[np.int64]) -> Table:
    """How likely the best of n of N is the one ranked i-th, (budgets, N): from the top, n/N · Π_{k=i+1}^{N} (k−n)/(k−1).

    A product of factors between 0 and 1: exact to rounding for any N, where binomials overflow.
    """
    rank, n = np.arange(count, 0, -1), wanted[:, None]
    factors = np.ones((len(wanted), count))
    factors[:, 1:] = np.maximum(rank[:-1] - n, 0) / np.maximum(rank[:-1] - 1, 1)
    factors[:, :1] = n / max(count, 1)
    inside = (wanted >= 1) & (wanted <= count)
    return np.where(inside[:, None], np.cumprod(factors, axis=1)[:, ::-1], math.nan)


def _ranked(scores: Table, by: Table) -> Table:
    """Scores in the order of others, worst first; of equals the first counts as the better, as in `cross_fitted_best`."""
    order = np.argsort(-np.round(by, DIGITS), axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(scores, order, axis=1)
