"""How the verbs print: the console, a table, a trial's point, a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from posweep.plan import Plan
from posweep.records import TrialResult, TrialSpec


def open_console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def table_of(*columns: str, numbers: int) -> Table:
    """A plain table whose last `numbers` columns are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i >= len(columns) - numbers else "left")
    return table


def by_block(plan: Plan) -> Mapping[int, list[TrialSpec]]:
    """The trials of each block, in order."""
    blocks: dict[int, list[TrialSpec]] = defaultdict(list)
    for spec in plan:
        blocks[spec.block].append(spec)
    return blocks


def by_method(plan: Iterable[TrialSpec]) -> Mapping[str, list[TrialSpec]]:
    """The trials of each method, in order."""
    methods: dict[str, list[TrialSpec]] = defaultdict(list)
    for spec in plan:
        methods[spec.method].append(spec)
    return methods


def fate(key: str, finished: Mapping[str, TrialResult], failures: Iterable[str], running: Iterable[str]) -> str:
    """What has become of a trial."""
    if key in finished:
        return finished[key].status
    return "running" if key in running else "failed" if key in failures else "left"


def point_of(spec: TrialSpec) -> str:
    """The values that tell a trial from its neighbours."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in spec.point.items()
    )


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; `unknown` for None."""
    if seconds is None:
        return "unknown"
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
