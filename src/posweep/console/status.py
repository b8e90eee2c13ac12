"""What has become of a sweep: posweep status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from posweep.console.base import by_method, fate
from posweep.errors import ConfigError
from posweep.folder import checkpoint_file, folder_of, running_keys
from posweep.identity import ownership_problems
from posweep.invocation import command
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES
from posweep.plan import Plan, make_plan
from posweep.records import TrialFailure, TrialResult
from posweep.search import with_searched
from posweep.settings import Configuration
from posweep.terminal import open_console, table_of

CLASSES = {"bug": "an error", "memory": "out of memory", "judge": "not judged", "lost": "worker lost"}
"""Kinds of failures as people read them."""


def print_status(configuration: Configuration) -> None:
    """Finished, running, failed, diverged and left per method, those of a search apart; failures with first line and log.

    Raises:
        ConfigError: the folder belongs to another sweep or to a newer posweep.
    """
    folder = folder_of(configuration)
    if problems := ownership_problems(folder, configuration.sweep.name):
        raise ConfigError(problems)
    plan, ledger, console = with_searched(configuration, make_plan(configuration)), Ledger(folder), open_console()
    finished, failures = ledger.finished(plan), ledger.failures(plan)
    running = running_keys(folder)
    table = table_of("method", "trials", "finished", "running", "failed", "diverged", "left", numbers=6)
    planned = by_method(spec for spec in plan if spec.design != "adaptive")
    for groups, word in ((planned, ""), (by_method(plan.adaptive), ", search")):
        for method, specs in groups.items():
            became = Counter(fate(spec.key, finished, failures, running) for spec in specs)
            columns = ("finished", "running", "failed", "diverged", "left")
            table.add_row(OBJECTIVES[method].title + word, str(len(specs)), *(str(became[name]) for name in columns))
    console.print(table)
    for file in ledger.unreadable(spec.key for spec in plan if spec.key not in finished):
        console.print(f"{file}: cannot be read; its trial runs again with the next launch.")
    failed = {key: failure for key, failure in failures.items() if key not in finished}
    for line in (*_went_on(plan, folder, finished), *_failed(plan, failed)):
        console.print(line)
    left = [spec for spec in plan if spec.key not in finished and spec.key not in running]
    for line in _ways_on(configuration, len(failed), len(left)) if not running else ():
        console.print(line)


def _went_on(plan: Plan, folder: Path, finished: Mapping[str, TrialResult]) -> Iterator[str]:
    """What happened on the way and changed no number; where interrupted trials stand."""
    resumed = sum("resumed_at" in result.notes for result in finished.values())
    smaller = sum("micro_batch_size" in result.notes for result in finished.values())
    if resumed or smaller:
        yield f"of the finished trials {resumed} went on from a checkpoint, {smaller} ran with a smaller micro-batch"
    begun = sum(checkpoint_file(folder, spec.key).is_file() for spec in plan if spec.key not in finished)
    if begun:
        yield f"of the other trials {begun} {'has' if begun == 1 else 'have'} a checkpoint to go on from"


def _failed(plan: Plan, failures: Mapping[str, TrialFailure]) -> Iterator[str]:
    """Each failed trial: its key, method and class, the first line of what it said, and where the rest is."""
    for key, failure in failures.items():
        title = OBJECTIVES[plan.of(key).method].title
        yield f"{key}  {title}, {CLASSES.get(failure.kind, failure.kind)}: {failure.error}: {failure.message}"
        yield f"    log: {failure.log}"


def _ways_on(configuration: Configuration, failed: int, left: int) -> Iterator[str]:
    """The commands that run what is not finished."""
    if failed:
        retry = command(configuration, "launch", "retry=failed")
        yield f"{retry} runs the {failed} failed one{'s' if failed > 1 else ''} again"
    if left > failed:
        yield f"{command(configuration)} runs all {left} that are not finished"
