"""AOT: alignment via optimal transport, on pairs."""

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
class AOT:
    """DPO's loss between the sorted margins of policy and reference: distributions are compared, not pairs.

        −log σ( β (m_(k) − m_ref(k)) ),   m = log π(y_w|x) − log π(y_l|x),   (k) the k-th smallest of the batch

    The policy's margins are to dominate the reference's in distribution, pair by pair only in rank. A pair's loss is
    that of its own margin against the reference's margin of the same rank, so losses stand in the order of the pairs.
    Ranks are within the whole batch of an optimisation step, so the objective is not separable; a batch of one pair is
    DPO. At policy = reference the loss is log 2.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Melnyk et al. 2024, arXiv 2406.05882, section 3, the paired form with the logistic loss and hard sorting.
    """

    title: ClassVar[str] = "AOT"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = False

    beta: float = hyperparameter(
        0.01,
        symbol="β",
        above=0,
        scale="log",
        source="as losses on sums in public code; 0.1 remembered of 2406.05882, unconfirmed",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The AOT loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        margins = logps.policy_chosen_logps - logps.policy_rejected_logps
        reference = logps.given("reference_chosen_logps") - logps.given("reference_rejected_logps")
        ranks = margins.argsort(stable=True).argsort()
        losses = negative_log_sigmoid(self.beta * (margins - reference.sort().values[ranks]))
        return preference_loss(losses, chosen, rejected)
