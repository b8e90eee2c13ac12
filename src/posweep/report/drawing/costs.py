"""What wins cost, by configuration: KL with its frontiers, length, wins at equal length; a panel each for many methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from posweep.report.drawing.axes import nats_axis
from posweep.report.drawing.frontier import ACROSS, EVERYONE, TOGETHER
from posweep.report.drawing.panels import MANY, finish, line_handle, method_handles
from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title
from posweep.robustness import non_dominated

BESIDE = 2.2
"""Area of the star of another judge's choice, in that of the judge's own."""
HALF: dict[str, Any] = {"color": FAINT, "linewidth": 0.9, "linestyle": "--", "zorder": 1}


@dataclass(frozen=True)
class Plane:
    """Two columns as axes, and what stands behind and before the points.

    Attributes:
        x: the column across.
        y: the column upwards.
        x_label: with its unit.
        y_label: with its unit.
        behind: draws the lines that every panel has.
        before: draws a method's own lines; of None, those of all methods together.
        handles: of the lines, for the legend.
        up_to: values on the y axis that must be seen, beside those of the column.
    """

    x: str
    y: str
    x_label: str
    y_label: str
    behind: Callable[[Axes], None]
    before: Callable[[Axes, str], None] = lambda axes, method: None
    handles: Sequence[Line2D] = ()
    up_to: Sequence[float] = (0.5,)


def frontiers(data: pd.DataFrame, methods: Sequence[str], sampling: pd.DataFrame, label: str, note: str) -> Figure:
    """Win-rate against KL with the frontier of each method and of all, and best-of-n sampling as stars.

    Args:
        data: columns method, kl (nats), win_rate; one row per configuration.
        methods: in the order of the legend or the panels.
        sampling: columns oracle, selector, n, kl, win_rate; may be empty.
        label: of the y axis.
        note: the footnote.
    """
    end = max(float(data["kl"].max()), float(sampling["kl"].max()) if len(sampling) else 0.0)
    few = len(methods) <= TOGETHER

    def behind(axes: Axes) -> None:
        axes.axhline(0.5, **HALF)
        axes.plot(*_steps(data, end), color="#9A9A9A", linewidth=4 if few else 1.6, alpha=0.45, zorder=1.5)
        _stars(axes, sampling, named=few)

    def before(axes: Axes, method: str) -> None:
        own = data[data["method"] == method]
        axes.plot(*_steps(own, end), color=look(method).colour, linewidth=1.3, zorder=2.5)

    handles = [Line2D([], [], color="#9A9A9A", linewidth=4, alpha=0.45, label="best of all methods")]
    star: dict[str, Any] = {"linestyle": "none", "marker": "*", "color": INK, "markersize": 10}
    for name, oracle in _selectors(sampling):
        face: dict[str, Any] = {} if oracle else {"markerfacecolor": "white", "markersize": 10 * BESIDE**0.5}
        handles.append(Line2D([], [], **{**star, **face}, label=f"best of n by {name}"))
    plane = Plane(
        "kl",
        "win_rate",
        "KL to SFT (nats per response, √ scale)",
        label,
        behind,
        before,
        handles,
        [0.5, *sampling.get("win_rate", [])],
    )
    return _drawn(data, methods, plane, note, nats=end)


def against_length(data: pd.DataFrame, methods: Sequence[str], own: float | None, label: str, note: str) -> Figure:
    """Win-rate against response length.

    Args:
        data: columns method, length (tokens), win_rate; one row per configuration.
        methods: in the order of the legend or the panels.
        own: the SFT model's mean length; None draws no line.
        label: of the y axis.
        note: the footnote.
    """

    def behind(axes: Axes) -> None:
        axes.axhline(0.5, **HALF)
        if own is not None:
            axes.axvline(own, color=INK, linewidth=1.2, zorder=1)

    handles = [line_handle("SFT model's length")] if own is not None else []
    plane = Plane("length", "win_rate", "response length (tokens)", label, behind, handles=handles)
    return _drawn(data, methods, plane, note)


def raw_against_controlled(data: pd.DataFrame, methods: Sequence[str], label: str, note: str) -> Figure:
    """Win-rate at equal length against the raw one, with the diagonal; what could not be controlled at the bottom.

    Args:
        data: columns method, raw, controlled (NaN where refused); one row per configuration.
        methods: in the order of the legend or the panels.
        label: of the raw win-rate.
        note: the footnote.
    """
    both = data[["raw", "controlled"]].to_numpy(dtype=np.float64)
    low, high = float(np.nanmin(both)) - 0.04, float(np.nanmax(both)) + 0.02

    def behind(axes: Axes) -> None:
        axes.axhline(0.5, **HALF)
        axes.axvline(0.5, **HALF)
        axes.plot([low, high], [low, high], color=INK, linewidth=1.0, zorder=1)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)

    def before(axes: Axes, method: str) -> None:
        lost = data[(data["method"] == method) & data["controlled"].isna()]
        at = axes.get_xaxis_transform()
        axes.plot(lost["raw"], np.full(len(lost), 0.025), "x", color=look(method).colour, markersize=5, transform=at)

    handles = [line_handle("unchanged")]
    if data["controlled"].isna().any():
        handles.append(
            Line2D([], [], linestyle="none", marker="x", color=INK, markersize=5, label="cannot be controlled")
        )
    plane = Plane("raw", "controlled", label, "win-rate at equal length", behind, before, handles)
    return _drawn(data, methods, plane, note)


def _drawn(data: pd.DataFrame, methods: Sequence[str], plane: Plane, note: str, nats: float | None = None) -> Figure:
    """All methods in one panel, or a panel each before the points of all where they are many."""
    if len(methods) <= TOGETHER:
        figure = Figure(figsize=(0.66 * WIDTH, 4.6), layout="constrained")
        axes = figure.subplots()
        plane.behind(axes)
        for method in methods:
            _dots(axes, data, method, plane, 30)
            plane.before(axes, method)
        if nats is not None:
            nats_axis(axes, "x", nats)
        axes.set_xlabel(plane.x_label)
        axes.set_ylabel(plane.y_label)
        return finish(figure, [*method_handles(methods), *plane.handles], note)
    figure = _one_each(data, methods, plane, nats)
    return finish(figure, plane.handles, note)


def _one_each(data: pd.DataFrame, methods: Sequence[str], plane: Plane, nats: float | None) -> Figure:
    """Panels with equal limits that are not tied: matplotlib asks every tied axis about all others, at each stroke."""
    rows = math.ceil(len(methods) / ACROSS)
    figure = Figure(figsize=(WIDTH, 1.45 * rows + 0.85), layout="constrained")
    grid = figure.subplots(rows, ACROSS, squeeze=False).ravel().tolist()
    for place, (axes, method) in enumerate(zip(grid, methods, strict=False)):
        axes.set_xlim(*_reach(data[plane.x]))
        axes.set_ylim(*_reach(data[plane.y], *plane.up_to))
        axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9)
        axes.scatter(data[plane.x], data[plane.y], 4, EVERYONE, linewidths=0, zorder=1.2, rasterized=True)
        plane.behind(axes)
        _dots(axes, data, method, plane, 16)
        plane.before(axes, method)
        if nats is not None:
            nats_axis(axes, "x", nats, share=0.2)
        axes.tick_params(labelleft=place % ACROSS == 0, labelbottom=place >= len(methods) - ACROSS)
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    grid[min((rows - 1) * ACROSS + ACROSS // 2, len(methods)) - 1].set_xlabel(plane.x_label)
    figure.supylabel(plane.y_label, fontsize=9)
    return figure


def _reach(values: pd.Series, *also: float) -> tuple[float, float]:
    """From the lowest to the highest value with a margin."""
    ends = [*values.dropna(), *also]
    margin = 0.05 * (max(ends) - min(ends)) or 0.5
    return min(ends) - margin, max(ends) + margin


def _dots(axes: Axes, data: pd.DataFrame, method: str, plane: Plane, size: float) -> None:
    mine, style = data[data["method"] == method], look(method)
    dots: dict[str, Any] = {"marker": style.marker, "linewidths": 0.4, "edgecolors": "white", "zorder": 3}
    axes.scatter(mine[plane.x], mine[plane.y], size, style.colour, **dots, rasterized=len(data) > MANY)


def _steps(data: pd.DataFrame, end: float) -> tuple[list[float], list[float]]:
    """The most that is won within each KL, from the SFT model at (0, ½) to the end of the axis."""
    on = data[non_dominated(data["kl"], data["win_rate"]) & (data["win_rate"] > 0.5)].sort_values("kl")
    at, won = [0.0, *on["kl"], end], [0.5, *on["win_rate"]]
    corners = [(at[place], won[max(place - 1, 0)]) for place in range(len(at))]
    after = [(at[place], won[place]) for place in range(len(won))]
    path = [spot for pair in zip(corners, after, strict=False) for spot in pair] + [corners[-1]]
    return [spot[0] for spot in path], [spot[1] for spot in path]


def _selectors(sampling: pd.DataFrame) -> list[tuple[str, bool]]:
    """Who chooses and whether it is the judge itself."""
    return [] if sampling.empty else list(dict.fromkeys(zip(sampling["selector"], sampling["oracle"], strict=True)))


def _stars(axes: Axes, sampling: pd.DataFrame, named: bool) -> None:
    """Best-of-n along its KL; filled where the judge itself chooses, else larger, to be seen where both are alike.

    With names, each says its n.
    """
    for name, oracle in reversed(_selectors(sampling)):
        mine = sampling[sampling["selector"] == name]
        face = INK if oracle else "white"
        star: dict[str, Any] = {"marker": "*", "color": face, "edgecolors": INK, "linewidths": 0.8, "zorder": 4}
        axes.scatter(mine["kl"], mine["win_rate"], (95 if named else 22) * (1 if oracle else BESIDE), **star)
        for row in mine.itertuples() if named and oracle else ():
            place: dict[str, Any] = {"xytext": (-6, 6), "textcoords": "offset points", "ha": "right", "fontsize": 7.5}
            axes.annotate(str(row.n), (row.kl, row.win_rate), **place)
