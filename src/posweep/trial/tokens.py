"""Which tokens count where both responses of a pair are to have equally many: min(|y_w|, |y_l|) of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import TokenLogps
from posweep.policy.packed import spans


@dataclass(frozen=True)
class CommonTokens:
    """Flags along the flat tokens of one side of all pairs: as many true in a pair as its shorter response has tokens."""

    flags: np.ndarray
    ends: np.ndarray

    def of(self, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """The flags of some pairs' responses, one after the other."""
        lengths = np.diff(self.ends, prepend=0)
        return self.flags[spans((self.ends - lengths)[items], lengths[items])]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Values of all tokens summed over the flagged ones of each pair, (pairs,)."""
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.add.reduceat(values * self.flags, starts, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class CommonPairs:
    """The tokens of both sides that count, and log π_ref over them, nats, (pairs,)."""

    chosen: CommonTokens
    rejected: CommonTokens
    reference_chosen: np.ndarray
    reference_rejected: np.ndarray


def common_pairs(pairs: TokenPairs, by_token: TokenLogps, rng: np.random.Generator | None) -> CommonPairs:
    """The first tokens of each response or, given a generator, a random draw of them."""
    lengths = [np.array([len(row) for row in side]) for side in (pairs.chosen, pairs.rejected)]
    kept = np.minimum(*lengths)
    chosen, rejected = (CommonTokens(_flags(each, kept, rng), each.cumsum()) for each in lengths)
    return CommonPairs(chosen, rejected, chosen.sums(by_token.chosen), rejected.sums(by_token.rejected))


def _flags(lengths: np.ndarray, kept: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """True for `kept` tokens of each response: the first, or those that come first in a random order."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(lengths.cumsum() - lengths, lengths)
    if rng is None:
        return place < kept[owner]
    rank = np.empty_like(place)
    rank[np.lexsort((rng.random(len(owner)), owner))] = place
    return rank < kept[owner]
