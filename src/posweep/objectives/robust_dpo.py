"""Robust DPO: an unbiased estimate of DPO's loss under flipped labels."""

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
class RobustDPO:
    """DPO's loss with the bias of labels flipped at rate ε taken out, so that its mean over flips is the clean loss.

        ( −(1 − ε) log σ(m) + ε log σ(−m) ) / (1 − 2ε),   m = β (ρ_w − ρ_l),   ρ = log π(y|x) − log π_ref(y|x)

    At policy = reference the loss is log 2. ε = 0 is DPO. The loss is not bounded below: for large margins its slope is
    −ε/(1 − 2ε), so it may turn negative.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Chowdhury et al. 2024, arXiv 2403.00409, section 3.1.
    """

    title: ClassVar[str] = "Robust DPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(
        0.1, symbol="β", above=0, scale="log", source="2305.18290, as DPO; 2403.00409 trains with 0.01"
    )
    epsilon: float = hyperparameter(0.1, symbol="ε", at_least=0, below=0.5, source="2403.00409, section 6")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The Robust DPO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        right, wrong = negative_log_sigmoid(chosen - rejected), negative_log_sigmoid(rejected - chosen)
        losses = ((1 - self.epsilon) * right - self.epsilon * wrong) / (1 - 2 * self.epsilon)
        return preference_loss(losses, chosen, rejected)
