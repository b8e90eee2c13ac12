"""SLiC-HF: sequence likelihood calibration with human feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import PreferenceLogps, PreferenceLoss, hyperparameter, preference_loss


@dataclass(frozen=True)
class SLiC:
    """A hinge that asks the chosen response to be δ nats more likely than the rejected one, with an NLL to hold on to it.

        max(0, δ − log π(y_w|x) + log π(y_l|x)) − λ log π(y_w|x)/|y_w|

    The log-probabilities are sums, as in the paper; the NLL is per token here. Where a pair is apart by more than δ,
    only the NLL is left: its gradient on the rejected response is then 0.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,), nats; rewards log π(y|x) (pairs,), nats, detached.

    Source: Zhao et al. 2023, arXiv 2305.10425, section 2.
    """

    title: ClassVar[str] = "SLiC-HF"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    delta: float = hyperparameter(1.0, symbol="δ", at_least=0, source="2305.10425: a margin of 1")
    nll_weight: float = hyperparameter(
        0.1,
        symbol="λ",
        at_least=0,
        scale="log",
        source="searched from 0.1 to 10 in public comparisons; remembered, unconfirmed",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The SLiC-HF loss and rewards of each pair."""
        chosen, rejected = logps.policy_chosen_logps, logps.policy_rejected_logps
        losses = (self.delta - chosen + rejected).relu() - self.nll_weight * logps.chosen_average()
        return preference_loss(losses, chosen, rejected)
