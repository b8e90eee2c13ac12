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
    CONFIG,
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
from posweep.judges import judge_counters
from posweep.ledger import Ledger, write_atomically, write_text_atomically
from posweep.mirror import NoMirror, driver_mirror
from posweep.plan import Plan, make_plan, shared_fingerprints
from posweep.preflight import commits_so_far, ready
from posweep.progress import Progress
from posweep.publish import refresh
from posweep.recorder import Recorder, unsent
from posweep.records import SweepHeader, TrialSpec
from posweep.search import Search, with_searched
from posweep.settings import Configuration
from posweep.stop import Stop, interrupt, on_signals
from posweep.trackers import open_tracker
from posweep.trials import Trials

Rounds = Iterator[tuple[list[TrialSpec], list[str]]]
"""Of a search: the trials of each round, and the keys of those that remain to run."""


def launch(
    configuration: Configuration, composed: str, say: Callable[[str], None] = print, train: bool = True,
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
    plan, name = make_plan(configuration), configuration.sweep.name
    tracker, executor = open_tracker(configuration.tracking), open_executor(configuration.executor)
    folder, ledger = folder_of(configuration), Ledger(folder_of(configuration))
    search: Search | None = None
    if configuration.search.kind != "none":
        search = Search(configuration, plan, ledger) if train and not failed_only else None
        plan = plan if search else with_searched(configuration, plan)  # what it found is judged or tried again as it is
    if problems := ownership_problems(folder, name):
        raise PreflightError(problems)
    failed_before = ledger.failures(plan).keys() - ledger.finished(plan).keys() if failed_only else set()
    if failed_only and not failed_before:
        raise ConfigError(f"retry: no trial of sweep {name} has failed; leave retry out to run what is left.")
    surroundings = (folder_problems(folder), tracker.preflight(), executor.preflight())
    configuration, counts = ready(configuration, plan, list(itertools.chain(*surroundings)))
    mirror = driver_mirror(configuration, folder)
    with (
        needs_room(folder),
        only_driver(folder, name),
        on_signals(interrupt),
        closing(Stop(mirror)) as stop,
        Recorder(tracker, plan, folder) as recorder,
        _opened(executor, configuration, plan, ledger, say),
    ):
        driver = take_over(folder)  # before anything is read: what workers of another launch write now comes too late
        mirror.go_on()
        mirror.gather(plan)
        held = _held(recorder, say)
        damaged = clear_damaged(folder)
        for sentence in (*damaged, *_write_down(folder, plan, composed, configuration)):
            say(sentence)
        missing = _plan_minus_finished(plan, ledger, held, recorder)
        earlier = iter(()) if missing else _rounds(search, held, mirror, recorder)
        for _, missing in earlier:  # rounds that are finished need no workers
            if missing:
                break
        plan = recorder.plan
        chosen = missing if train else [key for key in missing if _is_trained(plan.of(key), ledger)]
        chosen = [key for key in chosen if key in failed_before] if failed_only else chosen
        if chosen or (damaged and not missing):  # what was damaged is made again
            rounds = _rounds(search, held, mirror, recorder)
            _run(configuration, chosen, rounds, driver, stop, mirror, recorder, executor, counts)
            plan = recorder.plan
        failures = ledger.failures(plan)
        _note_counters(configuration, folder)
        trouble = recorder.finish("failed" if failures else "finished")
        if trouble:
            say(unsent(configuration, recorder, trouble))
        refresh(configuration, ledger.finished(plan), None if trouble else tracker)
    if stop.reason:
        raise TrialsFailed(
            f"The sweep stopped: {stop.reason}; the first: {_first(failures)}\n"
            f"posweep status sweep={name} lists the failures; when their cause is mended, posweep sweep={name} goes on."
        )
    if failures:
        raise TrialsFailed(
            f"{len(failures)} of {len(plan)} trials failed; the first: {_first(failures)}\n"
            f"posweep status sweep={name} lists them; posweep sweep={name} retry=failed runs them again."
        )
    if not missing:
        say(f"Nothing is left to do: all {len(plan)} trials of sweep {name} are finished.")
    elif len(chosen) < len(missing) and train:
        say(f"{len(missing) - len(chosen)} of {len(plan)} trials are left; posweep sweep={name} runs them.")
    elif len(chosen) < len(missing):
        say(
            f"{len(missing) - len(chosen)} of {len(plan)} trials have no stored responses to judge (or were measured along "
            f"training); posweep sweep={name} runs them."
        )


# --- the steps


@contextmanager
def _opened(
    executor: Executor, configuration: Configuration, plan: Plan, ledger: Ledger, say: Callable[[str], None]
) -> Iterator[None]:
    """What trials run on, taken before anything is made, unless there is nothing to run."""
    if configuration.search.kind == "none" and len(ledger.finished(plan)) == len(plan):
        yield
        return
    executor.open(configuration, ledger.folder, say)
    try:
        yield
    finally:
        executor.close()


def _is_trained(spec: TrialSpec, ledger: Ledger) -> bool:
    """Whether the responses of a trial are stored, so that judging is all that is left."""
    before = ledger.result(spec.key)
    if before is None or before.response_key != spec.response_key:
        return False
    return not before.along and "diverged_by" not in before.notes  # what a judge could not score was not kept


def _write_down(folder: Path, plan: Plan, composed: str, configuration: Configuration) -> list[str]:
    """Write down what is launched; what there is to say about what lay there before."""
    identity, resolved = identity_of(configuration), commits_so_far(configuration)
    changed = changed_since(folder, plan, identity)
    write_plan(folder, plan, identity)
    write_text_atomically(folder / CONFIG, composed)
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
    """What remains to run: results only one of ledger and tracker has are copied to the other first."""
    finished = set(ledger.finished(plan))
    for spec in plan:
        if spec.key in finished and held.get(spec.key) != spec.score_key:
            recorder.send(spec.key)
        elif spec.key not in finished and held.get(spec.key) == spec.score_key and (found := recorder.fetch(spec.key)):
            ledger.write(found)
            finished.add(spec.key)
    return [spec.key for spec in plan if spec.key not in finished]


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
    recorder: Recorder, executor: Executor, counts: Mapping[str, int],
) -> None:  # fmt: skip
    """Make the artifacts, then run the trials under the eyes of the progress display."""
    ledger, folder, plan = recorder.ledger, mirror.folder, recorder.plan
    found = shared_fingerprints(configuration) if configuration.executor.storage else None
    work = Work(configuration, folder, {spec.key: spec for spec in plan}, found, driver)
    with Progress(plan.trials, ledger.finished(plan), configuration.sweep.primary_metric) as progress:
        _make_artifacts(configuration, mirror, progress, counts)
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


def _make_artifacts(
    configuration: Configuration, mirror: NoMirror, progress: Progress, counts: Mapping[str, int]
) -> None:
    """Everything trials share, before the first of them; and what the sweep as a whole has to say."""
    from posweep.artifacts.shared import prepare, release
    from posweep.artifacts.store import MADE, Store
    from posweep.trial import baseline_measures, opponents

    seen: set[str] = set()
    folder = mirror.folder

    def say(kind: str) -> None:
        if kind not in seen:
            seen.add(kind)
            progress.say(f"making {MADE[kind]} …")

    shared = prepare(configuration, Store(folder / "artifacts", say, mirror), configuration.device)
    parameters = sum(p.numel() for p in shared.policy.model.parameters())
    data_facts = {f"data/{name}": count for name, count in counts.items()}
    facts = {**sweep_facts(configuration, parameters), **data_facts, **shared.facts}
    header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric, baseline_measures(shared), facts)
    write_atomically(folder / OPPONENTS, [row.to_json() for row in opponents(shared)])
    write_atomically(folder / HEADER, header.to_json())
    del shared
    release()  # workers need the GPU that this process used


def _note_counters(configuration: Configuration, folder: Path) -> None:
    """What judges were asked and answered, and the metric of this launch, into the header."""
    if (folder / HEADER).is_file():
        header, metric = read_header(folder), configuration.sweep.primary_metric
        facts = {**header.facts, **judge_counters(configuration, folder / "artifacts")}
        write_atomically(folder / HEADER, dataclasses.replace(header, primary_metric=metric, facts=facts).to_json())


def _first(failures: Any) -> str:
    failure = next(iter(failures.values()))
    return f"{failure.error}: {failure.message} (log: {failure.log})"
