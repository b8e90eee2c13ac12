"""What the output folder holds and MLflow lacks: sent now, without data, models or Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from posweep.errors import ConfigError, PreflightError, TrackerUnavailable
from posweep.folder import PLAN, folder_of, only_driver
from posweep.identity import ownership_problems, read_plan
from posweep.invocation import command
from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.recorder import Recorder, given_up, unsent
from posweep.settings import Configuration
from posweep.trackers import Tracker, open_tracker


def sync(configuration: Configuration, say: Callable[[str], None] = print) -> None:
    """Send plan, header, results, failures and report of the output folder, as far as the tracker lacks them.

    Raises:
        ConfigError: there is nothing to send, or nowhere.
        PreflightError: the tracker does not answer, or a driver is at work.
        TrackerUnavailable: it went away meanwhile; what was sent is there.
    """
    folder, name = folder_of(configuration), configuration.sweep.name
    plan = _plan(configuration)
    tracker = open_tracker(configuration.tracking)
    if problems := [*ownership_problems(folder, name), *tracker.preflight()]:
        raise PreflightError(problems)
    for sentence in tracker.notes():
        say(sentence)
    results, failures = Ledger(folder).finished(plan), Ledger(folder).failures(plan)
    status = "finished" if len(results) == len(plan) else "failed" if failures else "killed"
    with only_driver(folder, name), Recorder(tracker, plan, folder) as recorder:
        held, trouble = recorder.held(), recorder.finish(status)
        if held is None or trouble:
            raise TrackerUnavailable(unsent(configuration, recorder, trouble))
        _attach(configuration, tracker, folder / "report")
    for sentence in (*given_up(recorder), _sent(recorder, held, plan)):
        say(sentence)


def _plan(configuration: Configuration) -> Plan:
    """The plan of the last launch, which is what its ledger is about."""
    file, name = folder_of(configuration) / PLAN, configuration.sweep.name
    if configuration.tracking.kind == "none":
        raise ConfigError("tracking: none is nowhere to send to; leave it out, or set tracking.uri.")
    if not file.is_file():
        raise ConfigError(f"sweep={name}: {file.parent} holds no sweep; launch it first, or set output_dir.")
    return read_plan(file.parent, name)


def _attach(configuration: Configuration, tracker: Tracker, report: Path) -> None:
    """The report, where there is one."""
    try:
        if report.is_dir():
            tracker.attach(report)
    except TrackerUnavailable as error:
        send = command(configuration, "sync")
        raise TrackerUnavailable(f"MLflow lacks the report ({error}); send it with: {send}") from error


def _sent(recorder: Recorder, held: dict[str, str], plan: Plan) -> str:
    """What arrived now, and what is there."""
    counts = {kind: len(keys) for kind, keys in recorder.sent.items()}
    sent = f"Sent {counted(counts['results'], 'trial')}"
    if counts["failures"]:
        sent += f" and {counted(counts['failures'], 'failure')}"
    there = sum(held.get(s.key) == s.score_key or s.key in recorder.sent["results"] for s in plan)
    all_of = f"all {there}" if there == len(plan) else f"{there} of {len(plan)}"
    return f"{sent}; MLflow holds {all_of} trials of sweep {plan.name}."


def counted(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
