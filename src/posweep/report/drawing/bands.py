"""Curves of methods with bands: together in one panel where they are few, else one panel each with the others in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from posweep.report.drawing.axes import Transform, set_ticks, spaced
from posweep.report.drawing.panels import finish, line_handle
from posweep.report.drawing.style import FAINT, INK, WIDTH, Look, look
from posweep.report.tables import title

TOGETHER = 4  # methods whose bands can be told apart in one panel
ACROSS = 6  # panels in a row where each method has its own
EVERYONE = "#CFCFCF"
MARKED = 30  # points of a curve that are shown as points
ROUND = [digit * 10.0**power for power in range(-5, 7) for digit in (1, 2, 5)]


@dataclass(frozen=True)
class Across:
    """What lies on the x axis: a column, its label, and whether on a log scale."""

    column: str
    label: str
    log: bool = False


@dataclass(frozen=True)
class Style:
    """How curves are drawn.

    Attributes:
        label: of the y axis.
        line: where a vertical or horizontal line for the SFT model stands; None draws none.
        upright: whether that line is vertical.
        step: whether curves are steps.
    """

    label: str
    line: float | None = None
    upright: bool = False
    step: bool = False


def curves(data: pd.DataFrame, methods: Sequence[str], across: Sequence[Across], style: Style, note: str) -> Figure:
    """Few methods share a panel per x axis; of many, each has its own panel on the first x axis.

    Args:
        data: columns method, value, low, high (NaN without an interval), exact_low and exact_high where a method has an
            exact band, and those of `across`; one row per point, in the order they are joined.
        methods: in the order of the legend or of the panels.
        across: the x axes.
        style: what is common to all curves.
        note: the footnote.
    """
    if len(methods) > TOGETHER:
        return _apart(data, methods, across[0], style, note)
    figure = Figure(figsize=(WIDTH if len(across) > 1 else 0.66 * WIDTH, 3.9), layout="constrained")
    grid = figure.subplots(1, len(across), sharey=True, squeeze=False)[0]
    for axes, one in zip(grid, across, strict=True):
        _limits([axes], data, one, style, 0.08)
        for method in methods:
            _curve(axes, data[data["method"] == method], one, look(method), style.step, 18)
        _sft_line(axes, style)
        axes.set_xlabel(one.label)
    grid[0].set_ylabel(style.label)
    return finish(figure, [*map(_handle, methods), *_other_handles(data, style)], note)


def _apart(data: pd.DataFrame, methods: Sequence[str], one: Across, style: Style, note: str) -> Figure:
    columns = min(ACROSS, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    lines = [_points(data[data["method"] == method], one) for method in methods]
    _limits(grid, data, one, style, 0.2)
    for axes, method in zip(grid, methods, strict=False):
        axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9)
        axes.add_collection(LineCollection(lines, colors=EVERYONE, linewidths=0.6, zorder=1, rasterized=True))
        _curve(axes, data[data["method"] == method], one, look(method), style.step, 9)
        _sft_line(axes, style)
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(methods) - columns) : len(methods)]:
        axes.tick_params(labelbottom=True)
    last = grid[(rows - 1) * columns : len(methods)]
    last[len(last) // 2].set_xlabel(one.label)
    figure.supylabel(style.label, fontsize=9)
    others = Line2D([], [], color=EVERYONE, linewidth=1.2, label="other methods")
    return finish(figure, [others, *_other_handles(data, style)], note)


def _points(data: pd.DataFrame, one: Across) -> Any:
    return data[[one.column, "value"]].dropna().to_numpy(dtype=np.float64)


def _curve(axes: Axes, data: pd.DataFrame, one: Across, look: Look, step: bool, size: float) -> None:
    """A curve, its interval shaded, its exact band dashed; points are marked where there are few."""
    data = data.dropna(subset=[one.column])
    at = data[one.column]
    drawn = "steps-post" if step else "default"
    axes.plot(at, data["value"], color=look.colour, linewidth=1.5, zorder=4, drawstyle=drawn)
    if len(data) <= MARKED and not step:
        dots: dict[str, Any] = {"marker": look.marker, "linewidths": size / 45, "edgecolors": "white", "zorder": 5}
        axes.scatter(at, data["value"], size, look.colour, **dots)
    shade: dict[str, Any] = {"color": look.colour, "alpha": 0.16, "linewidth": 0, "zorder": 2}
    axes.fill_between(at, data["low"], data["high"], **shade)
    for end in ("exact_low", "exact_high"):
        if end in data and data[end].notna().any():
            axes.plot(at, data[end], color=look.colour, linewidth=0.9, linestyle="--", zorder=3)


def _sft_line(axes: Axes, style: Style) -> None:
    if style.line is not None:
        draw = axes.axvline if style.upright else axes.axhline
        draw(style.line, color=INK, linewidth=1.2, zorder=1.5)


def _limits(grid: Sequence[Axes], data: pd.DataFrame, one: Across, style: Style, share: float) -> None:
    """Axes that show every curve with its interval; an exact band may leave them. Set once: panels share them."""
    for axes in grid:
        axes.set_autoscale_on(False)
    heights = np.append(
        data[["value", "low", "high"]].to_numpy(dtype=np.float64), math.nan if style.upright else _at(style)
    )
    low, high = np.nanmin(heights), np.nanmax(heights)
    margin = 0.05 * (high - low) or 0.05
    grid[0].set_ylim(low - margin, high + margin)
    _x_axis(grid[0], data[one.column].dropna(), one.log, share)


def _at(style: Style) -> float:
    return math.nan if style.line is None else style.line


def _x_axis(axes: Axes, values: pd.Series, log: bool, share: float) -> None:
    """A little beyond the values; on a log axis round numbers as ticks that do not touch."""
    low, high = float(values.min()), float(values.max())
    if not log:
        margin = 0.02 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        return
    span = math.log(high / low) or 1.0
    axes.set_xscale("log")
    axes.set_xlim(low * math.exp(-0.05 * span), high * math.exp(0.05 * span))
    ticks = [value for value in ROUND if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    counted = values.dtype.kind == "i"  # of trials the last is worth a tick, round or not
    transform: Transform = np.log
    set_ticks(axes.xaxis, spaced([*ticks, *[high] * counted] or [low], transform, 1.1 * span, share))


def _handle(method: str) -> Line2D:
    drawn = look(method)
    return Line2D([], [], color=drawn.colour, marker=drawn.marker, markersize=5, linewidth=1.5, label=title(method))


def _other_handles(data: pd.DataFrame, style: Style) -> list[Artist]:
    handles: list[Artist] = []
    if data["low"].notna().any():
        handles.append(Patch(color=FAINT, alpha=0.25, linewidth=0, label="95 % interval"))
    if "exact_low" in data and data["exact_low"].notna().any():
        handles.append(Line2D([], [], color=FAINT, linestyle="--", linewidth=0.9, label="95 % band over random draws"))
    return [*handles, line_handle("SFT model")] if style.line is not None else handles
