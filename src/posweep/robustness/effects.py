"""Which of several two-level factors matters: main effects and interactions on a balanced factorial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Effect:
    """What a factor does to the score.

    Attributes:
        difference: mean score where the factor is on less where it is off; of an interaction, half the difference
            between one factor's difference with the other on and with it off.
        error: standard error of it over prompts, given these configurations, seeds and SFT checkpoint.
        share: of the variance of scores over configurations, exact; shares of all factors and interactions of a full
            factorial, and what varies within its corners, add up to 1.
    """

    difference: float
    error: float
    share: float


def effects(wins: NDArray[np.float64], factors: Mapping[str, NDArray[np.bool_]]) -> dict[str, Effect]:
    """The main effect of every factor, and of every interaction `a × b`, on scores averaged over prompts.

        effect = mean of wins where the contrast is +1 − mean where it is −1;   share = (effect/2)² / variance

    Args:
        wins: (configurations, prompts); the score of a configuration is its mean over prompts.
        factors: whether each factor is on, (configurations,); together balanced, so that contrasts are orthogonal.

    Raises:
        ValueError: the configurations are not balanced over the factors.

    Source: Yates 1937, The design and analysis of factorial experiments; Box, Hunter and Hunter 2005, chapter 5.
    """
    signs = {name: np.where(on, 1.0, -1.0) for name, on in factors.items()}
    contrasts = dict(signs)
    for count in range(2, len(signs) + 1):
        for names in combinations(signs, count):
            contrasts[" × ".join(names)] = np.prod([signs[name] for name in names], axis=0)
    columns = np.array([np.ones(len(wins)), *contrasts.values()])
    if not np.allclose(columns @ columns.T, len(wins) * np.eye(len(columns))):
        raise ValueError(f"the {len(wins)} configurations are not balanced over {', '.join(factors)}")
    variance = wins.mean(axis=1).var()
    return {name: _effect(wins, contrast, variance) for name, contrast in contrasts.items()}


def _effect(wins: NDArray[np.float64], contrast: NDArray[np.float64], variance: float) -> Effect:
    by_prompt = 2 * (contrast @ wins) / len(wins)
    difference = float(by_prompt.mean())
    error = float(by_prompt.std(ddof=1) / len(by_prompt) ** 0.5) if len(by_prompt) > 1 else float("nan")
    return Effect(difference, error, (difference / 2) ** 2 / variance if variance > 0 else 0.0)
