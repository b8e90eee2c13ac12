"""SamPO: DPO on equally many tokens of both responses."""

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
class SamPO:
    """DPO whose gains are summed over as many tokens of the longer response, drawn at random, as the shorter one has.

        −log σ( β (ρ'_w − ρ'_l) ),   ρ' = Σ over min(|y_w|, |y_l|) tokens of y of log π(y_t) − log π_ref(y_t)

    The tokens are drawn anew for each pair and epoch from the trial's seed, the same in policy and reference; the
    micro-batch does not matter. With equal lengths it is DPO. At policy = reference the loss is log 2.

    Args (of the call):
        logps: sums over the tokens drawn, in nats, each (pairs,), of policy and reference; sums over all tokens are
            not read.

    Returns:
        losses (pairs,); rewards β ρ' (pairs,), nats, detached.

    Raises:
        ShapeError: the sums over common tokens are missing.

    Source: Lu et al. 2024, arXiv 2406.10957.
    """

    title: ClassVar[str] = "SamPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("sampled",)

    beta: float = hyperparameter(
        0.05,
        symbol="β",
        above=0,
        scale="log",
        source="between DPO's usual 0.1 and 0.01; the authors' scripts use 0.1 and 0.5",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The SamPO loss and rewards of each pair."""
        chosen = logps.given("policy_chosen_common_logps") - logps.given("reference_chosen_common_logps")
        rejected = logps.given("policy_rejected_common_logps") - logps.given("reference_rejected_common_logps")
        chosen, rejected = self.beta * chosen, self.beta * rejected
        return preference_loss(negative_log_sigmoid(chosen - rejected), chosen, rejected)
