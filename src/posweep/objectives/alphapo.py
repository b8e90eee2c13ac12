"""AlphaPO: SimPO with a reward of another shape."""

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

CAP = 20.0
"""Largest exponent −α log p̄: e^20 times any β is a number, and no policy gets there."""


@dataclass(frozen=True)
class AlphaPO:
    """SimPO whose reward is not log p̄ but (1 − p̄^−α)/α, so that α shapes how hard unlikely responses are pushed.

        −log σ( β (r_w − r_l) − γ ),   r = (1 − p̄^−α)/α,   p̄ = exp(log π(y|x)/|y|)

    α = 0 is the limit r = log p̄, which is SimPO. The exponent −α log p̄ is taken as at most 20: at α = 0.25 that is an
    average of −80 nats a token; beyond it the reward is flat. As in SimPO, γ is the margin itself.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,); rewards β r (pairs,), detached.

    Source: Gupta et al. 2025, arXiv 2501.03884.
    """

    title: ClassVar[str] = "AlphaPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    alpha: float = hyperparameter(0.25, symbol="α", at_least=-2, at_most=2, source="2501.03884, table 3")
    beta: float = hyperparameter(2.5, symbol="β", above=0, scale="log", source="2501.03884, table 3")
    gamma: float = hyperparameter(
        0.1, symbol="γ", at_least=0, source="2501.03884, table 3; perhaps γ/β there, unconfirmed"
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The AlphaPO loss and rewards of each pair."""
        chosen = self.beta * self._shaped(logps.chosen_average())
        rejected = self.beta * self._shaped(logps.rejected_average())
        return preference_loss(negative_log_sigmoid(chosen - rejected - self.gamma), chosen, rejected)

    def _shaped(self, average: Tensor) -> Tensor:
        """(1 − p̄^−α)/α of log p̄ in nats per token; log p̄ itself at α = 0."""
        if self.alpha == 0:
            return average
        return -(-self.alpha * average).clamp(max=CAP).expm1() / self.alpha
