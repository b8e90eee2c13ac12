"""Preference pairs as tokens, and the reference's log-probs of each: the sums and lengths that serve every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posweep.policy.load import Policy, encode_prompts, encode_responses
from posweep.policy.score import score_all
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


@dataclass(frozen=True)
class ReferenceLogps:
    """log π_ref(y|x) of both responses of each pair: summed over response tokens, nats, (pairs,)."""

    chosen: Tensor
    rejected: Tensor


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


def reference_logps(policy: Policy, pairs: TokenPairs) -> ReferenceLogps:
    """Score both sides of every pair once."""
    return ReferenceLogps(
        score_all(policy, pairs.prompts, pairs.chosen), score_all(policy, pairs.prompts, pairs.rejected)
    )


def save_reference(logps: ReferenceLogps, file: Path) -> None:
    """Write both columns."""
    np.savez(file, chosen=logps.chosen.numpy(), rejected=logps.rejected.numpy())


def load_reference(file: Path, device: torch.device) -> ReferenceLogps:
    """Read what `save_reference` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        return ReferenceLogps(*(torch.from_numpy(arrays[side]).to(device) for side in ("chosen", "rejected")))
