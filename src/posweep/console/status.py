"""What has become of a sweep: posweep status."""

from __future__ import annotations

from collections import Counter

from posweep.console.base import by_method, fate, open_console, table_of
from posweep.folder import folder_of, running_keys
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES
from posweep.plan import make_plan
from posweep.settings import Configuration


def print_status(configuration: Configuration) -> None:
    """Finished, running, failed, diverged and left per method; failures with their first line and their log."""
    folder = folder_of(configuration)
    plan, ledger, console = make_plan(configuration), Ledger(folder), open_console()
    finished, failures = ledger.finished(plan), ledger.failures(plan)
    running = running_keys(folder)
    table = table_of("method", "trials", "finished", "running", "failed", "diverged", "left", numbers=6)
    for method, specs in by_method(plan).items():
        became = Counter(fate(spec.key, finished, failures, running) for spec in specs)
        columns = ("finished", "running", "failed", "diverged", "left")
        table.add_row(OBJECTIVES[method].title, str(len(specs)), *(str(became[name]) for name in columns))
    console.print(table)
    for key, failure in failures.items():
        if key not in finished:
            console.print(f"{key}  {failure.error}: {failure.message}\n    log: {failure.log}", markup=False)
