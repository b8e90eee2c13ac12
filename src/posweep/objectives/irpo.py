"""IRPO: iterative reasoning preference optimisation, one iteration of it."""

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
class IRPO:
    """DPO with the NLL of the chosen response.

        −log σ( β (ρ_w − ρ_l) ) − α log π(y_w|x)/|y_w|,   ρ = log π(y|x) − log π_ref(y|x)

    The NLL is per token, as in the paper. α = 0 is DPO. The iterations of the paper, which draw new pairs from the
    policy, are not part of an objective.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Pang et al. 2024, arXiv 2404.19733, equation 1.
    """

    title: ClassVar[str] = "IRPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2404.19733")
    nll_weight: float = hyperparameter(1.0, symbol="α", at_least=0, scale="log", source="2404.19733")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The IRPO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        losses = negative_log_sigmoid(chosen - rejected) - self.nll_weight * logps.chosen_average()
        return preference_loss(losses, chosen, rejected)
