"""What each method pays in KL for what it wins: one point per trial; one panel per method where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from posweep.report.drawing.axes import nats_axis
from posweep.report.drawing.panels import INTERVAL, MANY, finish, method_handles, name_x, panels
from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title

TOGETHER = 8  # methods that can be told apart in one panel
EVERYONE = "#CFCFCF"
ACROSS = 6  # panels in a row where each method has its own


def frontier(data: pd.DataFrame, methods: Sequence[str], note: str) -> Figure:
    """Win-rate against KL to the SFT model, a panel per evaluation set; the SFT model itself stands at (0, ½).

    Args:
        data: columns method, set, kl, kl_se, win_rate, win_rate_se; one row per trial and set.
        methods: in the order of the legend.
        note: the footnote.
    """
    names = list(dict.fromkeys(data["set"]))
    figure, grid = panels(names, height=2.7)
    for axes, name in zip(grid, names, strict=True):
        axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
        for method in methods:
            _points(axes, method, data[(data["set"] == name) & (data["method"] == method)], len(data) > MANY)
        axes.plot(0, 0.5, marker="*", color=INK, markersize=11, markeredgecolor="white", clip_on=False, zorder=4)
    highest = (data["kl"] + INTERVAL * data["kl_se"].fillna(0)).max()
    nats_axis(grid[0], "x", float(highest) if pd.notna(highest) else 1.0)
    name_x(grid, "KL to SFT (nats per response, √ scale)")
    figure.supylabel("win-rate against SFT", fontsize=9)
    star = Line2D([], [], linestyle="none", marker="*", color=INK, markersize=9, label="SFT model")
    return finish(figure, [*method_handles(methods), star], note)


def spotlights(data: pd.DataFrame, methods: Sequence[str], note: str) -> Figure:
    """The same on one evaluation set with a panel per method: its points in colour before those of all, in grey.

    Args:
        data: as of `frontier`, of one set.
        methods: in the order of the panels.
        note: the footnote.
    """
    rows = -(-len(methods) // ACROSS)
    figure = Figure(figsize=(WIDTH, 1.45 * rows + 0.75), layout="constrained")
    grid = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, method in zip(grid, methods, strict=False):
        axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9)
        axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
        axes.scatter(data["kl"], data["win_rate"], 4, EVERYONE, linewidths=0, zorder=2, rasterized=True)
        mine = data[data["method"] == method]
        dots: dict[str, Any] = {"marker": look(method).marker, "zorder": 3, "rasterized": len(data) > MANY}
        axes.scatter(mine["kl"], mine["win_rate"], 16, look(method).colour, **dots)
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(methods) - ACROSS) : len(methods)]:
        axes.tick_params(labelbottom=True)
    nats_axis(grid[0], "x", float(data["kl"].max()), share=0.2)
    grid[min((rows - 1) * ACROSS + ACROSS // 2, len(methods)) - 1].set_xlabel("KL to SFT (nats per response, √ scale)")
    figure.supylabel("win-rate against SFT", fontsize=9)
    return finish(figure, [], note)


def _points(axes: Axes, method: str, data: pd.DataFrame, many: bool) -> None:
    style = look(method)
    at = data["kl"], data["win_rate"]
    if not many:
        errors = {"xerr": INTERVAL * data["kl_se"], "yerr": INTERVAL * data["win_rate_se"]}
        axes.errorbar(*at, **errors, fmt="none", ecolor=style.shade(0.25), elinewidth=0.8, zorder=2)
    dots: dict[str, Any] = {"marker": style.marker, "edgecolors": "white", "linewidths": 0.5, "zorder": 3}
    axes.scatter(*at, 8 if many else 26, style.colour, **dots, rasterized=many)
