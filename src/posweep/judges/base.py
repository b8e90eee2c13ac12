"""What every judge does: give a response a score, higher is better. A win is a higher score; a tie counts half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Judge(Protocol):
    """Scores responses one by one, so that each text is scored once however often it is compared."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """One score per response, (responses,)."""
        ...


def wins(scores: np.ndarray, opponents: np.ndarray) -> np.ndarray:
    """How often each response beats its opponents: mean over them of [s > s′] + ½ [s = s′], (responses,).

    Args:
        scores: (responses,).
        opponents: (responses, K), the scores of what each is compared with.
    """
    ours = scores[:, None]
    return np.asarray(((ours > opponents) + 0.5 * (ours == opponents)).mean(axis=1))
