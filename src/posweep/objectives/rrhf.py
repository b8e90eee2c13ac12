"""RRHF: rank responses to align with human feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import PreferenceLogps, PreferenceLoss, hyperparameter, preference_loss


@dataclass(frozen=True)
class RRHF:
    """A hinge on the order of average log-probabilities, with the NLL of the best response.

        max(0, log p̄_l − log p̄_w) − λ log p̄_w,   log p̄ = log π(y|x)/|y|

    The paper sums the NLL over tokens; here, as in public code, it is averaged: beside a rank term per token, a sum
    would be all that counts. There is no margin: where the order is right already only the NLL is left.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,), nats per token; rewards log p̄ (pairs,), nats per token, detached.

    Source: Yuan et al. 2023, arXiv 2304.05302, the sum of its rank loss and its cross-entropy.
    """

    title: ClassVar[str] = "RRHF"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    nll_weight: float = hyperparameter(
        1.0, symbol="λ", at_least=0, scale="log", source="2304.05302: both terms weigh the same"
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The RRHF loss and rewards of each pair."""
        chosen, rejected = logps.chosen_average(), logps.rejected_average()
        return preference_loss((rejected - chosen).relu() - self.nll_weight * chosen, chosen, rejected)
