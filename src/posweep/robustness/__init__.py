"""What the trials say together: pure functions on score tables, one statistic each."""

from posweep.robustness.best import Best, cross_fitted_best
from posweep.robustness.distribution import (
    Distribution,
    describe,
    interquartile_mean,
    percentile,
    share_above,
    with_score,
)
from posweep.robustness.effects import Effect, effects

__all__ = [
    "Best",
    "Distribution",
    "Effect",
    "cross_fitted_best",
    "describe",
    "effects",
    "interquartile_mean",
    "percentile",
    "share_above",
    "with_score",
]
