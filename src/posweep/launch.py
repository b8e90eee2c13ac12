"""One sweep from configuration to done: preflight, lock, plan − finished, artifacts, trials, tracker, report."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from posweep.errors import ConfigError, PreflightError, TrialsFailed
from posweep.executors import Event, Work, open_executor
from posweep.ledger import Ledger, write_atomically
from posweep.plan import Plan, fingerprint, make_plan
from posweep.progress import Progress
from posweep.records import SweepHeader, SweepRecord, TrialFailure, TrialResult, TrialSpec
from posweep.settings import Configuration
from posweep.trackers import Tracker, open_tracker

RUNNING, HEADER, PLAN, CONFIG, LOCK = "running.json", "sweep.json", "plan.jsonl", "config.yaml", ".lock"
JUDGE_PROMPTS = 20
"""Fewer prompts than this train no reward model, and hold out too few to know."""
FLUSH = 60.0
"""Seconds the last results may take to reach the tracker."""


def folder_of(configuration: Configuration) -> Path:
    """Where a sweep keeps everything it writes."""
    return Path(configuration.output_dir).absolute() / configuration.sweep.name


def running_keys(folder: Path) -> set[str]:
    """The trials that run now; none where a driver died and left its note behind, for then its lock is free."""
    try:
        noted = set(json.loads((folder / RUNNING).read_text()))
        with FileLock(folder / LOCK, timeout=0):
            return set()
    except Timeout:
        return noted
    except (OSError, ValueError):
        return set()


def launch(configuration: Configuration, composed: str, say: Callable[[str], None] = print) -> None:
    """Run what is not finished, record it, and write the report.

    Raises:
        ConfigError: the configuration or the surroundings are wrong; nothing was started.
        TrialsFailed: some trials failed; the others are finished and recorded.
    """
    plan, name = make_plan(configuration), configuration.sweep.name
    tracker, executor = open_tracker(configuration.tracking), open_executor(configuration.executor)
    folder, ledger = folder_of(configuration), Ledger(folder_of(configuration))
    surroundings = (_folder_problems(folder), tracker.preflight(), executor.preflight())
    if problems := [*_data_problems(configuration, plan), *itertools.chain(*surroundings)]:
        raise PreflightError(problems)
    with _only_driver(folder, name), _sigterm_as_interrupt():
        tracker.open(name, plan.trials)
        _write_down(folder, plan, composed)
        with _closed_if_interrupted(tracker), Recorder(tracker, ledger, plan) as recorder:
            missing = _plan_minus_finished(plan, ledger, tracker, recorder)
            if missing:
                _run(configuration, plan, missing, folder, recorder, executor)
        failures = ledger.failures(plan)
        trouble = _tell(tracker, folder, configuration, "failed" if failures else "finished") or recorder.last_error
        if trouble:
            say(f"The tracker does not hold everything yet ({trouble}); launch again to send the rest.")
        _refresh_report(configuration, ledger.finished(plan), None if trouble else tracker)
    if failures:
        raise TrialsFailed(
            f"{len(failures)} of {len(plan)} trials failed; the first: {_first(failures)}\n"
            f"posweep status sweep={name} lists them; launch again to retry them."
        )
    if not missing:
        say(f"Nothing is left to do: all {len(plan)} trials of sweep {name} are finished.")


def report(configuration: Configuration) -> Path:
    """Figures, tables and report.html from what the tracker holds; ConfigError where that is nothing."""
    tracker = open_tracker(configuration.tracking)
    if problems := tracker.preflight():
        raise PreflightError(problems)
    record = tracker.read(configuration.sweep.name)
    if record is None and configuration.tracking.kind == "none":
        record = _record_of_ledger(configuration)
    if record is None:
        raise ConfigError(
            f"sweep={configuration.sweep.name}: nothing is recorded at {configuration.tracking.uri or 'the ledger'}; "
            f"run posweep sweep={configuration.sweep.name} first, or set tracking.uri to where it was recorded."
        )
    return _write_report(configuration, record, tracker)


def check_device(configuration: Configuration) -> None:
    """A trial in this process needs its GPU on this machine; PreflightError where there is none."""
    if problems := open_executor(dataclasses.replace(configuration.executor, kind="local")).preflight():
        raise PreflightError(problems)


def run_alone(configuration: Configuration, spec: TrialSpec, say: Callable[[str], None]) -> TrialResult:
    """One trial in this process, with the sweep's artifacts; nothing is recorded."""
    from posweep.artifacts.shared import prepare
    from posweep.artifacts.store import Store
    from posweep.trial import run_trial

    shared = prepare(configuration, Store(folder_of(configuration) / "artifacts", say), _device(configuration))
    return run_trial(spec, shared).result


class Recorder:
    """Sends finished trials to the tracker from a thread of its own: no trial waits for a server."""

    def __init__(self, tracker: Tracker, ledger: Ledger, plan: Plan):
        self.tracker, self.ledger = tracker, ledger
        self.specs = {spec.key: spec for spec in plan}
        self.last_error = ""
        self._keys: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="posweep-recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._keys.put(None)
        self._thread.join(FLUSH)
        if self._thread.is_alive():
            self.last_error = f"it did not take the last results within {FLUSH:.0f} s"

    def send(self, key: str) -> None:
        """Record a trial that the ledger holds."""
        self._keys.put(key)

    def describe(self, header: SweepHeader) -> None:
        """Record the sweep as a whole, so that it can be read while it runs."""
        try:
            self.tracker.describe(header, [])
        except Exception as error:
            self.last_error = _first_line(error)

    def _work(self) -> None:
        while (key := self._keys.get()) is not None:
            try:
                outcome = self.ledger.outcome(key)
                if outcome is None:
                    raise OSError(f"the rows of {key} cannot be read")
                self.tracker.write(self.specs[key], outcome)
            except Exception as error:  # a tracker that is away must not stop the sweep
                self.last_error = _first_line(error)


# --- the steps


def _folder_problems(folder: Path) -> list[str]:
    """The output folder, or the nearest one above it that exists, must take files."""
    there = next(above for above in (folder, *folder.parents) if above.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [f"output_dir: {there} is no folder that can be written; set output_dir to one."]


def _tell(tracker: Tracker, folder: Path, configuration: Configuration, status: str) -> str:
    """Tell the tracker how the sweep ended; what it answered instead where it is away."""
    try:
        if (folder / HEADER).is_file():
            metric = configuration.sweep.primary_metric
            write_atomically(folder / HEADER, dataclasses.replace(_header(folder), primary_metric=metric).to_json())
            tracker.describe(_header(folder), [folder / CONFIG])
        tracker.close(status)
        return ""
    except Exception as error:  # results are in the ledger; a tracker that is away costs nothing but this sentence
        return _first_line(error)


def _refresh_report(configuration: Configuration, finished: Mapping[str, TrialResult], tracker: Tracker | None) -> None:
    """Write the report where there is none, or one of other trials, judges or another metric; without a tracker, from
    the ledger."""
    folder = folder_of(configuration)
    keys = {key: result.score_key for key, result in finished.items()}
    made_from = fingerprint([(folder / PLAN).read_text(), configuration.sweep.primary_metric, keys])
    stamp = folder / "report" / ".made_from"
    if stamp.is_file() and stamp.read_text() == made_from:
        return
    record = tracker.read(configuration.sweep.name) if tracker else None
    record = record or _record_of_ledger(configuration)
    if record:
        _write_report(configuration, record, tracker)
        if tracker:
            stamp.write_text(made_from)


def _write_report(configuration: Configuration, record: SweepRecord, tracker: Tracker | None) -> Path:
    from posweep.report import write_report

    page = write_report(record, folder_of(configuration) / "report")
    if tracker:
        tracker.attach(page.parent)
    return page


def _data_problems(configuration: Configuration, plan: Plan) -> list[str]:
    """Read the data before anything starts: malformed lines, or fewer pairs than a step or a judge takes."""
    from posweep import data

    loaded, kind, problems = data.load(configuration.data), configuration.data.kind, []
    largest, pairs = max(spec.train["batch_size"] for spec in plan), len(loaded.train)
    if largest > pairs:
        problems.append(f"train.batch_size: {largest} pairs a step, but data={kind} has {pairs} pairs to train on.")
    prompts = len({pair.prompt for pair in loaded.judge})
    if "bradley_terry" in [judge.kind for judge in configuration.judges.values()] and prompts < JUDGE_PROMPTS:
        problems.append(
            f"data.judge_share: leaves {prompts} prompts to a judge that is trained; it needs {JUDGE_PROMPTS} or more."
        )
    return problems


@contextmanager
def _only_driver(folder: Path, name: str) -> Iterator[None]:
    """One driver per sweep; the system releases the lock of one that died."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise PreflightError(
            f"sweep.name: another posweep is running sweep {name} in {folder}; wait for it, or give this one another name."
        ) from None
    finally:
        if not existed and not any(folder.glob("[!.]*")):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


@contextmanager
def _closed_if_interrupted(tracker: Tracker) -> Iterator[None]:
    """The sweep's run must not look as if it were still running."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what happened matters more than that the tracker is away
            tracker.close("killed")
        raise


def _write_down(folder: Path, plan: Plan, composed: str) -> None:
    (folder / PLAN).write_text(plan.to_jsonl())
    (folder / CONFIG).write_text(composed)


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
    configuration: Configuration, plan: Plan, missing: Sequence[str], folder: Path, recorder: Recorder, executor: Any
) -> None:
    """Make the artifacts, then run the trials under the eyes of the progress display."""
    ledger, work = recorder.ledger, Work(configuration, folder, {spec.key: spec for spec in plan})
    with Progress(plan.trials, ledger.finished(plan), configuration.sweep.primary_metric) as progress:
        _make_artifacts(configuration, folder, progress)
        recorder.describe(_header(folder))
        progress.start(f"sweep {configuration.sweep.name}")

        def listen(event: Event) -> None:
            result = ledger.result(event.key) if event.kind in ("finished", "diverged") else None
            progress.event(event, result)
            write_atomically(folder / RUNNING, progress.running())
            if result:
                recorder.send(event.key)

        for key in missing:
            ledger.forget_failure(key)
        try:
            executor.run(work, missing, listen)
        finally:
            (folder / RUNNING).unlink(missing_ok=True)
        for key in set(missing) - ledger.finished(plan).keys() - ledger.failures(plan).keys():
            lost = "its worker ended without a word (killed, or out of memory)"
            ledger.fail(TrialFailure(key, "WorkerLost", lost, str(ledger.log(key))), lost)


def _make_artifacts(configuration: Configuration, folder: Path, progress: Progress) -> None:
    """Everything trials share, before the first of them; and what the sweep as a whole has to say."""
    from posweep.artifacts.shared import prepare
    from posweep.artifacts.store import Store
    from posweep.trial import baseline_measures

    made = {"sft": "the SFT policy", "pairs": "tokens and reference log-probs", "judge": "a judge",
            "baselines": "SFT responses", "scores": "scores of SFT responses"}  # fmt: skip
    seen: set[str] = set()

    def say(kind: str) -> None:
        if kind not in seen:
            seen.add(kind)
            progress.say(f"making {made[kind]} …")

    shared = prepare(configuration, Store(folder / "artifacts", say), _device(configuration))
    facts = {**shared.facts, **_facts(configuration, sum(p.numel() for p in shared.policy.model.parameters()))}
    header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric, baseline_measures(shared), facts)
    write_atomically(folder / HEADER, header.to_json())


def _facts(configuration: Configuration, parameters: int) -> dict[str, Any]:
    """What a reader of the report should know besides the plan."""
    facts = {
        "data": configuration.data.kind,
        "model": f"{configuration.model.kind}, {parameters / 1e6:.2g}M parameters",
        "judges": ", ".join(configuration.judges),
        "created": time.strftime("%Y-%m-%d"),
    }
    if commit := _commit():
        facts["commit"] = commit
    if configuration.data.kind == "demo":
        facts["note"] = (
            "The demo world was tuned so that every method can go right and wrong in it: "
            "how it ranks methods is no evidence about methods."
        )
    return facts


def _device(configuration: Configuration) -> str:
    return "cuda" if configuration.executor.trial_resources.gpu > 0 else "cpu"


def _header(folder: Path) -> SweepHeader:
    return SweepHeader.from_json(json.loads((folder / HEADER).read_text()))


def _record_of_ledger(configuration: Configuration) -> SweepRecord | None:
    """What a report needs, from the output folder: where there is no tracker, or none that answers."""
    folder = folder_of(configuration)
    if not (folder / HEADER).is_file():
        return None
    plan, ledger = Plan.from_jsonl(configuration.sweep.name, (folder / PLAN).read_text()), Ledger(folder)
    outcomes = {key: ledger.outcome(key) for key in ledger.finished(plan)}
    return SweepRecord(
        **vars(_header(folder)), plan=plan.trials,
        results={key: outcome.result for key, outcome in outcomes.items() if outcome},
        responses={key: outcome.responses for key, outcome in outcomes.items() if outcome},
    )  # fmt: skip


def _commit() -> str:
    """The commit of the working folder; empty where it is no checkout."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        return asked.stdout.strip() if asked.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:200]


def _first(failures: Any) -> str:
    failure = next(iter(failures.values()))
    return f"{failure.error}: {failure.message} (log: {failure.log})"


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
