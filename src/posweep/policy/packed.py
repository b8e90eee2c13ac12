"""Sequences without padding: all tokens of a batch stand in one row, and in rows of equal length for attention alone.

Everything else in a transformer looks at one token at a time. There padding is waste, and so is a prompt that two responses
share: it stands in the row once, and in attention before each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from posweep.policy.base import told_what_is_packed


@dataclass(frozen=True)
class Ragged:
    """Sequences of tokens one after the other.

    Attributes:
        flat: (tokens,).
        lengths: (sequences,) tokens of each.
    """

    flat: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """The same as lists of lists."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum())), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, items: np.ndarray | Sequence[int]) -> Ragged:
        """Some of the sequences."""
        lengths = self.lengths[items]
        return Ragged(self.flat[spans((self.lengths.cumsum() - self.lengths)[items], lengths)], lengths)

    def beside(self, other: Ragged) -> Ragged:
        """These sequences, then others."""
        return Ragged(np.concatenate([self.flat, other.flat]), np.concatenate([self.lengths, other.lengths]))


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, …, start + length − 1 of each, one after the other."""
    return np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a packed batch stand in rows of equal length.

    Attributes:
        tokens: (sequences, longest) the token at each place; behind a sequence's end its last one, which nobody looks at.
        places: (tokens,) the place of each token in the flattened rows; of a shared one the first of its places.
    """

    tokens: Tensor
    places: Tensor

    def spread(self, states: Tensor) -> Tensor:
        """(1, heads, tokens, size) as (sequences, heads, longest, size). A token's gradient is summed over its places."""
        _, heads, _, size = states.shape
        flat = states[0].transpose(0, 1).flatten(1)
        return torch.nn.functional.embedding(self.tokens, flat).unflatten(-1, (heads, size)).transpose(1, 2)

    def gather(self, states: Tensor) -> Tensor:
        """(sequences, longest, heads, size) as (1, tokens, heads, size)."""
        flat = states.flatten(0, 1).flatten(1)
        return torch.nn.functional.embedding(self.places, flat).unflatten(-1, states.shape[2:])[None]

    def repeated(self, count: int) -> Rows:
        """The same for so many batches in one row."""
        first = torch.arange(count, device=self.places.device)
        tokens, places = first * len(self.places), first * self.tokens.numel()
        return Rows((tokens[:, None, None] + self.tokens).flatten(0, 1), (places[:, None] + self.places).flatten())


Attention = Callable[..., tuple[Tensor, Any]]


def _in_rows(attend: Attention) -> Attention:
    """The same attention; a model that is called with `rows` has it look at each row by itself."""

    def forward(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        rows: Rows | None = None, **options: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        if rows is None:
            return attend(module, query, key, value, mask, **options)
        found, weights = attend(module, *map(rows.spread, (query, key, value)), None, **options)
        return rows.gather(found), weights

    return forward


AttentionInterface.register("sdpa", _in_rows(sdpa_attention_forward))


def windowed(config: Any) -> bool:
    """Whether some layers of a model see only so many tokens back: in one row of all sequences, the wrong ones."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["full_attention"]
    return any(kind != "full_attention" for kind in kinds) or bool(getattr(text, "sliding_window", None))


def packs(model: Any) -> bool:
    """Whether a model makes of packed sequences what it makes of each alone: asked of the model itself, on eleven tokens."""
    if model.config._attn_implementation != "sdpa" or windowed(model.config):
        return False
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 12, device=device) % model.config.get_text_config().vocab_size
    apart = [ids[:6], torch.cat([ids[:4], ids[6:]])]  # a prompt of four tokens with two responses
    rows = Rows(
        torch.tensor([[0, 1, 2, 3, 4, 5, 5, 5, 5], [0, 1, 2, 3, *range(6, 11)]], device=device),
        torch.tensor([*range(6), *range(13, 18)], device=device),
    )
    positions = torch.tensor([[*range(6), *range(4, 9)]], device=device)
    with torch.no_grad(), told_what_is_packed():
        alone = [model(input_ids=each[None], use_cache=False).logits[0] for each in apart]
        try:
            found = model(input_ids=ids[None], position_ids=positions, use_cache=False, rows=rows).logits[0]
        except Exception:  # of whatever origin: a model need not know what we hand on
            return False
    expected = torch.cat([alone[0], alone[1][4:]]).float()
    precision = 1e-4 if expected.dtype == alone[0].dtype else 3e-2
    return bool((found.float() - expected).abs().max() <= precision * expected.abs().max())
