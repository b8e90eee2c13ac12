"""DiscoPOP: the loss that a language model discovered, log-ratio modulated."""

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
class DiscoPOP:
    """A mixture of DPO's logistic loss and an exponential one, mixed by how far apart the pair is.

        (1 − σ(m/τ)) · (−log σ(m)) + σ(m/τ) · e^−m,   m = β (ρ_w − ρ_l),   ρ = log π(y|x) − log π_ref(y|x)

    Not convex: at policy = reference, where the loss is ½ (log 2 + 1), its slope in m is −¾ + (1 − log 2)/(4τ),
    positive at τ = 0.05: pairs that lie near the reference are first pushed the wrong way. The second term is computed
    as e^(log σ(m/τ) − m), which is finite for τ ≤ 1.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Lu et al. 2024, arXiv 2406.08414, equation 5.
    """

    title: ClassVar[str] = "DiscoPOP"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.05, symbol="β", above=0, scale="log", source="2406.08414, appendix B")
    tau: float = hyperparameter(0.05, symbol="τ", above=0, at_most=1, scale="log", source="2406.08414, appendix E")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The DiscoPOP loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        margin = chosen - rejected
        logistic = (-margin / self.tau).sigmoid() * negative_log_sigmoid(margin)
        exponential = (-negative_log_sigmoid(margin / self.tau) - margin).exp()
        return preference_loss(logistic + exponential, chosen, rejected)
