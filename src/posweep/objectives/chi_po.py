"""χPO: DPO regularised by the χ² divergence as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from posweep.objectives.base import (
    PreferenceLogps,
    PreferenceLoss,
    hyperparameter,
    negative_log_sigmoid,
    preference_loss,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ChiPO:
    """DPO with ρ + e^ρ for the gain ρ, so that leaving the reference far behind is not paid for.

        −log σ( β (φ_w − φ_l) ),   φ = ρ + e^min(ρ, c) − 1,   ρ = log π(y|x) − log π_ref(y|x)

    The −1 cancels in the margin and makes the reward 0 at policy = reference, where the loss is log 2. c caps the
    exponent: e^ρ of a response a thousand nats above the reference is no number.

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,); rewards β φ (pairs,), detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Huang et al. 2024, arXiv 2407.13399, Algorithm 1 without the clip of the margin.
    """

    title: ClassVar[str] = "χPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    beta: float = hyperparameter(0.1, symbol="β", above=0, scale="log", source="2407.13399, as DPO")
    cap: float = hyperparameter(
        20.0, symbol="c", above=0, at_most=40, source="remembered of the experiments of 2407.13399, unconfirmed"
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The χPO loss and rewards of each pair."""
        chosen, rejected = self._gain(logps.chosen_gain()), self._gain(logps.rejected_gain())
        return preference_loss(negative_log_sigmoid(chosen - rejected), chosen, rejected)

    def _gain(self, gain: Tensor) -> Tensor:
        """β φ of ρ in nats."""
        return self.beta * (gain + gain.clamp(max=self.cap).expm1())
