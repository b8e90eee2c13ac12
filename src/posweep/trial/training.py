"""The training of trials: from the SFT weights or where they were interrupted, with as many pairs at once as fit.

Trials that see the same batches may be trained in one pass; one trial is a cohort of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from posweep.artifacts.shared import Shared
from posweep.errors import Diverged
from posweep.policy.batch import Batch, batches
from posweep.policy.checkpoint import Door
from posweep.policy.reproducible import seeded, threads
from posweep.policy.train import Curves, Training, optimise_all
from posweep.records import TrialSpec
from posweep.settings import TrainSettings, steps_of
from posweep.trial.cohort import Cohort, Trial
from posweep.trial.course import Course
from posweep.trial.evaluate import Respond, Unjudged, evaluate
from posweep.trial.halving import halving, training_sentence
from posweep.trial.loss import preference_loss


def train(spec: TrialSpec, shared: Shared, course: Course, door: Door | None = None, measured: bool = True) -> Curves:
    """Put the weights back and train, with as many pairs at once as fit; returns the curves.

    Args:
        measured: whether the policy is measured on the way and at the end.

    Raises:
        Diverged: a loss or gradient norm stopped being finite.
        Unjudged: a judge went away.
        OutOfMemory: not even one pair at a time fits.
        Stopped: the sweep was asked to stop.
    """
    [[trial]] = train_all([Trial(spec, course, door or Door())], shared, measured)
    if trial.end:
        raise trial.end
    return trial.curves


def train_all(trials: Sequence[Trial], shared: Shared, measured: bool = True) -> Iterator[list[Trial]]:
    """The same for trials that see the same batches; how each of them ended is its `end`.

    Yields:
        Those that shared their passes, before the next are trained. What is written of a policy has to be written by then.

    Raises:
        OutOfMemory: not even one pair at a time fits.
        Exception: whatever went wrong in a pass that several trials shared; any of them may be the cause.
    """
    spec, clock = trials[0].spec, trials[0].course.clock
    settings = settings_of(spec, shared)
    with clock.stage("reset"):
        plan = batches(
            shared.pairs.lengths(), settings.batch_size,
            steps_of(len(shared.pairs), settings.batch_size, settings.epochs),
            window=settings.bucket_batches, seed=spec.seed,
        )  # fmt: skip
    moments = {max(1, round(at * len(plan))): at for at in settings.evaluate_at} if measured else {}
    for trial in trials:
        trial.course.micro_batch_size = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
        _go_on(trial, shared, moments)
        trial.door.about = partial(trial.course.about, trial.spec.score_key)
    for alike in _standing_alike(trials):
        with threads(settings.threads):
            _until_it_fits(alike, shared, plan, moments)
        yield alike


def _standing_alike(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that go on at the same step with as many pairs at once; those that were interrupted apart go on apart."""
    found: dict[tuple[int, int], list[Trial]] = {}
    for trial in trials:
        step = trial.door.begun.step if trial.door.begun else 0
        found.setdefault((step, trial.course.micro_batch_size), []).append(trial)
    return list(found.values())


def _until_it_fits(
    trials: Sequence[Trial], shared: Shared, plan: Sequence[Batch], moments: Mapping[int, float]
) -> None:
    """With fewer pairs at once where one trial does not fit; of several, fewer are to be tried."""
    if len(trials) > 1:
        _optimise(trials, shared, plan, moments)
        return
    [trial] = trials

    def again(size: int) -> None:
        """From the beginning: the numbers are those of a trial that had so few pairs at once from the start."""
        trial.course.begin_again(size)
        trial.door.forget()

    halving(
        lambda _: _optimise(trials, shared, plan, moments),
        trial.course.micro_batch_size, again, training_sentence(shared.configuration),
    )  # fmt: skip


def _optimise(trials: Sequence[Trial], shared: Shared, plan: Sequence[Batch], moments: Mapping[int, float]) -> None:
    """One try."""
    clock = trials[0].course.clock
    with clock.stage("reset"):
        cohort = Cohort(trials, shared)
        trainings = [_training(place, cohort, len(plan)) for place in range(len(trials))]
    cohort.policy.model.train()
    looks = {step: partial(_look, cohort, trainings, step, share) for step, share in moments.items()}
    with clock.stage("train"), seeded(trials[0].spec.seed):
        optimise_all(trainings, plan, looks, cohort.stack)
    for trial, training in zip(trials, trainings, strict=True):
        trial.end = training.end
        trial.curves = training.curves() if training.done == len(plan) else {}


def _training(place: int, cohort: Cohort, steps: int) -> Training:
    """The training of one trial of a cohort."""
    trial, shared = cohort.trials[place], cohort.seen_by(place)
    settings = dataclasses.replace(settings_of(trial.spec, shared), micro_batch_size=trial.course.micro_batch_size)
    return Training(cohort.weights[place], preference_loss(trial.spec, shared), settings, steps, trial.door)


def _look(cohort: Cohort, trainings: Sequence[Training], step: int, share: float) -> None:
    """Measure the policies of all trials that go on, after a step, which is a share of all."""
    going = [place for place, training in enumerate(trainings) if training.end is None]
    for place, respond in cohort.responding(going):
        trainings[place].end = _measure(cohort.trials[place], cohort.shared, step, share, respond)


def _measure(trial: Trial, shared: Shared, step: int, share: float, respond: Respond | None) -> Exception | None:
    """Measure the policy of a trial, which lies in `shared`; why the trial ends here, None if it goes on."""
    try:
        found = evaluate(trial.spec, shared, trial.course, step, respond)
    except (Diverged, Unjudged) as error:
        return error
    if share < 1:
        trial.course.along[share] = found.measures
    else:
        trial.course.final = found
    return None


def _go_on(trial: Trial, shared: Shared, moments: Mapping[int, float]) -> None:
    """Take over what a checkpoint says, if this trial would have come by it; else begin from the beginning.

    Measures taken along training are those of one set of prompts and judges. A checkpoint that lies behind a moment
    that nothing was measured at, because there was none before or it was measured otherwise, is of no use.
    """
    state, spec = trial.door.begun, trial.spec
    if state is None:
        return
    along = state.about["along"] if state.about["score_key"] == spec.score_key else {}
    missed = any(step < state.step and share not in along for step, share in moments.items())
    fits = _shapes(state.weights) == _shapes(shared.weights)
    if missed or not fits:
        trial.door.forget()
    else:
        trial.course.go_on(state.about, along, state.step)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def settings_of(spec: TrialSpec, shared: Shared) -> TrainSettings:
    """What the sweep says of training, and what the trial says otherwise."""
    return dataclasses.replace(shared.configuration.train, **spec.train)
