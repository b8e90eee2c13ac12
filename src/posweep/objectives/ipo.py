"""IPO: identity preference optimisation, with gains per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from posweep.objectives.base import PreferenceLogps, PreferenceLoss, hyperparameter, preference_loss


@dataclass(frozen=True)
class IPO:
    """A squared loss that asks the gains of chosen and rejected to differ by exactly 1/(2τ) nats a token.

        ( ρ_w/|y_w| − ρ_l/|y_l| − 1/(2τ) )²,   ρ = log π(y|x) − log π_ref(y|x)

    Gains are averaged over tokens, as the authors confirmed to a public implementation; the paper's text sums. Summed,
    the target 1/(2τ) would mean something else for every length, and a public comparison had to be rerun for it. τ =
    0.01 asks for 50 nats a token. At policy = reference the loss is 1/(4τ²).

    Args (of the call):
        logps: sums over response tokens in nats, lengths in tokens, each (pairs,); reference values required.

    Returns:
        losses (pairs,), (nats per token)²; rewards τ ρ/|y| (pairs,), nats per token times τ, detached.

    Raises:
        ShapeError: reference log-probs are missing.

    Source: Azar et al. 2023, arXiv 2310.12036, equation 17, with averages for its sums.
    """

    title: ClassVar[str] = "IPO"
    version: ClassVar[int] = 1
    reference_free: ClassVar[bool] = False
    separable: ClassVar[bool] = True

    tau: float = hyperparameter(
        0.1,
        symbol="τ",
        above=0,
        scale="log",
        source="common in public comparisons (0.1 to 1); the paper's own is of a bandit",
    )

    def __call__(self, logps: PreferenceLogps) -> PreferenceLoss:
        """The IPO loss and rewards of each pair."""
        chosen = logps.chosen_gain() / logps.chosen_lengths
        rejected = logps.rejected_gain() / logps.rejected_lengths
        return preference_loss((chosen - rejected - 1 / (2 * self.tau)) ** 2, self.tau * chosen, self.tau * rejected)
