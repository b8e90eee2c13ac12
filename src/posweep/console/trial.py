"""One trial, repeated or exported: posweep trial, posweep export."""

from __future__ import annotations

from pathlib import Path

from posweep.console.base import point_of
from posweep.errors import ConfigError
from posweep.folder import folder_of
from posweep.invocation import command
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES
from posweep.plan import make_plan
from posweep.search import with_searched
from posweep.settings import Configuration
from posweep.terminal import open_console, table_of


def print_trial(configuration: Configuration, key: str) -> None:
    """Run one trial in this process, without recording it, and print its measures."""
    from posweep.alone import check_device, run_alone

    check_device(configuration)
    console, listing = open_console(), command(configuration, "plan", "keys=all")
    spec = with_searched(configuration, make_plan(configuration)).of(key, listing)
    console.print(f"{OBJECTIVES[spec.method].title} {point_of(spec)} seed {spec.seed} · key {spec.key}")
    result = run_alone(configuration, spec, lambda text: console.print(text))
    table = table_of("measure", "value", "± standard error", numbers=2)
    for name, value in result.measures.items():
        if not name.endswith("_se"):
            error = result.measures.get(f"{name}_se")
            table.add_row(name, f"{value:.4f}", "" if error is None else f"{error:.4f}")
    console.print(table)
    console.print(f"{result.status} in {result.seconds['total']:.1f} s {result.message}")
    before = Ledger(folder_of(configuration)).result(spec.key)
    if before and before.score_key == spec.score_key:
        same = dict(before.measures) == dict(result.measures)
        console.print(f"The ledger holds {'the same' if same else 'OTHER'} numbers for this trial.")


def print_export(configuration: Configuration, key: str, to: str, merged: bool) -> None:
    """Write the policy of one trial as a Hugging Face folder, and say where it is.

    Raises:
        ConfigError: the folder holds something already.
    """
    from posweep.alone import check_device, export

    check_device(configuration)
    console, listing = open_console(), command(configuration, "plan", "keys=all")
    spec = with_searched(configuration, make_plan(configuration)).of(key, listing)
    folder = Path(to).expanduser().absolute() if to else folder_of(configuration) / "exported" / spec.key
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"to: {folder} holds something already; name a folder that is empty or not there.")
    console.print(f"{OBJECTIVES[spec.method].title} {point_of(spec)} seed {spec.seed} · key {spec.key}")
    export(configuration, spec, folder, merged, lambda text: console.print(text))
    console.print(f"{'Written' if merged else 'Adapters written'} to {folder}")
