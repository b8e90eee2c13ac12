"""The gradient of a step: of the mean loss over its items, exactly, however few of them are computed at once.

Several trainings that see the same items may share their passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor

from posweep.policy.batch import Batch, Columns, Loss, Losses


class Passes(Protocol):
    """How trainings share forward and backward passes: `policy.stack.Stack`, or `Alone`."""

    def together(self) -> AbstractContextManager[None]:
        """What all losses ask of their models inside is computed at once."""
        ...

    def share_gradients(self) -> None:
        """Give each training the gradient of its own weights."""
        ...

    def forget_gradients(self) -> None:
        """Nothing is left of a step."""
        ...


class Alone:
    """One training, which shares nothing."""

    def together(self) -> AbstractContextManager[None]:
        """There is no other."""
        return nullcontext()

    def share_gradients(self) -> None:
        """They are its own."""

    def forget_gradients(self) -> None:
        """Its optimizer did."""


def accumulate(batch: Batch, losses: Sequence[Loss], micro: int, passes: Passes) -> list[dict[str, Tensor]]:
    """The gradients of the mean losses over a batch, taken `micro` items at a time; the charted means of each loss."""
    parts = list(batch.parts(micro))
    apart = [loss.separable or len(parts) == 1 for loss in losses]
    seen = _seen(parts, [loss for loss, parts_do in zip(losses, apart, strict=True) if not parts_do], passes)
    costs = [
        _OfParts(batch, loss) if parts_do else _OfBatch(batch, loss, next(seen))
        for loss, parts_do in zip(losses, apart, strict=True)
    ]
    for part in parts:
        with passes.together():
            reduce(add, [cost.of(part) for cost in costs]).backward()
    return [cost.charts for cost in costs]


class _OfParts:
    """What a batch costs by a loss that is the mean of its parts."""

    def __init__(self, batch: Batch, loss: Loss):
        self.count, self.loss = len(batch), loss
        self.charts: dict[str, Tensor] = {}

    def of(self, part: Batch) -> Tensor:
        """What a part adds to the mean."""
        found = self.loss.losses(part, self.loss.forward(part))
        for name, value in _means(found, self.count).items():
            self.charts[name] = self.charts.get(name, 0) + value
        return found.losses.sum() / self.count


class _OfBatch:
    """The same by a loss that looks at the whole batch, exactly.

    From the values of all items, seen without gradient, comes G = ∂L/∂values; then, part by part, Σ values·G. By the chain
    rule its gradient is that of L, whatever the parts.
    """

    def __init__(self, batch: Batch, loss: Loss, seen: Sequence[Columns]):
        self.loss, self.first = loss, 0
        columns = {name: torch.cat([values[name] for values in seen]).requires_grad_() for name in seen[0]}
        found = loss.losses(batch, columns)
        slopes = torch.autograd.grad(found.losses.sum() / len(batch), list(columns.values()), allow_unused=True)
        self.slopes = dict(zip(columns, slopes, strict=True))
        self.charts = _means(found, len(batch))

    def of(self, part: Batch) -> Tensor:
        """What has the gradient of L that is due to a part; parts come in order."""
        values, own = self.loss.forward(part), slice(self.first, self.first + len(part))
        self.first += len(part)
        terms = [
            (values[name] * slope[own]).sum()
            for name, slope in self.slopes.items()
            if slope is not None and values[name].requires_grad
        ]
        return torch.stack(terms).sum()


@torch.no_grad()
def _seen(parts: Sequence[Batch], losses: Sequence[Loss], passes: Passes) -> Iterator[Sequence[Columns]]:
    """What each of some losses' models makes of all parts."""
    seen: list[list[Columns]] = []
    for part in parts if losses else ():
        with passes.together():
            seen.append([loss.forward(part) for loss in losses])
    return iter(list(zip(*seen, strict=True)))


def _means(found: Losses, count: int) -> dict[str, Tensor]:
    """What a part contributes to the charted means over `count` items."""
    return {n: v.detach().sum() / count for n, v in {"loss": found.losses, **found.charts}.items()}
