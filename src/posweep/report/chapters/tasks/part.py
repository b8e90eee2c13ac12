"""What these chapters share: how sweeps and intervals are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posweep.report.tables import Tables

LEVEL = 0.05
SAID = 6  # methods that get a sentence each; of more, the table speaks
DRAWN = 6  # pairs of sweeps that get a figure each


def ends(name: str) -> tuple[str, str]:
    """The columns that hold the ends of an interval."""
    return f"{name}_low", f"{name}_high"


def bounds(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """An interval in a sentence: ` [0.021, 0.080]`; nothing where there is none."""
    low, high = (row[end] for end in ends(name))
    return f" [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−") if low == low else ""


def axis_of(tables: Tables) -> str:
    """A sweep's primary metric on an axis: `win-rate against SFT (ood)`."""
    measure = tables.metric.partition("/")[2].replace("_", " ").replace("win rate vs sft", "win-rate against SFT")
    return f"{measure} ({tables.place})"
