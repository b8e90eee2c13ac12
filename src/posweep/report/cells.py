"""What a sheet's cells say, in plain text: the same words on the page and in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from posweep.report.chapter import Column, Sheet
from posweep.report.tables import title

SMALL = 0.001
"""p-values below it are said to be."""


def cells(sheet: Sheet) -> list[list[str | None]]:
    """Every row as text; None where there is nothing."""
    rows = sheet.data.to_dict("records")
    return [[cell(row, name, column) for name, column in sheet.columns.items()] for row in rows]


def cell(row: Mapping[Hashable, Any], name: str, column: Column) -> str | None:
    """One value with its interval or error: `0.620 [0.580, 0.661]`, `0.62 ± 0.02`, `67%`, `DPO`."""
    shown = _shown(row.get(name), column)
    if shown is None:
        return None
    if column.interval:
        ends = [_shown(row.get(end), column) for end in column.interval]
        return f"{shown} [{ends[0]}, {ends[1]}]" if all(ends) else shown
    spread = _shown(row.get(column.error), column) if column.error else None
    return f"{shown} ± {spread}" if spread else shown


def _shown(value: Any, column: Column) -> str | None:
    if column.kind in ("text", "method"):
        missing = value is None or (isinstance(value, float) and math.isnan(value)) or value == ""
        return None if missing else title(value) if column.kind == "method" else str(value)
    number = math.nan if value is None else float(value)
    if not math.isfinite(number):
        return None
    if column.kind == "p" and number < SMALL:
        return f"< {SMALL}"
    form = {"count": "z,.0f", "percent": f"z.{max(column.digits - 3, 0)}%"}.get(column.kind, f"z.{column.digits}f")
    return format(number, form).replace("-", "−")
