"""What a method gives once one of its settings is tuned: the other settings' distribution at the level that is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from posweep.robustness.best import Halves
from posweep.robustness.crossed import Sample, configuration_scores, finished, with_scores

Table = NDArray[np.float64]
Choice = tuple[Hashable, NDArray[np.intp]]
"""A level, and the prompts on which it was not chosen."""


def chosen_levels(table: Table, levels: Sequence[Hashable], splits: Sequence[Halves]) -> list[Choice]:
    """The level of a setting whose configurations do best on average, by each half of the prompts.

        argmax_ℓ mean_{c: ℓ_c = ℓ} mean_{p ∈ half} s_cp

    Args:
        table: (configurations, seeds, prompts); NaN where a run has no score. Configurations without any are ignored.
        levels: of the setting, such as a learning rate, one per configuration.
        splits: of `halves`.

    Returns:
        Two choices per split: the level, the first of equals, and the prompts of the other half. None where no
        configuration has a score.
    """
    means = np.nanmean(with_scores(table), axis=1)
    kept = [level for level, runs in zip(levels, finished(table), strict=True) if runs.any()]
    by_level = {level: means[[other == level for other in kept]].mean(axis=0) for level in dict.fromkeys(kept)}
    pairs = [order for pair in splits for order in (pair, pair[::-1])] if by_level else []
    return [(max(by_level, key=lambda level: by_level[level][half].mean()), other) for half, other in pairs]


def at_chosen_levels(
    table: Table,
    levels: Sequence[Hashable],
    choices: Sequence[Choice],
    statistic: Callable[[Table], Table],
    sample: Sample,
) -> Table:
    """A statistic of the configurations at the level that one half of the prompts chose, on the scores of the other half.

        mean over choices (ℓ, half) of T( { s_c : ℓ_c = ℓ, on half } )

    Chosen and scored on the same prompts, it would flatter as a maximum does. It answers "how does the method spread if
    its learning rate alone is tuned?", beside the distribution over everything.

    Args:
        table: (configurations, seeds, prompts).
        levels: of the setting, one per configuration.
        choices: of `chosen_levels`, on this table or, for an interval given the choices, the same in every replicate.
        statistic: from (replicates, configurations) to (replicates, …); configurations without a score are NaN.
        sample: the replicates.

    Returns:
        (replicates, …); NaN without choices.

    Source: cross-fitting as in Chernozhukov et al. 2018, arXiv 1608.00060, with prompts as the sample that is split.
    """
    found = []
    for level, half in choices:
        part = table[[other == level for other in levels]][:, :, half]
        found.append(statistic(configuration_scores(part, sample.part(half))))
    if not found:
        return np.full_like(statistic(configuration_scores(table, sample)), math.nan)
    return np.mean(found, axis=0)
