"""APO-down: anchored preference optimisation for chosen responses worse than the policy's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import PreferenceLogps, PreferenceLoss, hyperparameter, preference_loss


@dataclass(frozen=True)
class APODown:
    """Push both responses below the reference, and the rejected one further.

        σ(β ρ_w) + 1 − σ(β (ρ_w − ρ_l)),   ρ = log π(y|x) − log π_ref(y|x)

    For data whose chosen responses are worse than what the policy would say itself. At policy = reference the loss is 1
    and the gradient on the chosen response is 0: the two terms cancel.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 8.
    """

    title: ClassVar[str] = "APO-down"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2408.06266, section 5.2")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The APO-down loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        return preference_loss(chosen.sigmoid() + 1 - (chosen - rejected).sigmoid(), chosen, rejected)
