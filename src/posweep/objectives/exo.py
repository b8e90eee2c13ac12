"""EXO: efficient exact optimisation, on pairs."""

from __future__ import annotations

import math
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
class EXO:
    """The reverse KL of the policy's preference to the annotator's, smoothed by ε, where DPO takes the forward one.

        q log( q/(1 − ε) ) + (1 − q) log( (1 − q)/ε ),   q = σ(β (ρ_w − ρ_l)),   ρ = log π(y|x) − log π_ref(y|x)

    Mode-seeking: pairs that are clearly decided either way have little gradient. ε = 0 would make the loss infinite. At
    policy = reference the loss is −log 2 − ½ log(ε (1 − ε)); it is 0 where q = 1 − ε.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Ji et al. 2024, arXiv 2402.00856, equation 16, with one β for policy and annotator.
    """

    title: ClassVar[str] = "EXO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2402.00856, appendix B")
    epsilon: float = hyperparameter(1e-3, symbol="ε", above=0, below=0.5, scale="log", source="2402.00856")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The EXO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        margin = chosen - rejected
        right = margin.sigmoid() * (-negative_log_sigmoid(margin) - math.log(1 - self.epsilon))
        wrong = (-margin).sigmoid() * (-negative_log_sigmoid(-margin) - math.log(self.epsilon))
        return preference_loss(right + wrong, chosen, rejected)
