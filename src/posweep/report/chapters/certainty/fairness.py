"""What each method was given: how much was searched, over what, and whether all trained under the same settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from posweep.records import TrialSpec
from posweep.report.chapter import Column, Part, Sheet
from posweep.report.drawing.axes import declared, number, symbol
from posweep.report.tables import Tables, plain_scores, status, title

COLUMNS = {
    "method": Column("method", "method"),
    "prior": Column("prior", "text"),
    "searched": Column("searched", "text"),
    "learning_rates": Column("learning rates", "text"),
    "edge": Column("best on the grid's edge", "text"),
    "configurations": Column("configurations", "count"),
    "seeds": Column("seeds", "count"),
    "dimensions": Column("dimensions", "count"),
    "decades": Column("decades", digits=1),
    "diverged": Column("diverged", "count"),
    "kl_low": Column("lowest KL", digits=2),
    "kl_high": Column("highest KL", digits=2),
}
SHARED = {"learning_rates": "learning rates", "epochs": "epochs", "batch_size": "batch size"}
CAPTION = (
    "A method's distribution depends on what was searched. Decades: factors of ten spanned by its logarithmic dimensions; "
    "KL: of a configuration, nats per response, lowest and highest reached. The grid's edge: the settings of three levels "
    "or more whose lowest or highest level holds the best configuration (highest mean), so that a better one may lie beyond."
)
FEWEST = 3  # levels: of two, both are edges


def fairness(tables: Tables) -> Part:
    """The fairness table, and whether learning rates, epochs and batch size are the same for all methods."""
    data = pd.DataFrame([_row(tables, method) for method in tables.methods])
    sheet = Sheet("fairness", "What each method was given", CAPTION, data, COLUMNS)
    return Part(tuple(_words(data)), (sheet,))


def _row(tables: Tables, method: str) -> dict[str, object]:
    plan = [spec for spec in tables.record.plan if spec.method == method]
    values = {name: _distinct(plan, name) for name in dict.fromkeys(name for spec in plan for name in spec.point)}
    varied = {name: found for name, found in values.items() if len(found) > 1}
    searched = (f"{symbol(method, n)} {_range(v)}" for n, v in varied.items() if n != "learning_rate")
    low, high = _reached(tables, method)
    return {
        "method": method,
        "prior": ", ".join(dict.fromkeys(spec.prior for spec in plan)),
        "searched": ", ".join(searched),
        "learning_rates": _range(values.get("learning_rate", [])),
        "epochs": _range(_settings(plan, "epochs")),
        "batch_size": _range(_settings(plan, "batch_size")),
        "edge": _edge(tables, method, varied),
        "configurations": len({spec.configuration for spec in plan}),
        "seeds": len({spec.seed for spec in plan}),
        "dimensions": len(varied),
        "decades": _decades(method, varied),
        "diverged": sum(status(tables.record, spec.key) == "diverged" for spec in plan),
        "kl_low": low,
        "kl_high": high,
    }


def _words(data: pd.DataFrame) -> list[str]:
    """One sentence on what must be the same for all methods, and where it is not."""
    if len(data) < 2:
        return []
    same = [words for name, words in SHARED.items() if data[name].nunique() == 1]
    first = [f"{_listed(same).capitalize()} are the same for all methods."] if same else []
    return first + [_difference(data, name, words) for name, words in SHARED.items() if data[name].nunique() > 1]


def _difference(data: pd.DataFrame, name: str, words: str) -> str:
    """Who differs from what most have."""
    usual = data[name].mode().iloc[0]
    others = data[data[name] != usual]
    own = "; ".join(
        f"{', '.join(map(title, group['method']))}: {value or 'none'}"
        for value, group in others.groupby(name, sort=False)
    )
    return f"Not the same for all methods: {words}. Most have {usual or 'none'}; {own}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _settings(plan: list[TrialSpec], name: str) -> list[Any]:
    """A training setting's values, in order."""
    return sorted({spec.train[name] for spec in plan if name in spec.train})


def _distinct(plan: list[TrialSpec], name: str) -> list[Any]:
    """A hyperparameter's or setting's values, in order: by size where they are numbers."""
    found = {str(spec.point[name]): spec.point[name] for spec in plan if name in spec.point}
    values = list(found.values())
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _range(values: list[Any]) -> str:
    """A few values as they are, many as their ends and count."""
    if len(values) <= 6:
        return "{" + ", ".join(map(number, values)) + "}" if len(values) > 1 else "".join(map(number, values))
    return f"{number(values[0])} … {number(values[-1])} ({len(values)} values)"


def _decades(method: str, varied: Mapping[str, list[Any]]) -> float:
    """The factors of ten that the logarithmic dimensions span together."""
    found = [(v[0], v[-1]) for name, v in varied.items() if declared(method, name).scale == "log"]
    return sum(math.log10(high / low) for low, high in found if low > 0)


def _reached(tables: Tables, method: str) -> tuple[float, float]:
    """The lowest and highest KL of a configuration, on the primary metric's set."""
    found = plain_scores(tables.configurations, method, f"{tables.place}/kl_to_sft")
    found = found[np.isfinite(found)]
    return (float(found.min()), float(found.max())) if len(found) else (math.nan, math.nan)


def _edge(tables: Tables, method: str, varied: Mapping[str, list[Any]]) -> str:
    """The settings whose outer level holds the best configuration: `β 0.9 (highest)`."""
    scores = plain_scores(tables.configurations, method, tables.metric)
    levels = {name: values for name, values in varied.items() if len(values) >= FEWEST}
    if not np.isfinite(scores).any():
        return ""
    best = tables.points(method).iloc[int(np.nanargmax(np.where(np.isfinite(scores), scores, np.nan)))]
    sides = {name: _side(best[name], values) for name, values in levels.items()}
    found = [f"{symbol(method, name)} {number(best[name])} ({side})" for name, side in sides.items() if side]
    return ", ".join(found) or ("no" if levels else "")


def _side(value: object, levels: list[Any]) -> str:
    """Which end of the levels a value is; words have no ends."""
    if not all(isinstance(level, int | float) for level in levels):
        return ""
    return {levels[0]: "lowest", levels[-1]: "highest"}.get(value, "")
