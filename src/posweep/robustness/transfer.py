"""What one task says of another: whether configurations keep their order, and what the best of one is worth on the other.

A task is a data set, a model or a set of seeds. Tables hold the same configurations in the same order on both tasks; seeds
and prompts are each task's own, and drawn for each by itself, unless both are judged on the very same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from posweep.errors import ShapeError
from posweep.robustness.best import Halves
from posweep.robustness.crossed import (
    REPLICATES,
    Interval,
    Sample,
    configuration_scores,
    finished,
    variances,
    what_was_drawn,
)

Table = NDArray[np.float64]
Pair = tuple[Sample, Sample]
"""The same number of replicates of the one task and of the other."""

DIGITS = 12  # of a score: the rest is the order of summation, which would break ties
PARTS = ("transferred", "best", "default", "typical")
"""What `transfer` finds, in order."""


@dataclass(frozen=True)
class Tasks:
    """How many seeds and prompts stand behind the scores of either task.

    Attributes:
        seeds: of the one and of the other; their luck is apart.
        prompts: of the one and of the other.
        same_prompts: whether both are judged on the very same prompts, whose luck is then common to both.
    """

    seeds: tuple[int, int]
    prompts: tuple[int, int]
    same_prompts: bool = False

    @classmethod
    def of(cls, one: Table, other: Table, same_prompts: bool = False) -> Tasks:
        """Those of two tables (configurations, seeds, prompts); ShapeError where the tables do not go together."""
        if one.ndim != 3 or other.ndim != 3 or len(one) != len(other):
            raise ShapeError(f"both tables must hold the same configurations, got {one.shape} and {other.shape}.")
        if same_prompts and one.shape[2] != other.shape[2]:
            raise ShapeError(f"tasks on the same prompts must have as many, got {one.shape[2]} and {other.shape[2]}.")
        return cls((one.shape[1], other.shape[1]), (one.shape[2], other.shape[2]), same_prompts)

    def everything(self, replicates: int = 1) -> Pair:
        """The data of both tasks as they are, so many times."""
        one, other = (Sample.everything(s, p) for s, p in zip(self.seeds, self.prompts, strict=True))
        return _repeated(one, replicates), _repeated(other, replicates)

    def with_one(self, task: int, drawn: Sample) -> Pair:
        """Replicates in which one task is drawn and the other is as it is, but for prompts that are the same."""
        pair = list(self.everything(len(drawn.seeds)))
        pair[task] = drawn
        if self.same_prompts:
            pair[1 - task] = Sample(pair[1 - task].seeds, drawn.prompts)
        return pair[0], pair[1]

    @property
    def over(self) -> str:
        """What an interval is over, for a caption."""
        first, second = (what_was_drawn(s, p) for s, p in zip(self.seeds, self.prompts, strict=True))
        common = "; the prompts are the same and drawn once for both" if self.same_prompts else ""
        return f"the one task's {first}, and the other's {second}{common}"


def two_task_interval(
    statistic: Callable[[Sample, Sample], Table],
    tasks: Tasks,
    rng: Generator,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """An interval for a statistic of two tasks, over other seeds and prompts of both, given the configurations.

        value ± t_ν √V,   V = Σ_tasks ( V_s + V_p − V_sp ),   ν = V² / Σ_tasks ( V_s²/(S−1) + V_p²/(P−1) )

    V_s, V_p and V_sp of a task are those of `crossed_interval`, drawn while the other task stays as it is. Prompts that are
    the same are drawn for both at once and counted once.

    Args:
        statistic: from a sample of each task to (replicates, …).
        tasks: how many seeds and prompts there are.
        rng: draws.
        replicates: draws of each kind.
        level: of confidence.

    Returns:
        The interval; error and ends are NaN where nothing can be drawn.

    Source: as `crossed_interval`, with the luck of two tasks instead of one.
    """
    found = [
        variances(lambda drawn, task=task: statistic(*tasks.with_one(task, drawn)), seeds, prompts, rng, replicates)  # type: ignore[misc]
        for task, (seeds, prompts) in enumerate(zip(tasks.seeds, tasks.prompts, strict=True))
    ]
    value = found[0].value
    if max(*tasks.seeds, *tasks.prompts) < 2:
        nothing = np.full_like(value, math.nan)
        return Interval(value, nothing, nothing, nothing, nothing, tasks.over)
    prompts = [one.prompts for one in found]
    by_prompts = [(prompts[0] + prompts[1]) / 2] if tasks.same_prompts else prompts
    parts = [(one.seeds, count) for one, count in zip(found, tasks.seeds, strict=True)]
    parts += [(part, count) for part, count in zip(by_prompts, tasks.prompts, strict=False)]
    total = np.maximum(sum(part for part, _ in parts) - sum(one.both for one in found), 0.0)
    spread = sum(part**2 / max(count - 1, 1) for part, count in parts)
    freedom = np.divide(total**2, spread, out=np.full_like(total, np.inf), where=spread > 0)
    error = np.sqrt(total)
    margin = student.ppf((1 + level) / 2, freedom) * error
    return Interval(value, error, freedom, value - margin, value + margin, tasks.over)


def rank_correlation(one: Table, other: Table) -> Table:
    """Whether configurations that do well on one task do well on the other: Spearman's ρ of their scores.

        ρ = Σ (r_c − r̄)(r′_c − r̄′) / √( Σ (r_c − r̄)² Σ (r′_c − r̄′)² ),   r: ranks, equals share theirs

    Args:
        one: scores on the one task, (…, configurations).
        other: scores of the same configurations on the other; a configuration with a NaN on either is left out.

    Returns:
        (…), between −1 and 1: 1 where both tasks order them alike, 0 where one order says nothing of the other. Noise of
        seeds and prompts lowers it, so that tasks that agree in truth stay below 1. NaN with fewer than two
        configurations, or where one task puts all of them level.

    Source: Spearman 1904, The proof and measurement of association between two things.
    """
    there = ~(np.isnan(one) | np.isnan(other)).any(axis=tuple(range(one.ndim - 1)))
    first, second = (rankdata(np.round(scores[..., there], DIGITS), axis=-1) for scores in (one, other))
    if not there.any():
        return np.full(one.shape[:-1], math.nan)
    first, second = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    return np.divide((first * second).sum(axis=-1), scale, out=np.full(scale.shape, math.nan), where=scale > 0)


def transfer(
    one: Table,
    other: Table,
    samples: Pair,
    splits: Sequence[Halves],
    default: int | None = None,
    same_prompts: bool = False,
) -> Table:
    """What tuning on one task is worth on another: scores on the other task of four choices.

        transferred: s^B[argmax_c t_c],   best: s^B[argmax_c s^A_c],   default: s^B[default],   typical: mean_c s^B_c

    t are scores on the one task; s^A, s^B those on the other, on two halves of its prompts, each choosing for the other.
    best − transferred is the regret of not tuning again; transferred − default what tuning elsewhere gave.
    All four are scored on the same halves. Where both tasks have the same prompts, t too is read off the half that is not
    scored: luck that a configuration has with a prompt on both tasks would flatter it.

    Args:
        one: scores on the task that chooses, (configurations, seeds, prompts); NaN where a run has none.
        other: scores of the same configurations on the other task, (configurations, other seeds, other prompts).
        samples: the replicates of both.
        splits: halves of the other task's prompts (`best.halves`), or of its seeds where scores have one prompt.
        default: the configuration that is the default, if one is.
        same_prompts: whether both tasks are judged on the same prompts.

    Returns:
        (replicates, 4), in the unit of the other task's scores, in the order of `PARTS`. Only configurations with a score
        on both tasks count. `best` is NaN where the other task has one seed and one prompt and nothing can be split;
        `default` where it has no score; all of them where no configuration has both.

    Source: cross-fitting as in Chernozhukov et al. 2018, arXiv 1608.00060; transfer of hyperparameters between tasks as
        in Probst, Boulesteix and Bischl 2019, arXiv 1802.09596.
    """
    by_prompt = other.shape[2] > 1
    enough = np.any if by_prompt else np.all
    both = np.asarray(np.any(finished(one), axis=1) & enough(finished(other), axis=1), dtype=np.bool_)
    place = int(both[:default].sum()) if default is not None and both[default] else None
    one, other = one[both], other[both]
    replicates = len(samples[0].prompts)
    if not len(one):
        return np.full((replicates, len(PARTS)), math.nan)
    chooser, axis = configuration_scores(one, samples[0]), 2 if by_prompt else 1
    if other.shape[axis] < 2:
        return _choices(configuration_scores(other, samples[1]), chooser, None, place)
    total = np.zeros((replicates, len(PARTS)))
    for half, rest in (order for pair in splits for order in (pair, pair[::-1])):
        own, scored = (_on(other, samples[1], part, axis) for part in (half, rest))
        elsewhere = _on(one, samples[0], half, 2) if same_prompts and by_prompt else chooser
        total += _choices(scored, elsewhere, own, place)
    return total / (2 * len(splits))


def _choices(scored: Table, elsewhere: Table, own: Table | None, default: int | None) -> Table:
    """The four scores, (replicates, 4)."""
    rows = np.arange(len(scored))
    found = np.full((len(scored), len(PARTS)), math.nan)
    found[:, 0] = scored[rows, elsewhere.argmax(axis=1)]
    if own is not None:
        found[:, 1] = scored[rows, own.argmax(axis=1)]
    if default is not None:
        found[:, 2] = scored[:, default]
    found[:, 3] = scored.mean(axis=1)
    return found


def _on(table: Table, sample: Sample, part: NDArray[np.intp], axis: int) -> Table:
    """Scores of the configurations on some prompts (axis 2) or some seeds (axis 1) alone, (replicates, configurations)."""
    weights = (sample.prompts if axis == 2 else sample.seeds)[:, part]
    total = weights.sum(axis=1, keepdims=True)
    even = np.full_like(weights, 1 / len(part))  # of a replicate that drew none of them
    weights = np.divide(weights, total, out=even, where=total > 0)
    cut = Sample(sample.seeds, weights) if axis == 2 else Sample(weights, sample.prompts)
    return configuration_scores(np.take(table, part, axis=axis), cut)


def _repeated(sample: Sample, replicates: int) -> Sample:
    return Sample(np.repeat(sample.seeds, replicates, axis=0), np.repeat(sample.prompts, replicates, axis=0))
