"""A trial's training: from the SFT weights or where it was interrupted, with as many pairs at once as fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from posweep.artifacts.shared import Shared
from posweep.policy.checkpoint import Door
from posweep.policy.load import trained
from posweep.policy.reproducible import seeded
from posweep.policy.train import Batch, batches, optimise, reset
from posweep.records import TrialSpec
from posweep.settings import TrainSettings, steps_of
from posweep.trial.course import Course
from posweep.trial.evaluate import Unjudged, evaluate
from posweep.trial.halving import halving, training_sentence
from posweep.trial.loss import preference_loss


def train(
    spec: TrialSpec, shared: Shared, course: Course, door: Door | None = None, measured: bool = True
) -> dict[str, list[list[float]]]:
    """Put the weights back and train, with as many pairs at once as fit; returns the curves.

    Args:
        measured: whether the policy is measured on the way and at the end.

    Raises:
        Diverged: a loss or gradient norm stopped being finite.
        Unjudged: a judge went away.
        OutOfMemory: not even one pair at a time fits.
        Stopped: the sweep was asked to stop.
    """
    settings, door = settings_of(spec, shared), door or Door()
    with course.clock.stage("reset"):
        plan = batches(
            shared.pairs.lengths(), settings.batch_size,
            steps_of(len(shared.pairs), settings.batch_size, settings.epochs),
            window=settings.bucket_batches, seed=spec.seed,
        )  # fmt: skip
    moments = {max(1, round(at * len(plan))): at for at in settings.evaluate_at} if measured else {}
    course.micro_batch_size = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
    _go_on(spec, shared, course, door, moments)
    door.about = partial(course.about, spec.score_key)

    def again(size: int) -> None:
        """From the beginning: the numbers are those of a trial that had so few pairs at once from the start."""
        course.begin_again(size)
        door.forget()

    return halving(
        lambda _: _optimise(spec, shared, course, door, plan, moments),
        course.micro_batch_size, again, training_sentence(shared.configuration),
    )  # fmt: skip


def _optimise(
    spec: TrialSpec, shared: Shared, course: Course, door: Door, plan: Sequence[Batch],
    moments: Mapping[int, float],
) -> dict[str, list[list[float]]]:  # fmt: skip
    """One try."""
    settings = dataclasses.replace(settings_of(spec, shared), micro_batch_size=course.micro_batch_size)
    with course.clock.stage("reset"):
        reset(trained(shared.policy), shared.weights)
        loss = preference_loss(spec, shared)
    shared.policy.model.train()
    late: list[Unjudged] = []
    looks = {step: partial(_look, spec, shared, course, late, step, share) for step, share in moments.items()}
    with course.clock.stage("train"), seeded(spec.seed):
        curves = optimise(shared.policy.model, plan, loss, settings, looks, door)
    if late:
        late[0].curves = curves
        raise late[0]
    return curves


def _look(spec: TrialSpec, shared: Shared, course: Course, late: list[Unjudged], step: int, share: float) -> None:
    """Measure the policy after a step, which is a share of all; `late` gets what was not judged at the end."""
    try:
        found = evaluate(spec, shared, course, step)
    except Unjudged as error:
        if share < 1:
            raise
        late.append(error)
        return
    if share < 1:
        course.along[share] = found.measures
    else:
        course.final = found


def _go_on(spec: TrialSpec, shared: Shared, course: Course, door: Door, moments: Mapping[int, float]) -> None:
    """Take over what a checkpoint says, if this trial would have come by it; else begin from the beginning.

    Measures taken along training are those of one set of prompts and judges. A checkpoint that lies behind a moment
    that nothing was measured at, because there was none before or it was measured otherwise, is of no use.
    """
    state = door.begun
    if state is None:
        return
    along = state.about["along"] if state.about["score_key"] == spec.score_key else {}
    missed = any(step < state.step and share not in along for step, share in moments.items())
    fits = _shapes(state.weights) == _shapes(shared.weights)
    if missed or not fits:
        door.forget()
    else:
        course.go_on(state.about, along, state.step)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def settings_of(spec: TrialSpec, shared: Shared) -> TrainSettings:
    """What the sweep says of training, and what the trial says otherwise."""
    return dataclasses.replace(shared.configuration.train, **spec.train)
