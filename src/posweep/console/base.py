"""How the verbs print: groups of trials, a trial's point, a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from posweep.plan import Plan
from posweep.records import TrialResult, TrialSpec


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
