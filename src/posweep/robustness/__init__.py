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

__all__ = [
    "Best",
    "Distribution",
    "cross_fitted_best",
    "describe",
    "interquartile_mean",
    "percentile",
    "share_above",
    "with_score",
]
