"""How the variance of each method's scores is shared out: one stacked bar per method, interactions hatched."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from posweep.report.drawing.axes import set_ticks
from posweep.report.drawing.panels import finish
from posweep.report.drawing.style import FAINT, INK, WIDTH
from posweep.report.tables import title

FILLS = ("#33476B", "#C6A15B", "#5F8D7E", "#A65E6E", "#8C9BB5", "#B9B3A6")  # none of the colours that mean a method
PALE = ("#C6A15B", "#8C9BB5", "#B9B3A6")
HATCHED: dict[str, Any] = {"facecolor": "#E9E9E9", "hatch": "////", "edgecolor": "#BBBBBB"}  # interactions
LETTER = 0.011  # of the axis, about the width of a letter: what a bar must hold to be labelled


def importance(data: pd.DataFrame, note: str) -> Figure:
    """One row per method, in order; what could not be taken apart says why.

    Args:
        data: a row per method and effect: method, parameter, hyperparameters, order, share, how.
        note: the footnote.
    """
    methods = list(dict.fromkeys(data["method"]))
    fills = _fills(data)
    figure = Figure(figsize=(WIDTH, 1.15 + (0.42 if len(methods) <= 8 else 0.3) * len(methods)), layout="constrained")
    axes = figure.subplots()
    for row, method in enumerate(methods):
        _bar(axes, row, data[data["method"] == method], fills)
    axes.set_xlim(0, 1.0)
    set_ticks(axes.xaxis, [0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_yticks(range(len(methods)), [title(method) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the variance between configurations")
    return finish(figure, _legend(data, fills), note)


def _fills(data: pd.DataFrame) -> dict[str, str]:
    """Symbol → colour, the ones that most methods have first, of those the ones that explain most."""
    groups = data[data["order"] == 1].groupby("parameter", sort=False)["share"]
    names = groups.agg(["size", "sum"]).sort_values(["size", "sum"], ascending=False, kind="stable").index
    return {name: FILLS[min(i, len(FILLS) - 1)] for i, name in enumerate(names)}


def _bar(axes: Axes, row: int, data: pd.DataFrame, fills: dict[str, str]) -> None:
    """A method's effects in the order of the legend, interactions last and the largest of them first."""
    if data["share"].isna().all():
        words = data["how"].iloc[0] if data["parameter"].isna().all() else "all scores are equal"
        axes.text(0.01, row, words, va="center", fontsize=8, color=FAINT)
        return
    known = list(fills)
    effects = data.to_dict("records")
    effects.sort(key=lambda e: (known.index(e["parameter"]), 0) if e["order"] == 1 else (len(known), -e["share"]))
    left = 0.0
    for effect in effects:
        _segment(axes, row, left, effect, fills.get(effect["parameter"]))
        left += effect["share"]
    if (data["how"] == "PED-ANOVA").any():
        axes.text(1.004, row, "PED-ANOVA", va="center", fontsize=7.5, color=FAINT)


def _segment(axes: Axes, row: int, left: float, effect: dict[Any, Any], fill: str | None) -> None:
    """One effect's part of a bar, named where the name fits; an interaction has no colour of its own."""
    share, words = effect["share"], f"{effect['parameter']} {100 * effect['share']:.0f} %"
    axes.barh(row, share, 0.66, left, linewidth=0, **({"color": fill} if fill else HATCHED))
    if share > LETTER * len(words):
        box = None if fill else {"facecolor": HATCHED["facecolor"], "edgecolor": "none", "pad": 1.0}
        ink = INK if fill is None or fill in PALE else "white"
        axes.text(left + share / 2, row, words, ha="center", va="center", fontsize=8, color=ink, bbox=box)


def _legend(data: pd.DataFrame, fills: dict[str, str]) -> list[Patch]:
    """The hyperparameters that have a colour of their own, and interactions."""
    named = [Patch(color=fill, label=name) for name, fill in list(fills.items())[: len(FILLS) - 1]]
    rest = [Patch(color=FILLS[-1], label="another one")] if len(fills) >= len(FILLS) else []
    joint = [Patch(**HATCHED, label="interactions")] if (data["order"] > 1).any() else []
    return named + rest + joint
