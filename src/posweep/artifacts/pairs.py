"""Preference pairs as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from posweep.policy.packed import Ragged
from posweep.policy.texts import Texts
from posweep.records import PreferencePair


@dataclass(frozen=True)
class TokenPairs:
    """Prompts and both responses in tokens; responses end with the end token unless they were cut.

    `rejected_prompts` are what the rejected responses answer, where that is not the chosen ones' prompt.
    """

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]
    rejected_prompts: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def prompts_of(self, side: str) -> list[list[int]]:
        """The prompts of one side, `chosen` or `rejected`."""
        return self.rejected_prompts if side == "rejected" and self.rejected_prompts is not None else self.prompts

    @cached_property
    def flat(self) -> dict[str, Ragged]:
        """The same as arrays, from which a batch is taken without a look at each token."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: Ragged.of(rows) for name, rows in named.items() if rows is not None}

    def lengths(self) -> np.ndarray:
        """Tokens a pair costs in a batch: both prompts, and both responses."""
        prompts = [self.flat["prompts"], self.flat.get("rejected_prompts", self.flat["prompts"])]
        return np.sum([rows.lengths for rows in (*prompts, self.flat["chosen"], self.flat["rejected"])], axis=0)


def encode_pairs(
    texts: Texts, pairs: Sequence[PreferencePair], prompt_limit: int, response_limit: int
) -> tuple[TokenPairs, dict[str, int]]:
    """Pairs in tokens, and how many prompts (which keep their end) and responses (their beginning) were cut."""
    prompts = texts.prompts([pair.prompt for pair in pairs], prompt_limit)
    chosen = texts.responses([pair.chosen for pair in pairs], response_limit)
    rejected = texts.responses([pair.rejected for pair in pairs], response_limit)
    cut = {"prompts truncated": prompts.cut, "responses truncated": chosen.cut + rejected.cut}
    if all(pair.rejected_prompt is None for pair in pairs):
        return TokenPairs(prompts.rows, chosen.rows, rejected.rows), cut
    others = texts.prompts([pair.rejected_prompt or pair.prompt for pair in pairs], prompt_limit)
    cut["prompts truncated"] += others.cut
    return TokenPairs(prompts.rows, chosen.rows, rejected.rows, others.rows), cut


def save_pairs(pairs: TokenPairs, file: Path) -> None:
    """Write ragged token lists as flat arrays with their ends; nothing is pickled."""
    arrays: dict[str, Any] = {}
    for name, rows in pairs.flat.items():
        arrays[name] = rows.flat.astype(np.int32)
        arrays[f"{name}_ends"] = rows.lengths.cumsum()
    np.savez(file, **arrays)


def load_pairs(file: Path) -> TokenPairs:
    """Read what `save_pairs` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        columns = {
            name: [row.tolist() for row in np.split(arrays[name], arrays[f"{name}_ends"][:-1])]
            for name in arrays.files
            if not name.endswith("_ends")
        }
    return TokenPairs(**columns)
