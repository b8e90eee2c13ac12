"""The story of a trial on one screen: train, generate, judge, measure, hand over the result. It is a cohort of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from posweep.artifacts.shared import Shared
from posweep.errors import Diverged, NotFinite
from posweep.policy.checkpoint import Door
from posweep.policy.reproducible import threads
from posweep.records import DIVERGED_BY, Outcome, TrialResult, TrialSpec
from posweep.trial.cohort import Trial
from posweep.trial.course import Course, Stopwatch
from posweep.trial.evaluate import Unjudged
from posweep.trial.judge import judge
from posweep.trial.measure import measure
from posweep.trial.training import train_all

CURVE_POINTS = 200
"""Points kept of each training curve: enough to see it, few enough to write it."""


Keep = Callable[[Outcome], None]
"""Takes a trial that is trained but could not be judged."""


def run_trial(spec: TrialSpec, shared: Shared, keep: Keep = lambda _: None, door: Door | None = None) -> Outcome:
    """Train the policy that `spec` asks for and measure it; divergence is a result, not an error.

    Args:
        door: where an interrupted trial goes on.

    Raises:
        JudgeUnavailable: a judge does not answer.
        OutOfMemory: it does not fit, however little is done at once.
        Stopped: the sweep was asked to stop.
    """
    [(_, end)] = run_cohort([spec], shared, keep, [door or Door()])
    if isinstance(end, Exception):
        raise end from None
    return end


def run_cohort(
    specs: Sequence[TrialSpec], shared: Shared, keep: Keep, doors: Sequence[Door]
) -> Iterator[tuple[TrialSpec, Outcome | Exception]]:
    """The same for trials that see the same batches in one pass; the numbers differ from those of each alone by rounding.

    Yields:
        What each came to, or what `run_trial` would have raised; its weights lie in `shared.policy` for the moment.

    Raises:
        Exception: whatever went wrong in a pass that they shared; any of them may be the cause.
    """
    clock = Stopwatch(len(specs))
    trials = [Trial(spec, Course(clock), door) for spec, door in zip(specs, doors, strict=True)]
    for together in train_all(trials, shared):
        for trial in together:
            trial.put()
            yield trial.spec, _end(trial, len(together), keep)


def _end(trial: Trial, fused: int, keep: Keep) -> Outcome | Exception:
    """What a trial came to, which was one of so many in a pass."""
    final, along, error = trial.course.final, trial.course.along, trial.end
    if fused > 1:
        trial.course.notes["fused"] = fused
    if isinstance(error, Diverged):
        return Outcome(_result(trial, status="diverged", message=str(error)))
    if isinstance(error, Unjudged):
        if trial.curves and not along:  # the training is over, and nothing was measured on the way
            result = _result(trial, status="finished", message="not judged yet", curves=_thinned(trial.curves))
            keep(Outcome(dataclasses.replace(result, score_key=""), error.responses, error.held_out))
        return error.reason
    if error:
        return error
    assert final is not None
    result = _result(
        trial, status="finished", measures=final.measures, curves=_thinned(trial.curves),
        along=tuple({"at": at, "measures": measures} for at, measures in sorted(along.items())),
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


def _result(trial: Trial, **known: Any) -> TrialResult:
    spec, course, trouble = trial.spec, trial.course, trial.door.trouble
    notes = {**course.notes, **({"checkpoint": f"not written: {trouble}"} if trouble else {})}
    return TrialResult(
        key=spec.key, response_key=spec.response_key, score_key=spec.score_key, seconds=course.seconds(),
        started_at=course.started_at, notes=notes, **known,
    )  # fmt: skip


def _thinned(curves: Mapping[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """At most CURVE_POINTS of each curve, the last one kept."""
    return {
        name: points[: -1 : -(-len(points) // CURVE_POINTS)][: CURVE_POINTS - 1] + points[-1:]
        for name, points in curves.items()
    }
