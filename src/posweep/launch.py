"""One sweep from configuration to done: preflight, lock, plan − finished, artifacts, trials, tracker, report."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from posweep.difference import changed_since
from posweep.errors import ConfigError, PreflightError, TrialsFailed
from posweep.executors import Executor, Work, open_executor
from posweep.facts import sweep_facts
from posweep.folder import (
    COMMITS,
    HEADER,
    OPPONENTS,
    PLAN,
    clear_damaged,
    folder_of,
    folder_problems,
    needs_room,
    only_driver,
    read_header,
    take_over,
)
from posweep.identity import identity_of, ownership_problems, write_plan
from posweep.invocation import command, record_invocation
from posweep.judges import judge_counters, judge_notices
from posweep.ledger import Ledger, write_atomically, write_text_atomically
from posweep.mirror import NoMirror, driver_mirror
from posweep.plan import Plan, make_plan, shared_fingerprints
from posweep.preflight import commits_so_far, model_notices, ready
from posweep.progress import Progress
from posweep.publish import refresh
from posweep.recorder import Recorder, given_up, unsent
from posweep.records import SweepHeader, TrialFailure, TrialSpec
from posweep.search import Search, with_searched
from posweep.settings import Configuration
from posweep.stop import Stop
from posweep.trackers import open_tracker
from posweep.trials import Trials

Rounds = Iterator[tuple[list[TrialSpec], list[str]]]
"""Of a search: the trials of each round, and the keys of those that remain to run."""


def launch(
    configuration: Configuration, say: Callable[[str], None] = print, train: bool = True,
    failed_only: bool = False,
) -> None:  # fmt: skip
    """Run what is not finished, record it, and write the report.

    Args:
        train: whether to train; if not, only responses that are stored already are judged.
        failed_only: whether to run just what has failed.

    Raises:
        ConfigError: the configuration or the surroundings are wrong; nothing was started.
        TrialsFailed: some trials failed; the others are finished and recorded.
        KeyboardInterrupt: Ctrl-C or SIGTERM; everything finished is recorded, the rest goes on with the next launch.
    """
    name, folder, ledger = configuration.sweep.name, folder_of(configuration), Ledger(folder_of(configuration))
    tracker, executor = open_tracker(configuration.tracking), open_executor(configuration.executor)
    plan, search = _planned(configuration, ledger, train and not failed_only)
    if problems := ownership_problems(folder, name):
        raise PreflightError(problems)
    surroundings = (folder_problems(folder), tracker.preflight(), executor.preflight())
    configuration, of_data = ready(configuration, plan, list(itertools.chain(*surroundings)))
    for sentence in (*of_data.notes, *tracker.notes()):
        say(sentence)
    mirror = driver_mirror(configuration, folder)
    with (
        needs_room(folder),
        only_driver(folder, name),
        closing(Stop(mirror)) as stop,
        Recorder(tracker, plan, folder) as recorder,
        _opened(executor, configuration, plan, ledger, say),
    ):
        driver = take_over(folder)  # before anything is read: what workers of another launch write now comes too late
        mirror.take_over()
        mirror.gather(plan)
        wanted = _wanted(plan, ledger, train, failed_only)
        held = _held(recorder, say)
        damaged = clear_damaged(folder)
        notices = (*model_notices(configuration), *judge_notices(configuration))
        for sentence in (*notices, *damaged, *_write_down(folder, plan, configuration)):
            say(sentence)
        missing = _missing(plan, ledger, search, held, mirror, recorder)
        chosen = [key for key in missing if wanted(recorder.plan.of(key))]
        if chosen or (damaged and not missing):  # what was damaged is made again
            rounds = _rounds(search, held, mirror, recorder)
            _run(configuration, chosen, rounds, driver, stop, mirror, recorder, executor, of_data.facts)
        failures = ledger.failures(recorder.plan)
        _finish(configuration, recorder, "failed" if failures else "finished", say)
    _raise_failures(configuration, failures, len(recorder.plan), stop.reason)
    _say_what_is_left(configuration, len(recorder.plan), len(missing), len(missing) - len(chosen), train, say)


# --- the steps


def _planned(configuration: Configuration, ledger: Ledger, searching: bool) -> tuple[Plan, Search | None]:
    """The plan, and the search that follows it; a launch that only judges or retries takes what was searched as it is."""
    plan = make_plan(configuration)
    if configuration.search.kind == "none":
        return plan, None
    return (plan, Search(configuration, plan, ledger)) if searching else (with_searched(configuration, plan), None)


def _wanted(plan: Plan, ledger: Ledger, train: bool, failed_only: bool) -> Callable[[TrialSpec], bool]:
    """Which of the trials that are not finished this launch is for.

    Raises:
        ConfigError: it is for those that failed, and none has.
    """
    if not failed_only:
        return lambda spec: train or _is_trained(spec, ledger)
    failed = ledger.failures(plan).keys()
    if not failed:
        raise ConfigError(f"retry: no trial of sweep {plan.name} has failed; leave retry out to run what is left.")
    return lambda spec: spec.key in failed


@contextmanager
def _opened(
    executor: Executor, configuration: Configuration, plan: Plan, ledger: Ledger, say: Callable[[str], None]
) -> Iterator[None]:
    """What trials run on, taken before anything is made, unless there is nothing to run."""
    if configuration.search.kind != "none" or len(ledger.finished(plan)) < len(plan):
        executor.open(configuration, ledger.folder, say)
    try:
        yield
    finally:
        executor.close()


def _is_trained(spec: TrialSpec, ledger: Ledger) -> bool:
    """Whether the responses of a trial are stored, so that judging is all that is left."""
    before = ledger.outcome(spec.key)
    return before is not None and before.result.response_key == spec.response_key and before.wants_only_judges


def _write_down(folder: Path, plan: Plan, configuration: Configuration) -> list[str]:
    """Write down what is launched; what there is to say about what lay there before."""
    identity, resolved = identity_of(configuration), commits_so_far(configuration)
    changed = changed_since(folder, plan, identity)
    write_plan(folder, plan, identity)
    record_invocation(folder, configuration)
    write_atomically(folder / COMMITS, resolved)
    return changed


def _held(recorder: Recorder, say: Callable[[str], None]) -> Mapping[str, str]:
    """What the tracker holds: key → score key; a tracker that is away since the preflight costs a sentence."""
    held = recorder.held()
    if held is None:
        say(
            f"MLflow does not answer ({recorder.trouble or 'no answer in time'}): the sweep goes on with what its own "
            "folder holds, and everything is sent when MLflow is back."
        )
    return held or {}


def _plan_minus_finished(
    plan: Iterable[TrialSpec], ledger: Ledger, held: Mapping[str, str], recorder: Recorder
) -> list[str]:
    """What remains to run: results that only the tracker has are copied first. (The recorder sees to the others.)"""
    finished = set(ledger.finished(plan))
    for spec in plan:
        if spec.key not in finished and held.get(spec.key) == spec.score_key and (found := recorder.fetch(spec.key)):
            ledger.write(found)
            finished.add(spec.key)
    return [spec.key for spec in plan if spec.key not in finished]


def _missing(
    plan: Plan, ledger: Ledger, search: Search | None, held: Mapping[str, str], mirror: NoMirror, recorder: Recorder
) -> list[str]:
    """What remains to run of the plan or, where nothing does, of the first round of the search that is not finished."""
    if missing := _plan_minus_finished(plan, ledger, held, recorder):
        return missing
    left = (missing for _, missing in _rounds(search, held, mirror, recorder) if missing)
    return next(left, [])  # rounds that are finished need no workers


def _rounds(search: Search | None, held: Mapping[str, str], mirror: NoMirror, recorder: Recorder) -> Rounds:
    """Each round of the search, by now part of the plan, and what of it remains to run."""
    for added in search.rounds() if search else ():
        plan = recorder.plan.extended(added)
        write_text_atomically(recorder.folder / PLAN, plan.to_jsonl())
        recorder.extend(plan)
        mirror.gather(added)
        yield added, _plan_minus_finished(added, recorder.ledger, held, recorder)


def _run(
    configuration: Configuration, missing: Sequence[str], rounds: Rounds, driver: str, stop: Stop, mirror: NoMirror,
    recorder: Recorder, executor: Executor, data_facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """Make the artifacts, then run the trials under the eyes of the progress display."""
    ledger, folder, plan = recorder.ledger, mirror.folder, recorder.plan
    settings = configuration.executor
    found = shared_fingerprints(configuration) if settings.storage or settings.address else None
    with Progress(plan.trials, ledger.finished(plan), configuration.sweep.primary_metric) as progress:
        work = Work(configuration, folder, {spec.key: spec for spec in plan}, found, driver)
        if why := _make_artifacts(configuration, mirror, progress, data_facts, executor, work):
            work = dataclasses.replace(work, configuration=_one_by_one(configuration, why, progress.say))
        recorder.describe()
        progress.start(f"sweep {configuration.sweep.name}")

        trials = Trials(executor, work, mirror, recorder, progress, stop)
        with stop.watched(progress.say, lambda: len(progress.running())):
            trials.run(missing)
            while not stop.reason and (following := next(rounds, None)):
                added, left = following
                trials.extend(added)
                trials.run(left)
    if stop.by_signal:
        raise KeyboardInterrupt


def _finish(configuration: Configuration, recorder: Recorder, status: str, say: Callable[[str], None]) -> None:
    """What the tracker lacks is sent, and the report written; a tracker that is away costs a sentence."""
    _note_counters(configuration, recorder.folder)
    trouble = recorder.finish(status)
    for sentence in (*given_up(recorder), *([unsent(configuration, recorder, trouble)] if trouble else [])):
        say(sentence)
    refresh(configuration, recorder.ledger.finished(recorder.plan), None if trouble else recorder.tracker)


def _raise_failures(
    configuration: Configuration, failures: Mapping[str, TrialFailure], trials: int, stopped: str
) -> None:
    """TrialsFailed, if any did; `stopped`: why the sweep stopped before its end."""
    go_on, status = command(configuration), command(configuration, "status")
    retry = command(configuration, "launch", "retry=failed")
    if not failures and stopped:
        raise TrialsFailed(f"The sweep stopped: {stopped}. Everything finished is kept; {go_on} goes on.")
    if not failures:
        return
    first = next(iter(failures.values()))
    cause = f"the first: {first.said} (log: {first.log})"
    if stopped:
        raise TrialsFailed(
            f"The sweep stopped: {stopped}; {cause}\n"
            f"{status} lists the failures; when their cause is mended, {go_on} goes on."
        )
    raise TrialsFailed(
        f"{len(failures)} of {trials} trials failed; {cause}\n{status} lists them; {retry} runs them again."
    )


def _say_what_is_left(
    configuration: Configuration, trials: int, missing: int, left: int, train: bool, say: Callable[[str], None]
) -> None:
    """Where there was nothing to do, or this launch was not for everything."""
    go_on = command(configuration)
    if not missing:
        say(f"Nothing is left to do: all {trials} trials of sweep {configuration.sweep.name} are finished.")
    elif left and train:
        say(f"{left} of {trials} trials are left; {go_on} runs them.")
    elif left:
        say(
            f"{left} of {trials} trials have no stored responses to judge (or were measured along training); "
            f"{go_on} runs them."
        )


def _make_artifacts(
    configuration: Configuration, mirror: NoMirror, progress: Progress, data_facts: Mapping[str, Any], executor: Executor,
    work: Work,
) -> str:  # fmt: skip
    """Everything trials share, before the first of them; and what the sweep as a whole has to say.

    Returns:
        Why trials cannot share passes that they are to share; empty where they can.
    """
    folder = mirror.folder
    summary = executor.make_artifacts(
        dataclasses.replace(work, specs={}), progress.say
    )  # which the trials are is no matter
    facts = {**sweep_facts(configuration, summary.parameters), **data_facts, **summary.facts}
    header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric, summary.baseline, facts)
    write_atomically(folder / OPPONENTS, [row.to_json() for row in summary.opponents])
    write_atomically(folder / HEADER, header.to_json())
    return summary.obstacle


def _one_by_one(configuration: Configuration, why: str, say: Callable[[str], None]) -> Configuration:
    """No trial shares a pass with another, and it is said."""
    say(f"executor.fused: no pass can be shared ({why}); trials run one by one")
    executor = dataclasses.replace(configuration.executor, fused=1)
    return dataclasses.replace(configuration, executor=executor)


def _note_counters(configuration: Configuration, folder: Path) -> None:
    """What judges were asked and answered, and the metric of this launch, into the header."""
    if (folder / HEADER).is_file():
        header, metric = read_header(folder), configuration.sweep.primary_metric
        facts = {**header.facts, **judge_counters(configuration, folder / "artifacts")}
        write_atomically(folder / HEADER, dataclasses.replace(header, primary_metric=metric, facts=facts).to_json())
