"""One sweep from configuration to done: preflight, lock, plan − finished, artifacts, trials, tracker, report."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.difference import changed_since
from posweep.errors import PreflightError, TrialsFailed, first_line
from posweep.executors import Event, Executor, Work, open_executor
from posweep.folder import (
    COMMITS,
    CONFIG,
    HEADER,
    OPPONENTS,
    RUNNING,
    clear_damaged,
    folder_of,
    folder_problems,
    only_driver,
    read_header,
)
from posweep.identity import identity_of, ownership_problems, write_plan
from posweep.judges import judge_counters
from posweep.ledger import Ledger, write_atomically, write_text_atomically
from posweep.mirror import NoMirror, driver_mirror
from posweep.plan import Plan, make_plan, shared_fingerprints
from posweep.preflight import commits, commits_so_far, ready
from posweep.progress import Progress
from posweep.publish import refresh
from posweep.recorder import Recorder
from posweep.records import SweepHeader, TrialFailure, TrialSpec
from posweep.settings import Configuration
from posweep.trackers import Tracker, open_tracker


def launch(configuration: Configuration, composed: str, say: Callable[[str], None] = print, train: bool = True) -> None:
    """Run what is not finished, record it, and write the report.

    Args:
        train: whether to train; if not, only responses that are stored already are judged.

    Raises:
        ConfigError: the configuration or the surroundings are wrong; nothing was started.
        TrialsFailed: some trials failed; the others are finished and recorded.
    """
    plan, name = make_plan(configuration), configuration.sweep.name
    tracker, executor = open_tracker(configuration.tracking), open_executor(configuration.executor)
    folder, ledger = folder_of(configuration), Ledger(folder_of(configuration))
    if problems := ownership_problems(folder, name):
        raise PreflightError(problems)
    surroundings = (folder_problems(folder), tracker.preflight(), executor.preflight())
    configuration, counts = ready(configuration, plan, list(itertools.chain(*surroundings)))
    mirror = driver_mirror(configuration, folder)
    with only_driver(folder, name), _sigterm_as_interrupt(), _opened(executor, configuration, plan, ledger, say):
        mirror.gather(plan)
        tracker.open(name, plan.trials)
        damaged = clear_damaged(folder)
        for sentence in (*damaged, *_write_down(folder, plan, composed, configuration)):
            say(sentence)
        with _closed_if_interrupted(tracker), Recorder(tracker, ledger, plan) as recorder:
            missing = _plan_minus_finished(plan, ledger, tracker, recorder)
            chosen = missing if train else [key for key in missing if _is_trained(plan.of(key), ledger)]
            if chosen or (damaged and not missing):  # what was damaged is made again
                _run(configuration, plan, chosen, mirror, recorder, executor, counts)
        failures = ledger.failures(plan)
        trouble = _tell(tracker, folder, configuration, "failed" if failures else "finished") or recorder.last_error
        if trouble:
            say(f"The tracker does not hold everything yet ({trouble}); launch again to send the rest.")
        refresh(configuration, ledger.finished(plan), None if trouble else tracker)
    if failures:
        raise TrialsFailed(
            f"{len(failures)} of {len(plan)} trials failed; the first: {_first(failures)}\n"
            f"posweep status sweep={name} lists them; launch again to retry them."
        )
    if not missing:
        say(f"Nothing is left to do: all {len(plan)} trials of sweep {name} are finished.")
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
    return before is not None and before.response_key == spec.response_key and not before.along


def _write_down(folder: Path, plan: Plan, composed: str, configuration: Configuration) -> list[str]:
    """Write down what is launched; what there is to say about what lay there before."""
    identity, resolved = identity_of(configuration), commits_so_far(configuration)
    changed = changed_since(folder, plan, identity)
    write_plan(folder, plan, identity)
    write_text_atomically(folder / CONFIG, composed)
    write_atomically(folder / COMMITS, resolved)
    return changed


def _plan_minus_finished(plan: Plan, ledger: Ledger, tracker: Tracker, recorder: Recorder) -> list[str]:
    """What remains to run: results only one of ledger and tracker has are copied to the other first."""
    held, finished = tracker.held(), ledger.finished(plan)
    for spec in plan:
        if spec.key not in finished and held.get(spec.key) == spec.score_key:
            outcome = tracker.fetch(spec.key)
            if outcome:
                ledger.write(outcome)
        elif spec.key in finished and held.get(spec.key) != spec.score_key:
            recorder.send(spec.key)
    finished = ledger.finished(plan)
    return [spec.key for spec in plan if spec.key not in finished]


def _run(
    configuration: Configuration, plan: Plan, missing: Sequence[str], mirror: NoMirror, recorder: Recorder, executor: Any,
    counts: Mapping[str, int],
) -> None:  # fmt: skip
    """Make the artifacts, then run the trials under the eyes of the progress display."""
    ledger, folder = recorder.ledger, mirror.folder
    found = shared_fingerprints(configuration) if configuration.executor.storage else None
    work = Work(configuration, folder, {spec.key: spec for spec in plan}, found)
    with Progress(plan.trials, ledger.finished(plan), configuration.sweep.primary_metric) as progress:
        _make_artifacts(configuration, mirror, progress, counts)
        recorder.describe(read_header(folder))
        progress.start(f"sweep {configuration.sweep.name}")

        def listen(event: Event) -> None:
            if event.kind != "started":
                mirror.collect(event.key)
            result = ledger.result(event.key) if event.kind in ("finished", "diverged") else None
            progress.event(event, result)
            write_atomically(folder / RUNNING, progress.running())
            if result:
                recorder.send(event.key)

        for key in missing:
            ledger.forget_failure(key)
        mirror.go_on()
        mirror.prepare(missing)
        try:
            if missing:
                executor.run(work, missing, listen)
            mirror.settle()
        finally:
            (folder / RUNNING).unlink(missing_ok=True)
        for key in set(missing) - ledger.finished(plan).keys() - ledger.failures(plan).keys():
            lost = "its worker ended without a word (killed, or out of memory)"
            ledger.fail(TrialFailure(key, "WorkerLost", lost, str(ledger.log(key))), lost)


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
    facts = {**_facts(configuration, parameters), **data_facts, **shared.facts}
    header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric, baseline_measures(shared), facts)
    write_atomically(folder / OPPONENTS, [row.to_json() for row in opponents(shared)])
    write_atomically(folder / HEADER, header.to_json())
    del shared
    release()  # workers need the GPU that this process used


def _facts(configuration: Configuration, parameters: int) -> dict[str, Any]:
    """What a reader of the report should know besides the plan."""
    sample = configuration.sample
    facts: dict[str, Any] = {
        "data": _called(configuration.data),
        "model": f"{_called(configuration.model)}, {parameters / 1e6:.2g}M parameters",
        "judges": ", ".join(configuration.judges),
        "decoding": f"temperature {sample.temperature:g}, top-p {sample.top_p:g}, at most {sample.max_new_tokens} tokens",
        "gpus a trial": configuration.executor.trial_resources.gpu,
        "learning rate by default": configuration.train.learning_rate,
        "created": time.strftime("%Y-%m-%d"),
    }
    facts |= {f"set/{name}/distribution": configuration.distribution(name) for name in configuration.sets}
    facts |= {f"judge/{name}/model": called for name, j in configuration.judges.items() if (called := _judge_model(j))}
    facts |= {f"commit of {place}": commit for place, commit in commits(configuration).items()}
    if commit := _commit():
        facts["commit"] = commit
    if configuration.data.kind == "demo":
        facts["note"] = (
            "The demo world was tuned so that methods can go right and wrong in it: "
            "how it ranks methods is no evidence about methods."
        )
    return facts


def _called(settings: Any) -> str:
    """What a model or a data set is known by: the last part of a folder's name, for a path is nobody's business."""
    name = getattr(settings, "name", "")
    return (Path(name).name if hub.is_here(name) else name) if name else str(settings.kind)


def _judge_model(settings: Any) -> str:
    """The model behind a judge; empty for one that is a rule, or is trained for the sweep."""
    return settings.model if hasattr(settings, "model") else _called(settings) if hasattr(settings, "name") else ""


def _tell(tracker: Tracker, folder: Path, configuration: Configuration, status: str) -> str:
    """Tell the tracker how the sweep ended; what it answered instead where it is away."""
    try:
        if (folder / HEADER).is_file():
            header, metric = read_header(folder), configuration.sweep.primary_metric
            facts = {**header.facts, **judge_counters(configuration, folder / "artifacts")}
            write_atomically(folder / HEADER, dataclasses.replace(header, primary_metric=metric, facts=facts).to_json())
            tracker.describe(
                read_header(folder), [file for file in (folder / CONFIG, folder / OPPONENTS) if file.is_file()]
            )
        tracker.close(status)
        return ""
    except Exception as error:  # results are in the ledger; a tracker that is away costs nothing but this sentence
        return first_line(error)


@contextmanager
def _closed_if_interrupted(tracker: Tracker) -> Iterator[None]:
    """The sweep's run must not look as if it were still running."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what happened matters more than that the tracker is away
            tracker.close("killed")
        raise


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A scheduler's SIGTERM is a user's Ctrl-C: the trials that run are lost, everything finished is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _commit() -> str:
    """The commit of the working folder; empty where it is no checkout."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        return asked.stdout.strip() if asked.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _first(failures: Any) -> str:
    failure = next(iter(failures.values()))
    return f"{failure.error}: {failure.message} (log: {failure.log})"
