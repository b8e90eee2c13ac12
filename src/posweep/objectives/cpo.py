"""CPO: contrastive preference optimisation."""

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
class CPO:
    """A logistic loss on the difference of log-probabilities, with the NLL of the chosen response to hold on to it.

        −log σ( β (log π(y_w|x) − log π(y_l|x)) − γ ) − α log π(y_w|x)/|y_w|

    DPO with a uniform reference, plus behaviour cloning. The NLL is per token: as a sum it drowns the preference term,
    whose gradient is smaller by a factor of fifty at common lengths. γ = 0 is CPO as published; with α = 0 the two
    values of γ are the corners of the cube that have neither reference nor length normalisation.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values are not read.

    Returns:
        losses (pairs,); rewards β log π(y|x) (pairs,), nats, detached.

    Source: Xu et al. 2024, arXiv 2401.08417, equation 3 for the preference term.
    """

    title: ClassVar[str] = "CPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2401.08417")
    nll_weight: float = hyperparameter(1.0, symbol="α", at_least=0, source="2401.08417: both terms weigh the same")
    gamma: float = hyperparameter(0.0, symbol="γ", at_least=0, source="0 is CPO as published")

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The CPO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.policy_chosen_logps, self.beta * logps.policy_rejected_logps
        losses = negative_log_sigmoid(chosen - rejected - self.gamma) - self.nll_weight * logps.chosen_average()
        return preference_loss(losses, chosen, rejected)
