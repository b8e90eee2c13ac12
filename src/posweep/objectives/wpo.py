"""WPO: weighted preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import (
    Need,
    PreferenceLogps,
    PreferenceLoss,
    hyperparameter,
    negative_log_sigmoid,
    preference_loss,
)


@dataclass(frozen=True)
class WPO:
    """DPO with each pair weighted by how likely the policy would be to write its two responses itself.

        −w_w w_l log σ( β (ρ_w − ρ_l) ),   ρ = log π(y|x) − log π_ref(y|x)
        w = exp( mean over the tokens of y of log π(y_t) − log Σ_v π(v)² )

    The weights carry no gradient. A token's probability is set against Σ_v π(v)², the probability that a draw of the
    policy has on average, so that on-policy responses weigh about 1. They may exceed 1, as in the paper's equation; the
    authors' code caps their product at 1. At policy = reference the loss is w_w w_l log 2.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values and collision
            log-probs required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference or collision log-probs are missing.

    Source: Zhou et al. 2024, arXiv 2406.11827, equation 2.
    """

    title: ClassVar[str] = "WPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("collisions",)

    beta: float = hyperparameter(
        0.01, symbol="β", above=0, scale="log", source="2406.11827, the authors' configuration"
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The WPO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        own = (logps.policy_chosen_logps - logps.given("policy_chosen_collision_logps")) / logps.chosen_lengths
        other = (logps.policy_rejected_logps - logps.given("policy_rejected_collision_logps")) / logps.rejected_lengths
        weights = (own + other).detach().exp()
        return preference_loss(weights * negative_log_sigmoid(chosen - rejected), chosen, rejected)
