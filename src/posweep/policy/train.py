"""The one optimisation loop. SFT, judges and every method run through it; only the loss differs.

Several trainings that see the same batches may share their forward and backward passes; one is a cohort of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from posweep.errors import ConfigError, Diverged, Stopped
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


Curves = dict[str, list[list[float]]]
"""What was charted: [[step, value], …] by name."""


def optimise(
    model: torch.nn.Module,
    plan: Sequence[Batch],
    loss: Loss,
    settings: TrainSettings,
    at: Mapping[int, Callable[[], None]] | None = None,
    door: Door | None = None,
) -> Curves:
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
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    training = Training(weights, loss, settings, len(plan), door)
    optimise_all([training], plan, at or {})
    if training.end:
        raise training.end
    return training.curves()


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


def optimise_all(
    trainings: Sequence[Training],
    plan: Sequence[Batch],
    at: Mapping[int, Callable[[], None]],
    passes: Passes | None = None,
) -> None:
    """Take the steps of trainings that see the same batches and stand at the same step, each by its own settings.

    One that diverges, or whose door says so, ends (`Training.end`), and so may whoever is called `at` a step end some; the
    others go on. When one is asked to stop, all are.

    Args:
        passes: how they share a pass; needed where they are several.
    """
    passes = passes or Alone()
    for training in trainings:
        training.enter()
    done = trainings[0].done
    if done in at:  # they were interrupted while this was done
        at[done]()
    for batch in plan[done:]:
        if not (going := _going(trainings)):
            return
        _step(batch, going, passes)
        step, looks = going[0].done, going[0].done in at
        leaves = any(training.door.due(step, looks) for training in going)
        if step % CHECK_EVERY == 0 or step == len(plan) or looks or leaves:
            for training in going:
                training.check()
        if leaves:
            _leave(_going(trainings))
        if looks and _going(trainings):
            at[step]()


def _going(trainings: Sequence[Training]) -> list[Training]:
    return [training for training in trainings if training.end is None]


def _step(batch: Batch, trainings: Sequence[Training], passes: Passes) -> None:
    """One optimisation step of each."""
    micro = trainings[0].settings.micro_batch_size or len(batch)
    charts = _accumulate(batch, [training.loss for training in trainings], micro, passes)
    passes.share_gradients()
    for training, charted in zip(trainings, charts, strict=True):
        training.step(charted)
    passes.forget_gradients()  # before whoever looks at the policies needs the room


def _leave(trainings: Sequence[Training]) -> None:
    """Each leaves its state, whichever was due, so that they may go on together."""
    stopped = None
    for training in trainings:
        try:
            training.door.leave(training.state())
        except Stopped as error:
            stopped = error
    for training in trainings if stopped else ():
        training.end = stopped


class Training:
    """A training between two steps.

    Attributes:
        end: why it ended before its last step; None while it has not.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], loss: Loss, settings: TrainSettings, steps: int, door: Door | None = None
    ):
        self.weights, self.loss, self.settings, self.door = dict(weights), loss, settings, door or Door()
        self.end: Exception | None = None
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

    def step(self, charts: Mapping[str, Tensor]) -> None:
        """One step along the gradient that the weights hold; `charts` of the pass that it came from."""
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_grad_norm)
        self.rates.append(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.history.append({**charts, "grad_norm": norm.detach()})

    def check(self) -> None:
        """End where the last steps were not finite."""
        try:
            _check_finite(self.history, self.done)
        except Diverged as error:
            self.end = error

    def curves(self) -> Curves:
        """What was charted so far."""
        return _curves(self.history, self.rates, self.settings.max_grad_norm)

    def state(self) -> State:
        """What the next steps depend on; moments are not copied, nor weights but those that lie in a stack of several."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return State(
            self.done, {name: _by_itself(value) for name, value in self.weights.items()}, self.optimizer.state_dict(),
            self.schedule.state_dict(), _columns(self.history), self.rates, generators,
        )  # fmt: skip

    def enter(self) -> None:
        """Stand where another process stood, if the door says so."""
        if state := self.door.enter():
            self._enter(state)  # which is as large as the weights and the optimizer together, and gone after it

    def _enter(self, state: State) -> None:
        reset(self.weights, state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        columns = {name: values.to(self.device).unbind() for name, values in state.charts.items()}
        self.history = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        self.rates = list(state.rates)
        torch.set_rng_state(state.generators["cpu"])
        if self.device.type == "cuda" and "cuda" in state.generators:
            torch.cuda.set_rng_state(state.generators["cuda"], self.device)


def _by_itself(weight: Tensor) -> Tensor:
    """A weight without what else lies in its storage, which would be written with it."""
    weight = weight.detach()
    return weight if weight.untyped_storage().nbytes() == weight.nbytes else weight.clone()


def _accumulate(batch: Batch, losses: Sequence[Loss], micro: int, passes: Passes) -> list[dict[str, Tensor]]:
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
