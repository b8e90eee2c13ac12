"""DPOP (DPO-positive): DPO that does not let the chosen response become less likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import (
    PreferenceLogps,
    PreferenceLoss,
    hyperparameter,
    negative_log_sigmoid,
    preference_loss,
)


@dataclass(frozen=True)
class DPOP:
    """DPO with a penalty on a chosen response that the policy likes less than the reference does.

        −log σ( β (ρ_w − ρ_l − λ max(0, −ρ_w)) ),   ρ = log π(y|x) − log π_ref(y|x)

    The reference is a kink: the penalty's slope there is taken as 0. At policy = reference the loss is log 2. λ = 0 is
    DPO.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Pal et al. 2024, arXiv 2402.13228, equation 3.
    """

    title: ClassVar[str] = "DPOP"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(
        0.3, symbol="β", above=0, scale="log", source="0.3 remembered of 2402.13228, unconfirmed"
    )
    penalty_weight: float = hyperparameter(50.0, symbol="λ", at_least=0, scale="log", source="2402.13228")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The DPOP loss and rewards of each pair."""
        chosen, rejected = logps.chosen_gain(), logps.rejected_gain()
        margin = self.beta * (chosen - rejected - self.penalty_weight * (-chosen).relu())
        return preference_loss(negative_log_sigmoid(margin), self.beta * chosen, self.beta * rejected)
