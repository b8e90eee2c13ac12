"""Whether the order of methods may be printed: which differences are significant, what choice of ours turns one round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from posweep.robustness.crossed import (
    REPLICATES,
    Interval,
    Sample,
    Variances,
    configuration_scores,
    holm,
    p_value,
    variances,
    what_was_drawn,
)

Table = NDArray[np.float64]
Tiers = tuple[tuple[int, ...], ...]
Claims = tuple[tuple[int, int], ...]
"""Pairs (better, worse) of methods by index."""

LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """An order of methods, as far as the data carry it.

    Attributes:
        tiers: methods by index, best first; between two tiers stands a ">", within one a "≈".
        claims: the significant differences, (better, worse), of whatever tiers.
        broken: variant → the claims that it turns round.
    """

    tiers: Tiers
    claims: Claims
    broken: Mapping[str, Claims]

    @property
    def survives(self) -> bool:
        """Whether the ranking may be printed: it claims something, and no variant turns any of it round."""
        return bool(self.claims) and not self.broken

    @property
    def kept(self) -> Claims:
        """The claims that no variant turns round; each may be printed for itself, whatever becomes of the ranking."""
        turned = {claim for claims in self.broken.values() for claim in claims}
        return tuple(claim for claim in self.claims if claim not in turned)


def ranking(values: Table, adjusted: Table, variants: Mapping[str, Table], level: float = LEVEL) -> Ranking:
    """The order of methods, significant differences only, and which variants of the analysis contradict it.

    A ranking may be printed if it survives every variant that a reader could as well have chosen: the other prior, a
    grid without an outer level, equal numbers of configurations, diverged trials at the worst value. What must survive
    is what is claimed, the significant differences; methods that are not known to differ may change places.

    Args:
        values: the interquartile mean of each method, (methods,); NaN for one without a score, which is left out.
        adjusted: p-values of their differences after Holm, (methods, methods).
        variants: name → the interquartile means under it, (methods,); NaN contradicts nothing.
        level: below which a p-value is significant.

    Returns:
        Tiers, claims and contradictions; one tier where no cut through the order is significant.
    """
    best_first = order(values)
    claims = tuple((a, b) for a, b in combinations(best_first, 2) if adjusted[a, b] < level and values[a] > values[b])
    turned = {name: reversals(claims, other) for name, other in variants.items()}
    return Ranking(tiers(best_first, adjusted, level), claims, {name: found for name, found in turned.items() if found})


def order(values: Table) -> tuple[int, ...]:
    """Methods by index, the highest value first; those without one are left out, equals stay as they stand."""
    there = np.flatnonzero(~np.isnan(values))
    return tuple(int(place) for place in there[np.argsort(-values[there], kind="stable")])


def tiers(order: Sequence[int], adjusted: Table, level: float = LEVEL) -> Tiers:
    """The order cut wherever all above differ significantly from all below.

    "A ≈ B > C" is read as "A and B beat C", so a cut between B and C asks for both differences: a larger difference may
    have a larger error.

    Args:
        order: methods by index, best first.
        adjusted: p-values after Holm, (methods, methods); NaN is not significant.
        level: below which a p-value is significant.
    """
    cuts = [i for i in range(1, len(order)) if (adjusted[np.ix_(order[:i], order[i:])] < level).all()]
    ends = [0, *cuts, len(order)] if order else []
    return tuple(tuple(order[first:last]) for first, last in pairwise(ends))


def reversals(claims: Claims, values: Table) -> Claims:
    """The claims that `values` puts the other way round; NaN contradicts nothing."""
    return tuple((better, worse) for better, worse in claims if values[better] < values[worse])


def typical(scores: Table) -> Table:
    """The interquartile mean over the last axis (configurations), those without a score left out; NaN without any.

    Args:
        scores: (…, configurations); a configuration has a score in all replicates or in none.
    """
    kept = scores[..., ~np.isnan(scores).any(axis=tuple(range(scores.ndim - 1)))]
    if not kept.shape[-1]:
        return np.full(kept.shape[:-1], math.nan)
    cut = kept.shape[-1] // 4
    return np.asarray(np.sort(kept, axis=-1)[..., cut : kept.shape[-1] - cut].mean(axis=-1), dtype=np.float64)


@dataclass(frozen=True)
class Differences:
    """How much the interquartile means of methods differ; arrays (methods, methods), row less column.

    Attributes:
        value: in the unit of the scores; NaN for a method without a score.
        p: of no difference, two-sided; NaN on the diagonal and where nothing can be drawn.
        adjusted: p after Holm over all pairs of methods.
        over: what was drawn, in words.
    """

    value: Table
    p: Table
    adjusted: Table
    over: str


def typical_differences(tables: Sequence[Table], rng: Generator, replicates: int = REPLICATES) -> Differences:
    """Which methods differ in their interquartile mean by more than the luck of seeds and prompts.

        IQM_row − IQM_column

    Args:
        tables: the scores of each of M methods, (configurations, seeds, prompts), on the same seeds and prompts; NaN
            where a run has none.
        rng: draws one set of seeds and one of prompts for all methods.
        replicates: draws of each kind.

    Returns:
        Differences and their p-values (`pooled_p_values`), given the configurations.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3 (the statistic); Satterthwaite 1946 (ν); `holm`.
    """

    def statistic(sample: Sample) -> Table:
        middle = np.stack([typical(configuration_scores(table, sample)) for table in tables], axis=1)
        return middle[:, :, None] - middle[:, None, :]

    seeds, prompts = tables[0].shape[1:]
    found = variances(statistic, seeds, prompts, rng, replicates)
    p = pooled_p_values(found, seeds, prompts)
    return Differences(found.value, p, holm_pairs(p), what_was_drawn(seeds, prompts))


def pooled_p_values(found: Variances, seeds: int, prompts: int, null: float = 0.0) -> Table:
    """Two-sided Student's t of every pair of M methods against `null`, with the variance over seeds pooled over pairs.

        t_ν = (value − null) / √( max(V_s − V_sp, pooled) + V_p ),   pooled: mean of V_s − V_sp over pairs

    Of two or three seeds some pair is bound to show next to no variance over seeds, and would look certain; among many
    pairs that pair would be found. What seeds do is therefore taken as the larger of the pair's own and that of all
    pairs, which rests on (S − 1)(M − 1) degrees of freedom, as the interaction of methods and seeds does in an analysis
    of variance.

    Args:
        found: of `variances`, for a statistic (methods, methods); NaN for a method without a score.
        seeds: S.
        prompts: P.
        null: what no difference is.

    Returns:
        (methods, methods); NaN on the diagonal and where nothing can be drawn.
    """
    pairs = np.triu(np.isfinite(found.value), 1)
    if (seeds < 2 and prompts < 2) or not pairs.any():
        return np.full_like(found.value, math.nan)
    own = found.seeds - found.both
    pooled, methods = float(own[pairs].mean()), int(np.isfinite(np.diag(found.value)).sum())
    by_seed, freedom = np.maximum(own, pooled), np.where(own > pooled, 1, methods - 1) * max(seeds - 1, 1)
    total = by_seed + found.prompts
    spread = by_seed**2 / freedom + found.prompts**2 / max(prompts - 1, 1)
    degrees = np.divide(total**2, spread, out=np.full_like(total, np.inf), where=spread > 0)
    p = p_value(Interval(found.value, np.sqrt(total), degrees, found.value, found.value, ""), null)
    return np.where(pairs | pairs.T, p, math.nan)


def holm_pairs(p_values: Table) -> Table:
    """Holm's correction over all pairs of a symmetric matrix, each pair counted once; the diagonal is NaN."""
    upper = np.triu_indices(len(p_values), 1)
    adjusted = np.full_like(p_values, math.nan)
    adjusted[upper] = holm(p_values[upper])
    adjusted.T[upper] = adjusted[upper]
    return adjusted


def typical_of(scores: Table, count: int, rng: Generator, draws: int = 1000) -> float:
    """The interquartile mean that `count` of a method's configurations would give, on average over which.

        mean over random subsets C of size n of IQM(s_C)

    Equal n for methods searched to unequal depths: the interquartile mean of few lies elsewhere than that of many where
    scores are skewed.

    Args:
        scores: (configurations,), NaN dropped.
        count: n; as many as there are, or more, is all of them.
        rng: draws the subsets.
        draws: how many.

    Returns:
        In the unit of the scores; NaN without scores.
    """
    kept = scores[~np.isnan(scores)]
    if count >= len(kept):
        return float(typical(kept))
    chosen = np.argsort(rng.random((draws, len(kept))), axis=1)[:, :count]
    return float(typical(kept[chosen]).mean())
