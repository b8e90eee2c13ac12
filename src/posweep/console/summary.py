"""What a report found, in a table, and the page to open next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posweep.objectives import OBJECTIVES
from posweep.terminal import open_console, table_of


def print_summary(folder: Path, best: str = "chosen on half of the prompts, scored on the other") -> None:
    """The table of summary.json, and the page to open next; `best` says how that column was found."""
    summary, console = json.loads((folder / "summary.json").read_text(encoding="utf-8")), open_console()
    if not any(row["finished"] + row["diverged"] for row in summary["methods"].values()):
        console.print("Nothing was measured: no trial has finished.")
        return
    names = ("trials", "finished", "diverged", "failed", "best", "median", "iqm", "p10", "share_beating_sft")
    table = table_of("method", *(name.replace("_", " ") for name in names), numbers=len(names))
    for method, row in summary["methods"].items():
        cells = (row[name] for name in names)
        table.add_row(
            OBJECTIVES[method].title if method in OBJECTIVES else method,
            *("–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells),
        )
    console.print(f"{summary['primary_metric']}, over configurations (best: {best}; diverged dropped)")
    console.print(table)
    console.print(f"Open {folder / 'report.html'}")


def print_comparison(folder: Path) -> None:
    """The interquartile mean of every method on every sweep, and the page to open next."""
    found, console = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["sweeps"], open_console()
    table = table_of("method", *found, numbers=len(found))
    for method in dict.fromkeys(method for summary in found.values() for method in summary["methods"]):
        cells = (summary["methods"].get(method, {}).get("iqm") for summary in found.values())
        title = OBJECTIVES[method].title if method in OBJECTIVES else method
        table.add_row(title, *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    metrics = ", ".join(f"{name}: {summary['primary_metric']}" for name, summary in found.items())
    console.print(f"Interquartile mean over configurations ({metrics}; diverged dropped)")
    console.print(table)
    console.print(f"Open {folder / 'report.html'}")


def print_facts(facts: Mapping[str, Any]) -> None:
    """What a report says of where it comes from, a line each."""
    for name, value in facts.items():
        open_console().print(f"{name}: {value}")
