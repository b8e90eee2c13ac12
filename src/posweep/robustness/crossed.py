"""How sure a statistic is: every replicate draws one set of seeds and one of prompts, for all configurations and methods.

Scores come as tables (configurations, seeds, prompts). Seeds and prompts are crossed: the same seeds and the same prompts
stand behind every configuration, so their luck is common to all and must be drawn in common. Draws per configuration
would average it away and cover 56 % instead of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from posweep.errors import ShapeError

Table = NDArray[np.float64]

REPLICATES = 400
"""Draws of each kind; they give a standard error to about 4 %."""


@dataclass(frozen=True)
class Sample:
    """How much each seed and each prompt weighs in each replicate.

    Attributes:
        seeds: (replicates, seeds), rows add up to 1.
        prompts: (replicates, prompts), rows add up to 1.
    """

    seeds: Table
    prompts: Table

    @classmethod
    def everything(cls, seeds: int, prompts: int) -> Sample:
        """One replicate in which all weigh the same: the data as they are."""
        return cls(_even(1, seeds), _even(1, prompts))

    @classmethod
    def of_seeds(cls, rng: Generator, seeds: int, prompts: int, replicates: int) -> Sample:
        """Seeds drawn with replacement; every prompt counts once."""
        return cls(_drawn(rng, replicates, seeds), _even(replicates, prompts))

    @classmethod
    def of_prompts(cls, rng: Generator, seeds: int, prompts: int, replicates: int) -> Sample:
        """Prompts drawn with replacement; every seed counts once."""
        return cls(_even(replicates, seeds), _drawn(rng, replicates, prompts))

    def part(self, prompts: NDArray[np.intp]) -> Sample:
        """The same on some of its prompts, by place; where none of them was drawn, each weighs the same."""
        weights = self.prompts[:, prompts]
        total = weights.sum(axis=1, keepdims=True)
        even = 1 / max(len(prompts), 1)
        return Sample(self.seeds, np.where(total > 0, weights / np.where(total > 0, total, 1.0), even))


Statistic = Callable[[Sample], NDArray[np.float64]]
"""From a sample to (replicates, …); it reads its own tables, all under the same sample."""


@dataclass(frozen=True)
class Interval:
    """A statistic and how sure it is; arrays of the statistic's own shape.

    Attributes:
        value: the statistic of the data as they are.
        error: its standard error; NaN where nothing can be drawn.
        freedom: degrees of freedom of the error; ∞ where it is over prompts alone and those are many.
        low: lower end of the interval.
        high: its upper end.
        over: what was drawn, in words for a caption: an interval says nothing of what was not.
    """

    value: Table
    error: Table
    freedom: Table
    low: Table
    high: Table
    over: str

    def __getitem__(self, index: Any) -> Interval:
        """The same of a part of the statistic."""
        return Interval(
            self.value[index], self.error[index], self.freedom[index], self.low[index], self.high[index], self.over
        )


def run_scores(table: Table, prompts: Table) -> Table:
    """The score of every run under each replicate's prompts.

        s_rcj = Σ_p v_rp x_cjp

    Args:
        table: x, (configurations, seeds, prompts).
        prompts: v, (replicates, prompts), rows add up to 1.

    Returns:
        (replicates, configurations, seeds); NaN where a run has no score.
    """
    configurations, seeds, count = table.shape
    drawn = prompts[:1] if (prompts == prompts[:1]).all() else prompts  # where only seeds are drawn, all rows are one
    found = (drawn @ table.reshape(-1, count).T).reshape(len(drawn), configurations, seeds)
    return np.broadcast_to(found, (len(prompts), configurations, seeds))


def configuration_scores(table: Table, sample: Sample) -> Table:
    """The score of every configuration in each replicate: a mean over prompts and over the seeds that finished.

        s_rc = Σ_j w_rj s_rcj / Σ_j w_rj   over seeds j in which the configuration has a score

    Args:
        table: (configurations, seeds, prompts); NaN where a run has no score.
        sample: the replicates.

    Returns:
        (replicates, configurations). A configuration none of whose finished seeds was drawn keeps the mean of all that
        finished; one that never finished is NaN.
    """
    there = finished(table)
    runs = np.where(there, run_scores(table, sample.prompts), 0.0)
    total = np.einsum("rcj,rj->rc", runs, sample.seeds)
    if there.all():
        return total
    weight = sample.seeds @ there.T
    kept = runs.sum(axis=2) / np.maximum(there.sum(axis=1), 1)
    found = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), kept)
    return np.where(there.any(axis=1), found, np.nan)


def with_scores(table: Table) -> Table:
    """The configurations that finished with at least one seed; ShapeError where it is no table of scores."""
    if table.ndim != 3:
        raise ShapeError(f"scores must have shape (configurations, seeds, prompts), got {table.shape}.")
    return table[finished(table).any(axis=1)]


def finished(table: Table) -> NDArray[np.bool_]:
    """Which runs have a score for every prompt, (configurations, seeds)."""
    return np.asarray(np.isfinite(table).all(axis=2), dtype=np.bool_)


def crossed_interval(
    statistic: Statistic,
    seeds: int,
    prompts: int,
    rng: Generator,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """An interval for a statistic over other seeds and other prompts, given the configurations and the SFT checkpoint.

        value ± t_ν √V,   V = V_s + V_p − V_sp,   ν = V² / ( V_s²/(S−1) + V_p²/(P−1) )
        V_s = S/(S−1) · variance over draws of seeds,   V_p = P/(P−1) · … of prompts

    Each draw is one set of seeds or of prompts for all configurations and methods. V_sp is what both hold, the luck of
    single responses: the variance of what drawing seeds and prompts together does beyond drawing each (at most V_s and
    V_p). In a difference of methods little else is left, so counting it twice would make their intervals √2 too wide.
    Percentiles of a bootstrap of few seeds are too narrow (1/2/3/5 seeds: 0.52/0.81/0.91/0.95 of 95 %); the factors and
    Student's t put that right, so that two seeds give a wide interval rather than a wrong one. Bootstrap distributions
    of maxima and quantiles are shifted against the statistic, so only their spread is used, around the statistic itself.

    Args:
        statistic: from a `Sample` to (replicates, …).
        seeds: S; one seed is not drawn, and the interval then holds for this seed.
        prompts: P; one prompt (scores without rows behind them) is not drawn.
        rng: draws seeds, then prompts.
        replicates: draws of each kind.
        level: of confidence.

    Returns:
        The interval. With one seed and one prompt there is nothing to draw: error and ends are NaN.

    Source: Owen 2007, The pigeonhole bootstrap, arXiv 0712.1111 (crossed draws, and that they count the interaction
        twice); Satterthwaite 1946 (ν); Efron and Tibshirani 1993, chapter 6 (the standard error of a bootstrap).
    """
    return interval_of(variances(statistic, seeds, prompts, rng, replicates), seeds, prompts, level)


def interval_of(found: Variances, seeds: int, prompts: int, level: float = 0.95) -> Interval:
    """The interval that variances make; see `crossed_interval`."""
    value = found.value
    if seeds < 2 and prompts < 2:
        nothing = np.full_like(value, math.nan)
        return Interval(value, nothing, nothing, nothing, nothing, what_was_drawn(seeds, prompts))
    total = found.seeds + found.prompts - found.both
    spread = found.seeds**2 / max(seeds - 1, 1) + found.prompts**2 / max(prompts - 1, 1)
    freedom = np.divide(total**2, spread, out=np.full_like(total, np.inf), where=spread > 0)
    error = np.sqrt(total)
    margin = student.ppf((1 + level) / 2, freedom) * error
    return Interval(value, error, freedom, value - margin, value + margin, what_was_drawn(seeds, prompts))


@dataclass(frozen=True)
class Variances:
    """A statistic and the variance of it that seeds and prompts make; arrays of the statistic's own shape.

    Attributes:
        value: the statistic of the data as they are.
        seeds: V_s, over other seeds on the same prompts; 0 where there is but one.
        prompts: V_p, over other prompts with the same seeds; 0 where there is but one.
        both: V_sp, the part that both hold.
    """

    value: Table
    seeds: Table
    prompts: Table
    both: Table

    def __getitem__(self, index: Any) -> Variances:
        """The same of a part of the statistic."""
        return Variances(self.value[index], self.seeds[index], self.prompts[index], self.both[index])


def variances(
    statistic: Statistic, seeds: int, prompts: int, rng: Generator, replicates: int = REPLICATES
) -> Variances:
    """The variances behind `crossed_interval`; arguments as there."""
    value = statistic(Sample.everything(seeds, prompts))[0]
    drawn = Sample.of_seeds(rng, seeds, prompts, replicates), Sample.of_prompts(rng, seeds, prompts, replicates)
    by_seed = statistic(drawn[0]) if seeds > 1 else value[None]
    by_prompt = statistic(drawn[1]) if prompts > 1 else value[None]
    over_seeds, over_prompts = _variance(by_seed, seeds), _variance(by_prompt, prompts)
    if seeds < 2 or prompts < 2:
        return Variances(value, over_seeds, over_prompts, np.zeros_like(value))
    together = statistic(Sample(drawn[0].seeds, drawn[1].prompts)) - by_seed - by_prompt + value
    both = _variance(together, seeds) * prompts / (prompts - 1)
    return Variances(value, over_seeds, over_prompts, np.minimum(both, np.minimum(over_seeds, over_prompts)))


def what_was_drawn(seeds: int, prompts: int) -> str:
    """What an interval is over, for a caption."""
    if seeds > 1 and prompts > 1:
        return f"{seeds} seeds and {prompts} prompts, given this SFT checkpoint"
    if prompts > 1:
        return f"{prompts} prompts, given this seed and this SFT checkpoint"
    if seeds > 1:
        return f"{seeds} seeds, given these prompts and this SFT checkpoint"
    return "nothing: one seed and no scores by prompt"


def p_value(interval: Interval, null: float = 0.0) -> Table:
    """How often a statistic would lie this far from `null` by luck of seeds and prompts: two-sided Student's t.

        2 · P( T_ν > |value − null| / error )

    Returns:
        Of the interval's shape; 1 where value and null agree without error, 0 where they differ without error, NaN
        where there is no error to speak of.
    """
    distance = np.abs(interval.value - null)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distance == 0, 0.0, distance / interval.error)
    found = 2 * student.sf(ratio, interval.freedom)
    return np.where(np.isnan(interval.error), np.nan, found)


def holm(p_values: ArrayLike) -> Table:
    """p-values that may be read together: the chance that any of them is below α by luck alone stays below α.

        p̃_(i) = min(1, max_{j ≤ i} (m − j + 1) p_(j)),   p_(1) ≤ … ≤ p_(m)

    Args:
        p_values: any shape; NaN is no test and stays NaN.

    Returns:
        Adjusted p-values in the same shape.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=np.float64)
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")[: int((~np.isnan(flat)).sum())]
    adjusted = np.full_like(flat, math.nan)
    steps = flat[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted.reshape(values.shape)


def _variance(replicates: Table, count: int) -> Table:
    """The variance over replicates, freed of its bias in small samples; 0 where there is but one to draw."""
    if count < 2:
        return np.zeros_like(replicates[0])
    return np.asarray(replicates.var(axis=0, ddof=1) * count / (count - 1), dtype=np.float64)


def _even(replicates: int, count: int) -> Table:
    return np.full((replicates, count), 1 / count)


def _drawn(rng: Generator, replicates: int, count: int) -> Table:
    return rng.multinomial(count, np.full(count, 1 / count), replicates) / count
