"""What has become of a sweep: posweep status."""

from __future__ import annotations

from collections import Counter

from posweep.console.base import by_method, fate, open_console, table_of
from posweep.errors import ConfigError
from posweep.folder import folder_of, running_keys
from posweep.identity import ownership_problems
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES
from posweep.plan import make_plan
from posweep.search import with_searched
from posweep.settings import Configuration


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
        console.print(f"{file}: cannot be read; its trial runs again with the next launch.", markup=False)
    for key, failure in failures.items():
        if key not in finished:
            console.print(f"{key}  {failure.error}: {failure.message}\n    log: {failure.log}", markup=False)
