"""cDPO: conservative DPO, for labels that are sometimes wrong."""

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
class CDPO:
    """DPO's loss on a label that is wrong with probability ε: cross-entropy with smoothed labels.

        −(1 − ε) log σ(m) − ε log σ(−m),   m = β (ρ_w − ρ_l),   ρ = log π(y|x) − log π_ref(y|x)

    At policy = reference the loss is log 2. The gradient vanishes where σ(m) = 1 − ε: pairs are not pushed apart
    without end. ε = 0 is DPO. Public code has been seen to accept a label smoothing and ignore it; here it is the
    method.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β ρ_w and β ρ_l (pairs,), nats, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO (the authors of DPO; not on
    arXiv).
    """

    title: ClassVar[str] = "cDPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2305.18290, as DPO")
    epsilon: float = hyperparameter(
        0.1,
        symbol="ε",
        at_least=0,
        below=0.5,
        source="0.1 as an assumed share of wrong labels; the note names no default",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The cDPO loss and rewards of each pair."""
        chosen, rejected = self.beta * logps.chosen_gain(), self.beta * logps.rejected_gain()
        right, wrong = negative_log_sigmoid(chosen - rejected), negative_log_sigmoid(rejected - chosen)
        return preference_loss((1 - self.epsilon) * right + self.epsilon * wrong, chosen, rejected)
