"""LD-DPO: DPO that discounts what the longer response has beyond the shorter one."""

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
class LDDPO:
    """DPO whose log-probabilities count the tokens beyond the shared length α times.

        −log σ( β (ρ'_w − ρ'_l) ),   ρ' = ρ over the first min(|y_w|, |y_l|) tokens + α · ρ over the tokens after them

    α = 1 is DPO, and so are equal lengths; α → 0 ignores the tail of the longer response. At policy = reference the
    loss is log 2.

    Args (of the call):
        logps: sums over all response tokens and over the first min(|y_w|, |y_l|) of them, in nats, each (pairs,),
            of policy and reference.

    Returns:
        losses (pairs,); rewards β ρ' (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs or the sums over common tokens are missing.

    Source: Liu et al. 2024, arXiv 2409.06411.
    """

    title: ClassVar[str] = "LD-DPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("shared",)

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2409.06411, as DPO")
    alpha: float = hyperparameter(
        0.5,
        symbol="α",
        above=0,
        at_most=1,
        source="the middle of (0, 1]; the best is said to depend on the model (0.3 to 0.6 remembered)",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The LD-DPO loss and rewards of each pair."""
        chosen = logps.given("policy_chosen_common_logps") - logps.given("reference_chosen_common_logps")
        rejected = logps.given("policy_rejected_common_logps") - logps.given("reference_rejected_common_logps")
        chosen = self.beta * (self.alpha * logps.chosen_gain() + (1 - self.alpha) * chosen)
        rejected = self.beta * (self.alpha * logps.rejected_gain() + (1 - self.alpha) * rejected)
        return preference_loss(negative_log_sigmoid(chosen - rejected), chosen, rejected)
