"""The one optimisation loop. SFT, judges and every method run through it; only the loss differs.

Several trainings that see the same batches may share their forward and backward passes; one is a cohort of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import get_scheduler

from posweep.errors import Diverged, Stopped
from posweep.policy.batch import Batch, Loss
from posweep.policy.checkpoint import Door, State
from posweep.policy.gradient import Alone, Passes, accumulate
from posweep.settings import TrainSettings

CHECK_EVERY = 16
"""Steps between looks at whether the numbers are still finite: each look waits for the device."""


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
    charts = accumulate(batch, [training.loss for training in trainings], micro, passes)
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
