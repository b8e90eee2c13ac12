"""LN-DPO: length-normalised DPO."""

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
class LNDPO:
    """DPO on gains per token, so that long responses do not weigh more.

        −log σ( β (ρ_w/|y_w| − ρ_l/|y_l|) − γ ),   ρ = log π(y|x) − log π_ref(y|x)

    At policy = reference and γ = 0 the loss is log 2. With equal lengths L it is DPO at β/L; with a reference that
    gives every token the same probability it is SimPO. Its β lives on SimPO's scale (1 to 10), not on DPO's.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ/|y| (pairs,), nats per token times β, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Ahrabian et al. 2025, arXiv 2407.15229 (named and studied there); also the appendix of SimPO, 2405.14734,
    and Tülu 3, 2411.15124.
    """

    title: ClassVar[str] = "LN-DPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(
        2.0,
        symbol="β",
        above=0,
        scale="log",
        source="inside 1–3.5, remembered of 2407.15229, unconfirmed; Tülu 3 uses 5",
    )
    gamma: float = hyperparameter(0.0, symbol="γ", at_least=0, source="0 is LN-DPO as published")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The LN-DPO loss and implicit rewards of each pair."""
        chosen = self.beta * logps.chosen_gain() / logps.chosen_lengths
        rejected = self.beta * logps.rejected_gain() / logps.rejected_lengths
        return preference_loss(negative_log_sigmoid(chosen - rejected - self.gamma), chosen, rejected)
