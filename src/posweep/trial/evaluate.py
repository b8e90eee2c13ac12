"""Everything measured on a policy as it stands, with as many responses at once as fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from posweep.artifacts.shared import Shared
from posweep.errors import Diverged, JudgeUnavailable, NotFinite, OutOfMemory, PosweepError
from posweep.records import DIVERGED_BY, HeldOutPair, Response, TrialSpec
from posweep.trial.course import Course
from posweep.trial.generate import Stage, generate
from posweep.trial.halving import halving, sampling_sentence
from posweep.trial.judge import judge
from posweep.trial.measure import Measured, held_out_pairs, measure

Respond = Callable[[TrialSpec, Shared, Stage], list[Response]]
"""Draws the responses of a trial's policy, as `generate` does."""

DRAWN = "sample_batch_size"
"""The note of how many responses at once did fit."""


class Unjudged(Exception):
    """A judge went away after the training: what it was to judge, so that nothing has to be trained again."""

    def __init__(self, reason: PosweepError, responses: tuple[Response, ...], held_out: tuple[HeldOutPair, ...]):
        self.reason, self.responses, self.held_out = reason, responses, held_out
        super().__init__(str(reason))


def evaluate(spec: TrialSpec, shared: Shared, course: Course, step: int, respond: Respond | None = None) -> Measured:
    """Everything measured on the policy as it stands.

    Args:
        respond: how it answers the prompts, if not by itself.

    Raises:
        Diverged: it gives no probabilities, is infinitely far from the SFT model, or writes what no judge can score.
    """
    shared.policy.model.eval()
    try:
        drawn, held_out = _drawn(spec, shared, course, respond or generate)
        if not all(math.isfinite(response.kl) for response in drawn):
            raise Diverged(step, "KL to SFT")
        with course.clock.stage("judge"):
            responses = _judged(drawn, held_out, shared, course)
        with course.clock.stage("measure"):
            return measure(responses, held_out, shared)
    except NotFinite as error:
        raise Diverged(step, error.what) from error
    finally:
        shared.policy.model.train()


def _drawn(
    spec: TrialSpec, shared: Shared, course: Course, respond: Respond
) -> tuple[list[Response], tuple[HeldOutPair, ...]]:
    """The policy's responses, and what it makes of held-out pairs."""

    def draw(size: int) -> tuple[list[Response], tuple[HeldOutPair, ...]]:
        fewer, clock = _at_once(shared, size), course.clock
        with clock.stage("generate"):
            responses = respond(spec, fewer, clock.stage)
        with clock.stage("measure"):
            return responses, held_out_pairs(spec, fewer)

    def again(size: int) -> None:
        course.notes[DRAWN] = size

    most = sum(len(evaluation.prompts) for evaluation in shared.evaluation)
    size = course.notes.get(DRAWN, min(shared.configuration.sample.batch_size, most))
    return halving(draw, size, again, sampling_sentence(shared.configuration))


def _at_once(shared: Shared, size: int) -> Shared:
    """The same artifacts, with so many responses drawn and scored at once."""
    configuration = shared.configuration
    sample = dataclasses.replace(configuration.sample, batch_size=size)
    return dataclasses.replace(shared, configuration=dataclasses.replace(configuration, sample=sample))


def _judged(
    drawn: Sequence[Response], held_out: tuple[HeldOutPair, ...], shared: Shared, course: Course
) -> tuple[Response, ...]:
    try:
        return judge(drawn, shared)
    except (JudgeUnavailable, OutOfMemory) as error:
        raise Unjudged(error, tuple(drawn), held_out) from error
    except NotFinite as error:
        course.notes[DIVERGED_BY] = error.what
        raise
