"""Layers of K policies at once: weights that are trained lie on top of one another, (policies, …).

What they are given is the first policy's, then equally much of the second's, and so on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """y = x Wᵀ + b for each policy; W is (policies, outputs, inputs), b (policies, outputs).

    `only`: the one policy whose x is given, where it is not that of all.
    """

    def __init__(self, layer: nn.Linear, weights: Mapping[str, nn.Parameter]):
        super().__init__()
        self.weight, self.bias = weights["weight"], weights.get("bias")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.only: int | None = None
        self._leaves = tuple(nn.Parameter(each.detach()) for each in self._across())  # in a tuple: no weights of ours

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        if self.only is not None:
            return nn.functional.linear(x, self.weight[self.only], None if self.bias is None else self.bias[self.only])
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        weight, *bias = self._across() if torch.is_grad_enabled() else self._leaves
        found = torch.baddbmm(*bias, rows, weight) if bias else torch.bmm(rows, weight)
        return found.view(*x.shape[:-1], -1)

    def _across(self) -> Sequence[Tensor]:
        """Wᵀ, and b for every row: views of the weights, of which autocast keeps no cast from pass to pass.

        Where there is no gradient, leaves in the same storage stand for them, of which it does.
        """
        return [self.weight.mT] if self.bias is None else [self.weight.mT, self.bias[:, None]]


class StackedEmbedding(nn.Module):
    """A row of each policy's own table, (policies, vocabulary, size)."""

    def __init__(self, layer: nn.Embedding, weights: Mapping[str, nn.Parameter]):
        super().__init__()
        self.weight, self.padding_idx = weights["weight"], layer.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """(…) → (…, size)."""
        policies, vocabulary, _ = self.weight.shape
        first = torch.arange(policies, device=ids.device) * vocabulary
        own = (ids.reshape(policies, -1) + first[:, None]).view_as(ids)
        found = nn.functional.embedding(own, self.weight.flatten(0, 1))
        if self.padding_idx is None:
            return found
        return torch.where((ids == self.padding_idx)[..., None], found.detach(), found)


class StackedNorm(nn.Module):
    """A normalisation of an architecture's own, which scales each hidden size by a weight: (policies, size) of them."""

    def __init__(self, layer: nn.Module, weights: Mapping[str, nn.Parameter]):
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(name, value)
        bare = copy.copy(layer)
        bare._parameters = {}
        self._bare = (bare,)  # no module of ours: it has no weights but those it is lent

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape it is given."""
        bare = self._bare[0]
        for name, value in self._parameters.items():
            setattr(bare, name, value[:, None])  # type: ignore[index]
        policies = len(next(self.parameters()))
        return bare(x.reshape(policies, -1, x.shape[-1])).view_as(x)  # type: ignore[no-any-return]


class StackedLayerNorm(nn.Module):
    """(x − mean) / deviation · w + b with each policy's own w and b, (policies, size)."""

    def __init__(self, layer: nn.LayerNorm, weights: Mapping[str, nn.Parameter]):
        super().__init__()
        self.weight, self.bias, self.eps = weights["weight"], weights.get("bias"), layer.eps

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape it is given."""
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        found = nn.functional.layer_norm(rows, rows.shape[-1:], eps=self.eps) * self.weight[:, None]
        return (found if self.bias is None else found + self.bias[:, None]).view_as(x)


def stacked_form(module: nn.Module) -> Any:
    """What a module with trained weights is replaced by; None where there is nothing of the kind."""
    exact = {nn.Linear: StackedLinear, nn.Embedding: StackedEmbedding, nn.LayerNorm: StackedLayerNorm}
    if type(module) in exact:
        return exact[type(module)]
    own = dict(module.named_parameters(recurse=False))
    norm = type(module).__name__.endswith("RMSNorm") and not type(module).__module__.startswith("torch.")
    return StackedNorm if norm and list(own) == ["weight"] and own["weight"].dim() == 1 else None


def learning(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that have trained weights of their own."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if any(weight.requires_grad for weight in module.parameters(recurse=False))
    ]
