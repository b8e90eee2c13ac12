"""Which share of a method's configurations will do: nearly as good as its best, better than the SFT model, worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posweep.robustness.crossed import Interval

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Beating:
    """Shares of configurations on either side of a score; each between 0 and 1, NaN without configurations.

    Attributes:
        beats: their score is above.
        surely_beats: their own interval is above, too.
        harms: their score is below.
        surely_harms: their own interval is below, too.
    """

    beats: float
    surely_beats: float
    harms: float
    surely_harms: float


def robust_share(ranked: Table, epsilon: ArrayLike) -> Table:
    """The share of configurations within ε of the best: how little one can do wrong.

        #{i : s_(i) ≥ s_(N) − ε} / N

    Args:
        ranked: (…, configurations), worst first: of `cross_fitted_ranks`, or sorted. Of sorted scores the best is the
            luckiest, and few come near it: of 24 equal configurations on 256 prompts 0.14 lie within 0.02 of it, where
            all should. Cross-fitted ones are level there and give 0.80. Where configurations do differ, the share of
            cross-fitted ones errs upward: it is about the best that half of the prompts can find.
        epsilon: ε, (tolerances,), in the unit of the scores.

    Returns:
        (…, tolerances), shares that rise with ε; NaN without configurations.

    Source: the share of ε-good arms of bandits, Mason et al. 2020, arXiv 2006.08850, cross-fitted as `cross_fitted_best`.
    """
    tolerances = np.atleast_1d(np.asarray(epsilon, dtype=np.float64))
    if not ranked.shape[-1]:
        return np.full((*ranked.shape[:-1], len(tolerances)), math.nan)
    behind = np.round(ranked[..., -1:] - ranked, 12)  # ε itself is within ε, whatever the rounding
    within = [(behind <= tolerance).mean(axis=-1) for tolerance in tolerances]
    return np.stack(within, axis=-1) if within else np.empty((*ranked.shape[:-1], 0))


def beating(interval: Interval, than: float = 0.5) -> Beating:
    """Which share of configurations beats a score and which falls short, by point estimate and beyond doubt.

        beats: #{i : s_i > τ} / N,   surely: #{i : low_i > τ} / N,   and likewise below

    Args:
        interval: of each configuration's own score, (configurations,).
        than: τ; ½ for a win-rate against the SFT model.

    Returns:
        The four shares. What is neither surely better nor surely worse is undecided. Each interval is at its own level:
        of configurations that equal τ, half of 5 % come out surely better by luck. A configuration without an interval
        is undecided.
    """
    count = len(interval.value)
    if not count:
        return Beating(*[math.nan] * 4)
    places = (interval.value > than, interval.low > than, interval.value < than, interval.high < than)
    return Beating(*(float(place.sum() / count) for place in places))
