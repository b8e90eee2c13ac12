"""ORPO: odds-ratio preference optimisation, in one go with SFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from posweep.objectives.base import (
    PreferenceLogps,
    PreferenceLoss,
    hyperparameter,
    negative_log_sigmoid,
    preference_loss,
)

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-6
"""Largest log p̄ that has odds: nearer to 0 they grow without end."""


@dataclass(frozen=True)
class ORPO:
    """NLL of the chosen response and a logistic loss on the log-odds of the average token probability.

        −log p̄_w − λ log σ( log odds(y_w) − log odds(y_l) ),   odds = p̄/(1 − p̄),   p̄ = exp(log π(y|x)/|y|)

    Designed to start from a base model, without SFT before it; in a sweep it starts where all methods start, from the
    SFT model, and its first term goes on imitating the chosen responses. The NLL is that of the response; public code
    that counts the prompt too optimises something else. log p̄ is taken as at most −1e-6, where the odds are a million
    to one: above, they are infinite.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,), nats per token; rewards λ log-odds(y) (pairs,), detached.

    Source: Hong et al. 2024, arXiv 2403.07691, equations 4 to 7.
    """

    title: ClassVar[str] = "ORPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    odds_weight: float = hyperparameter(0.1, symbol="λ", above=0, scale="log", source="2403.07691")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The ORPO loss and rewards of each pair."""
        chosen, rejected = _log_odds(logps.chosen_average()), _log_odds(logps.rejected_average())
        losses = -logps.chosen_average() + self.odds_weight * negative_log_sigmoid(chosen - rejected)
        return preference_loss(losses, self.odds_weight * chosen, self.odds_weight * rejected)


def _log_odds(average: Tensor) -> Tensor:
    """log(p̄/(1 − p̄)) of log p̄ in nats per token."""
    bounded = average.clamp(max=CERTAIN)
    return bounded - (-bounded.expm1()).log()
