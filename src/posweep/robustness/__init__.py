"""What the trials say together: pure functions on score tables, one statistic each."""

from posweep.robustness.agreement import RankAgreement, agreement, kappa, rank_agreement
from posweep.robustness.best import Best, cross_fitted_best
from posweep.robustness.crossed import (
    Interval,
    Sample,
    configuration_scores,
    crossed_interval,
    holm,
    p_value,
    run_scores,
    with_scores,
)
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
    "Interval",
    "RankAgreement",
    "Sample",
    "agreement",
    "configuration_scores",
    "cross_fitted_best",
    "crossed_interval",
    "describe",
    "effects",
    "holm",
    "interquartile_mean",
    "kappa",
    "p_value",
    "percentile",
    "rank_agreement",
    "run_scores",
    "share_above",
    "with_score",
    "with_scores",
]
