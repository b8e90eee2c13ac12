"""Which items each step sees, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from posweep.errors import ConfigError
from posweep.policy.reproducible import stream


@dataclass(frozen=True)
class Batch:
    """The items of a step, or some of them, and the epoch they are seen in."""

    items: np.ndarray
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def parts(self, size: int) -> Iterator[Batch]:
        """The items in order, `size` at a time."""
        return (Batch(self.items[start : start + size], self.epoch) for start in range(0, len(self), size))


class Losses(NamedTuple):
    """Losses of the items of a batch, (items,), and what else to chart: one value per item, detached."""

    losses: Tensor
    charts: Mapping[str, Tensor]


Columns = Mapping[str, Tensor]
"""What the model makes of each item of a batch: named values, each (items,)."""


class Loss(Protocol):
    """What the loop minimises: the model's values of each item, and what a batch of such values costs.

    `separable`: whether the loss of a batch is the mean of the losses of its parts.
    """

    @property
    def separable(self) -> bool:
        """Whether `losses` looks at one item at a time."""
        ...

    def forward(self, batch: Batch) -> Columns:
        """Run the model; columns that carry gradient and columns that do not."""
        ...

    def losses(self, batch: Batch, columns: Columns) -> Losses:
        """The loss of each item, given what the model made of all of them."""
        ...


@dataclass(frozen=True)
class PerItem:
    """A loss that is a function of one item at a time, such as a negative log-likelihood."""

    function: Callable[[np.ndarray], Losses]
    separable: ClassVar[bool] = True

    def forward(self, batch: Batch) -> Columns:
        """The losses are all there is."""
        losses, charts = self.function(batch.items)
        return {"losses": losses, **charts}

    def losses(self, batch: Batch, columns: Columns) -> Losses:
        """As they came."""
        charts = dict(columns)
        return Losses(charts.pop("losses"), charts)


def batches(lengths: np.ndarray, batch_size: int, steps: int, *, window: int = 16, seed: int = 0) -> list[Batch]:
    """Which items each step sees: shuffled per epoch, sorted by length inside windows, windows' batches shuffled.

    Fixed by the lengths and the seed alone. Items left over at the end of an epoch wait for the next.
    """
    if batch_size > len(lengths):
        raise ConfigError(f"batch_size: a step takes {batch_size} items and there are {len(lengths)}.")
    plan: list[Batch] = []
    epoch = 0
    while len(plan) < steps:
        rng = stream("order", seed, epoch)
        order = rng.permutation(len(lengths))
        for start in range(0, len(order) - batch_size + 1, batch_size * window):
            rows = order[start : start + batch_size * window]
            rows = rows[: len(rows) // batch_size * batch_size]
            rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
            plan += [Batch(row, epoch) for row in rows[rng.permutation(len(rows))]]
        epoch += 1
    return plan[:steps]
