"""Preference pairs as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posweep.policy.load import Policy, encode_prompts, encode_responses
from posweep.records import PreferencePair


@dataclass(frozen=True)
class TokenPairs:
    """Prompts and both responses in tokens; responses end with the end token unless they were cut."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> np.ndarray:
        """Tokens a pair costs in a batch: twice the prompt, and both responses."""
        rows = zip(self.prompts, self.chosen, self.rejected, strict=True)
        return np.array([2 * len(p) + len(c) + len(r) for p, c, r in rows])


def encode_pairs(policy: Policy, pairs: Sequence[PreferencePair], prompt_limit: int, response_limit: int) -> TokenPairs:
    """Pairs in tokens: prompts keep their end, responses their beginning."""
    return TokenPairs(
        encode_prompts(policy.tokenizer, [pair.prompt for pair in pairs], prompt_limit),
        encode_responses(policy.tokenizer, [pair.chosen for pair in pairs], response_limit),
        encode_responses(policy.tokenizer, [pair.rejected for pair in pairs], response_limit),
    )


def save_pairs(pairs: TokenPairs, file: Path) -> None:
    """Write ragged token lists as flat arrays with offsets; nothing is pickled."""
    arrays = {}
    for name in ("prompts", "chosen", "rejected"):
        rows: list[list[int]] = getattr(pairs, name)
        arrays[name] = np.array([token for row in rows for token in row], dtype=np.int32)
        arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows])
    np.savez(file, **arrays)  # type: ignore[arg-type]


def load_pairs(file: Path) -> TokenPairs:
    """Read what `save_pairs` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        columns = {
            name: [row.tolist() for row in np.split(arrays[name], arrays[f"{name}_ends"][:-1])]
            for name in ("prompts", "chosen", "rejected")
        }
    return TokenPairs(**columns)
