"""The story of a trial on one screen: train, generate, judge, measure, hand over the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from posweep.artifacts.shared import Shared
from posweep.errors import Diverged, NotFinite
from posweep.policy.checkpoint import Door
from posweep.policy.reproducible import threads
from posweep.records import DIVERGED_BY, Outcome, TrialResult, TrialSpec
from posweep.trial.course import Course, Stopwatch
from posweep.trial.evaluate import Unjudged
from posweep.trial.judge import judge
from posweep.trial.measure import measure
from posweep.trial.training import settings_of, train

CURVE_POINTS = 200
"""Points kept of each training curve: enough to see it, few enough to write it."""


def run_trial(
    spec: TrialSpec, shared: Shared, keep: Callable[[Outcome], None] = lambda _: None, door: Door | None = None
) -> Outcome:
    """Train the policy that `spec` asks for and measure it; divergence is a result, not an error.

    Args:
        keep: takes a trial that is trained but could not be judged.
        door: where an interrupted trial goes on.

    Raises:
        JudgeUnavailable: a judge does not answer.
        OutOfMemory: it does not fit, however little is done at once.
        Stopped: the sweep was asked to stop.
    """
    course, door = Course(), door or Door()
    try:
        with threads(settings_of(spec, shared).threads):
            curves = train(spec, shared, course, door)
    except Diverged as error:
        return Outcome(_result(spec, course, door, status="diverged", message=str(error)))
    except Unjudged as error:
        if error.curves and not course.along:  # the training is over, and nothing was measured on the way
            curves = _thinned(error.curves)
            result = _result(spec, course, door, status="finished", message="not judged yet", curves=curves)
            keep(Outcome(dataclasses.replace(result, score_key=""), error.responses, error.held_out))
        raise error.reason from None
    final = course.final
    assert final is not None
    result = _result(
        spec, course, door, status="finished", measures=final.measures, curves=_thinned(curves),
        along=tuple({"at": at, "measures": measures} for at, measures in sorted(course.along.items())),
    )  # fmt: skip
    return Outcome(result, final.responses, final.held_out)


def rescore(spec: TrialSpec, shared: Shared, before: Outcome) -> Outcome:
    """The result under other judges, from the responses of a trial that was run before: nothing is trained."""
    clock = Stopwatch()
    try:
        with threads(shared.configuration.train.threads), clock.stage("judge"):
            measured = measure(judge(before.responses, shared), before.held_out, shared)
    except NotFinite as error:
        return Outcome(
            dataclasses.replace(
                before.result, score_key=spec.score_key, status="diverged", measures={},
                message=f"the {error.what} is not finite", notes={**before.result.notes, DIVERGED_BY: error.what},
            ),
            before.responses, before.held_out,
        )  # fmt: skip
    spent = before.result.seconds
    seconds = {**spent, **clock.seconds, "total": spent["total"] - spent.get("judge", 0.0) + clock.seconds["judge"]}
    result = dataclasses.replace(
        before.result, score_key=spec.score_key, status="finished", measures=measured.measures, seconds=seconds,
        message="", notes={name: note for name, note in before.result.notes.items() if name != DIVERGED_BY},
    )  # fmt: skip
    return Outcome(result, measured.responses, measured.held_out)


def _result(spec: TrialSpec, course: Course, door: Door, **known: Any) -> TrialResult:
    trouble = {"checkpoint": f"not written: {door.trouble}"} if door.trouble else {}
    return TrialResult(
        key=spec.key, response_key=spec.response_key, score_key=spec.score_key, seconds=course.clock.total(),
        started_at=course.clock.started_at, notes={**course.notes, **trouble}, **known,
    )  # fmt: skip


def _thinned(curves: Mapping[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """At most CURVE_POINTS of each curve, the last one kept."""
    return {
        name: points[: -1 : -(-len(points) // CURVE_POINTS)][: CURVE_POINTS - 1] + points[-1:]
        for name, points in curves.items()
    }
