"""Keys and values of the tokens so far, with room for those to come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 16
"""Tokens there is new room for whenever it is used up: few responses are as long as they may be."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, written where they belong; concatenation would copy all of them for every token.

    `keys` and `values`, (rows, heads, tokens, width), are views of what is filled of the room.
    """

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._keys, self._values = keys, values
        self._fill(keys.shape[-2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values with those of the next tokens behind them."""
        first = self.keys.shape[-2]
        last = first + key_states.shape[-2]
        if last > self._keys.shape[-2]:
            self._keys, self._values = (_with_room(filled, last + ROOM) for filled in (self.keys, self.values))
        self._keys[:, :, first:last] = key_states
        self._values[:, :, first:last] = value_states
        self._fill(last)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, in this order; those that stay where they are, are not copied."""
        tokens, rows = self.keys.shape[-2], len(beam_idx)
        moved = (beam_idx != torch.arange(rows, device=beam_idx.device)).nonzero()[:, 0]
        for whole in (self._keys, self._values):
            whole[moved, :, :tokens] = whole[beam_idx[moved], :, :tokens]
        self._keys, self._values = self._keys[:rows], self._values[:rows]
        self._fill(tokens)

    def _fill(self, tokens: int) -> None:
        self.keys, self.values = self._keys[:, :, :tokens], self._values[:, :, :tokens]


def make_room(cache: Any) -> None:
    """Room for tokens to come in each layer that keeps all of them; other layers are left as the model made them."""
    layers = getattr(cache, "layers", [])
    for place, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[place] = RoomyLayer(layer.keys, layer.values)


def _with_room(filled: Tensor, room: int) -> Tensor:
    """A copy of (rows, heads, tokens, width) that has room for so many tokens."""
    rows, heads, tokens, width = filled.shape
    whole = torch.empty((rows, heads, room, width), dtype=filled.dtype, device=filled.device)
    whole[:, :, :tokens] = filled
    return whole
