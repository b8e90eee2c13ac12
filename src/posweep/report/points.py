"""A configuration as a point: in words, where a method's default lies, and which of its values end the grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from posweep.objectives import OBJECTIVES
from posweep.report.drawing.axes import declared, number, symbol
from posweep.report.tables import Tables
from posweep.robustness import Grid, Levels
from posweep.settings import TrainSettings

LEARNING_RATE = "learning rate by default"
"""The fact that says which learning rate a sweep's model takes where nothing else is said."""


def levels(points: pd.DataFrame, names: Sequence[str]) -> Levels:
    """Columns of a method's points as the statistics take them: words stay words, a missing value is None."""
    return {name: [None if value != value else value for value in points[name].tolist()] for name in names}


def logs(method: str, names: Sequence[str]) -> frozenset[str]:
    """The hyperparameters and settings whose axis is declared to be a log axis."""
    return frozenset(name for name in names if declared(method, name).scale == "log")


def written(method: str, point: Mapping[str, Any]) -> str:
    """A point in words: `β 0.1, learning rate 2e-4`; what a configuration does not have is left out."""
    return ", ".join(f"{symbol(method, n)} {number(v)}" for n, v in point.items() if v is not None and v == v)


def default_point(tables: Tables, method: str) -> dict[str, Any]:
    """A method's cited defaults, and the defaults of the training settings its trials name; empty for foreign methods."""
    if method not in OBJECTIVES:
        return {}
    objective: Any = OBJECTIVES[method]
    own = {field.name: field.default for field in dataclasses.fields(objective)}
    shared = {field.name: field.default for field in dataclasses.fields(TrainSettings)}
    rate = tables.record.facts.get(LEARNING_RATE)
    known = {**shared, **({"learning_rate": float(rate)} if rate else {}), **own}
    return {name: known[name] for name in tables.settings(method, varied=False) if name in known}


def sources(method: str, names: Sequence[str]) -> str:
    """Where the defaults of a method's hyperparameters are from: `β: 2305.18290; γ: …`."""
    known = {name: declared(method, name).source for name in names}
    return "; ".join(f"{symbol(method, name)}: {source}" for name, source in known.items() if source)


def ends_of_grid(method: str, columns: Levels, row: int) -> list[str]:
    """The hyperparameters of which one configuration has the lowest or highest value tried: `β lowest`.

    A value that cannot be left, such as a margin of 0, ends nothing.
    """
    found = []
    for name, values in columns.items():
        grid = Grid.of({name: values})
        at, last = grid.cells[row, 0], len(grid.levels[0]) - 1
        bounds = declared(method, name).at_least, declared(method, name).at_most
        if grid.ordered[0] and last and at in (0, last) and grid.levels[0][at] not in bounds:
            found.append(f"{symbol(method, name)} {'highest' if at else 'lowest'}")
    return found
