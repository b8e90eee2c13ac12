"""R-DPO: DPO with a penalty on length."""

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
class RDPO:
    """DPO for a reward less α a token: its implicit reward is β ρ + α |y|, so that length does not pay.

        −log σ( β (ρ_w − ρ_l) + α (|y_w| − |y_l|) ),   ρ = log π(y|x) − log π_ref(y|x)

    A longer chosen response makes the margin larger and the push smaller. α is per token: its scale is that of the
    differences in length, α = 1 saturates at ten tokens. At policy = reference the loss is −log σ(α (|y_w| − |y_l|)),
    log 2 for equal lengths. α = 0 is DPO. The reward counts length, and so does the preference accuracy by it.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ + α |y| (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Park et al. 2024, arXiv 2403.19159, the length-regularised loss.
    """

    title: ClassVar[str] = "R-DPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2403.19159, as DPO")
    alpha: float = hyperparameter(
        0.05, symbol="α", at_least=0, scale="log", source="0.01 to 0.05 remembered of 2403.19159, unconfirmed"
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The R-DPO loss and rewards of each pair."""
        chosen = self.beta * logps.chosen_gain() + self.alpha * logps.chosen_lengths
        rejected = self.beta * logps.rejected_gain() + self.alpha * logps.rejected_lengths
        return preference_loss(negative_log_sigmoid(chosen - rejected), chosen, rejected)
