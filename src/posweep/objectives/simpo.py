"""SimPO: simple preference optimisation with a reference-free reward."""

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
class SimPO:
    """A logistic loss on average log-probs with a target margin; no reference model.

        −log σ( β (log π(y_w|x)/|y_w| − log π(y_l|x)/|y_l|) − γ )

    γ is the margin itself, as in the paper's equation; public configurations often write γ/β instead. There is no NLL
    term (CPO's must be off to get SimPO).

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,); rewards β log π(y|x)/|y| (pairs,), nats per token times β, detached.

    Source: Meng et al. 2024, arXiv 2405.14734, equation 6.
    """

    title: ClassVar[str] = "SimPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(2.0, symbol="β", above=0, scale="log", source="2405.14734 (2, 2.5 or 10 by setting)")
    gamma: float = hyperparameter(1.0, symbol="γ", at_least=0, source="2405.14734: γ/β = 0.5 to start from")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The SimPO loss and rewards of each pair."""
        chosen = self.beta * logps.policy_chosen_logps / logps.chosen_lengths
        rejected = self.beta * logps.policy_rejected_logps / logps.rejected_lengths
        return preference_loss(negative_log_sigmoid(chosen - rejected - self.gamma), chosen, rejected)
