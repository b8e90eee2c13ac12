"""The one optimisation loop. SFT, judges and every method run through it; only the loss differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from posweep.errors import ConfigError, Diverged
from posweep.policy.checkpoint import Door, State
from posweep.policy.reproducible import stream
from posweep.settings import TrainSettings

CHECK_EVERY = 16
"""Steps between looks at whether the numbers are still finite: each look waits for the device."""


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


def optimise(
    model: torch.nn.Module,
    plan: Sequence[Batch],
    loss: Loss,
    settings: TrainSettings,
    at: Mapping[int, Callable[[], None]] | None = None,
    door: Door | None = None,
) -> dict[str, list[list[float]]]:
    """Minimise the mean loss of each batch with AdamW, clipping and a schedule; returns curves as [[step, value], …].

    Args:
        plan: the items of each step; a step's gradient is that of the mean loss over its items, whatever the micro-batch.
        loss: what some items cost under the current weights.
        at: what to do after a given number of steps.
        door: where an interrupted training goes on, and leaves its state; without one it is run in one piece.

    Raises:
        Diverged: a loss or gradient norm stopped being finite.
        Stopped: the door was used.
    """
    run, at, door = _Run(model, settings, len(plan)), at or {}, door or Door()
    if begun := door.enter():
        run.enter(begun)
        del begun  # as large as the weights and the optimizer together
    if run.done in at:  # it was interrupted while this was done
        at[run.done]()
    for batch in plan[run.done :]:
        run.step(batch, loss)
        step, looks = run.done, run.done in at
        leaves = door.due(step, looks)
        if step % CHECK_EVERY == 0 or step == len(plan) or looks or leaves:
            _check_finite(run.history, step)
        if leaves:
            door.leave(run.state())
        if looks:
            at[step]()
    return _curves(run.history, run.rates, settings.max_grad_norm)


class _Run:
    """A training between two steps."""

    def __init__(self, model: torch.nn.Module, settings: TrainSettings, steps: int):
        self.settings = settings
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.weights.values())).device
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.learning_rate, betas=(0.9, settings.adam_beta2),
            weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip
        self.schedule = get_scheduler(
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
            self.optimizer, num_warmup_steps=round(settings.warmup_ratio * steps), num_training_steps=steps,
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)  # a trial that failed half-way may have left a gradient
        self.history: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    @property
    def done(self) -> int:
        """Steps taken."""
        return len(self.history)

    def step(self, batch: Batch, loss: Loss) -> None:
        """One optimisation step."""
        charts = _accumulate(batch, loss, self.settings.micro_batch_size or len(batch))
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_grad_norm)
        self.rates.append(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.history.append({**charts, "grad_norm": norm.detach()})

    def state(self) -> State:
        """What the next steps depend on; weights and moments are not copied."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return State(
            self.done, {name: value.detach() for name, value in self.weights.items()}, self.optimizer.state_dict(),
            self.schedule.state_dict(), _columns(self.history), self.rates, generators,
        )  # fmt: skip

    def enter(self, state: State) -> None:
        """Stand where another process stood."""
        reset(self.weights, state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        columns = {name: values.to(self.device).unbind() for name, values in state.charts.items()}
        self.history = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        self.rates = list(state.rates)
        torch.set_rng_state(state.generators["cpu"])
        if self.device.type == "cuda" and "cuda" in state.generators:
            torch.cuda.set_rng_state(state.generators["cuda"], self.device)


def _accumulate(batch: Batch, loss: Loss, micro: int) -> dict[str, Tensor]:
    """The gradient of the mean loss over a batch, taken `micro` items at a time; the charted means."""
    parts = list(batch.parts(micro))
    if len(parts) > 1 and not loss.separable:
        return _in_two_passes(batch, parts, loss)
    total: dict[str, Tensor] = {}
    for part in parts:
        found = loss.losses(part, loss.forward(part))
        (found.losses.sum() / len(batch)).backward()
        for name, value in _means(found, len(batch)).items():
            total[name] = total.get(name, 0) + value
    return total


def _in_two_passes(batch: Batch, parts: Sequence[Batch], loss: Loss) -> dict[str, Tensor]:
    """The same for a loss that looks at the whole batch, exactly.

    First the values of all items without gradient, and from them G = ∂L/∂values; then, part by part, the backward
    pass of Σ values·G. By the chain rule that is the gradient of L, whatever the parts.
    """
    with torch.no_grad():
        seen = [loss.forward(part) for part in parts]
    columns = {name: torch.cat([values[name] for values in seen]).requires_grad_() for name in seen[0]}
    found = loss.losses(batch, columns)
    slopes = torch.autograd.grad(found.losses.sum() / len(batch), list(columns.values()), allow_unused=True)
    for start, part in zip(np.cumsum([0, *map(len, parts)]), parts, strict=False):
        values = loss.forward(part)
        terms = [
            (values[name] * slope[start : start + len(part)]).sum()
            for name, slope in zip(columns, slopes, strict=True)
            if slope is not None and values[name].requires_grad
        ]
        torch.stack(terms).sum().backward()
    return _means(found, len(batch))


def _means(found: Losses, count: int) -> dict[str, Tensor]:
    """What a part contributes to the charted means over `count` items."""
    return {n: v.detach().sum() / count for n, v in {"loss": found.losses, **found.charts}.items()}


def _check_finite(history: list[dict[str, Tensor]], step: int) -> None:
    """Look at the last steps at once: each look waits for the device."""
    recent, names = history[-CHECK_EVERY:], ("loss", "grad_norm")
    finite = torch.stack([charts[name] for charts in recent for name in names]).isfinite().tolist()
    if not all(finite):
        at = finite.index(False)
        raise Diverged(step - len(recent) + 1 + at // len(names), names[at % len(names)].replace("_", " "))


def _columns(history: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What was charted, by name, (steps,)."""
    return {name: torch.stack([charts[name] for charts in history]) for name in history[0]}


def _curves(history: list[dict[str, Tensor]], rates: list[float], max_norm: float) -> dict[str, list[list[float]]]:
    columns: dict[str, list[float]] = {name: values.tolist() for name, values in _columns(history).items()}
    columns["learning_rate"] = rates
    columns["grad_clipped"] = [float(norm > max_norm) for norm in columns["grad_norm"]]
    return {name: [[i + 1, value] for i, value in enumerate(values)] for name, values in columns.items()}


def reset(weights: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
    """Put the weights that training changes back in place, without a reload."""
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(start[name])
