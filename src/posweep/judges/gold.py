"""The demo world's true reward, and its annotator as a proxy that also likes length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posweep.data.demo import annotator_utility, true_reward


@dataclass(frozen=True)
class GoldJudge:
    """Knows the true reward: at most 1, 0 for an empty answer."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The true reward of each response."""
        return np.array([true_reward(*pair) for pair in zip(prompts, responses, strict=True)])


@dataclass(frozen=True)
class ProxyJudge:
    """Prefers as the annotator does, in log-odds: what training on the labels can at best recover."""

    length_bias: float

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The annotator's utility of each response."""
        pairs = zip(prompts, responses, strict=True)
        return np.array([annotator_utility(prompt, response, self.length_bias) for prompt, response in pairs])
