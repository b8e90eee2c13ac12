"""DPO: direct preference optimisation."""

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
class DPO:
    """A logistic loss on the difference of the policy's gains over the reference.

        −log σ( β (ρ_w − ρ_l) − γ ),   ρ = log π(y|x) − log π_ref(y|x)

    At policy = reference and γ = 0 the loss is log 2. γ = 0 is DPO as published; γ > 0 asks for a margin, the third
    axis of the cube reference × length normalisation × margin.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7.
    """

    title: ClassVar[str] = "DPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2305.18290, appendix B")
    gamma: float = hyperparameter(0.0, symbol="γ", at_least=0, source="0 is DPO as published")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The DPO loss and implicit rewards of each pair."""
        chosen = self.beta * logps.chosen_gain()
        rejected = self.beta * logps.rejected_gain()
        return preference_loss(negative_log_sigmoid(chosen - rejected - self.gamma), chosen, rejected)
