"""Figures of several sweeps: methods on each, configurations on two, bests carried over, what matters in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from posweep.report.comparison import ANY
from posweep.report.drawing.panels import finish, method_handles, name_rows, panels
from posweep.report.drawing.style import FAINT, GRID, INK, WIDTH, Look, look
from posweep.report.tables import title

AT_EASE = 8  # methods: more stand closer together, and share one panel no longer
ACROSS = 6  # panels in a row where each method has its own
EVERYONE = "#CFCFCF"
CROWD = 200  # points of a panel that may stand apart
MANY = 2000  # points of a figure that are still drawn as vectors


def side_by_side(data: pd.DataFrame, sweeps: Sequence[str], methods: Sequence[str], labels: Sequence[str]) -> Figure:
    """The interquartile mean of each method (rows) on each sweep (panels), with its interval and the 10th percentile.

    Args:
        data: columns sweep, method, iqm, iqm_low, iqm_high, p10; one row per sweep and method.
        sweeps: the panels.
        methods: the rows, top to bottom.
        labels: of the x axes, one per sweep; panels whose labels are the same share their axis.
    """
    figure, grid = panels(sweeps, height=0.55 + (0.4 if len(methods) <= AT_EASE else 0.24) * len(methods))
    for axes, sweep, label in zip(grid, sweeps, labels, strict=True):
        mine = data[data["sweep"] == sweep].set_index("method")
        for row, method in enumerate(reversed(methods)):
            if method in mine.index and np.isfinite(mine.loc[method, "iqm"]):
                _middle(axes, row, method, mine.loc[method])
            else:
                axes.text(0.02, row, "no score", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
        name_rows(axes, methods)
        axes.set_xlabel(label)
    marks = [
        Line2D([], [], linestyle="none", marker="o", color=INK, markersize=5, label="interquartile mean"),
        Line2D([], [], color=INK, linewidth=1.6, label="95 % interval"),
        Line2D([], [], linestyle="none", marker="|", color=INK, markersize=8, label="10th percentile"),
    ]
    return finish(figure, marks, "")


def _middle(axes: Axes, row: int, method: str, numbers: pd.Series) -> None:
    style = look(method)
    axes.plot([numbers["p10"], numbers["iqm"]], [row, row], color=style.shade(0.1), linewidth=1.2, zorder=1)
    axes.plot(numbers["p10"], row, "|", color=style.colour, markersize=8, markeredgewidth=1.4, zorder=2)
    axes.plot([numbers["iqm_low"], numbers["iqm_high"]], [row, row], color=style.colour, linewidth=2.2, zorder=2)
    dots: dict[str, Any] = {"marker": style.marker, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
    axes.scatter([numbers["iqm"]], [row], 42, style.colour, **dots)


def against(
    data: pd.DataFrame, rho: pd.DataFrame, methods: Sequence[str], labels: tuple[str, str], note: str
) -> Figure:
    """Each configuration on one sweep against another, a panel per method; a ring: what the first would choose.

    Args:
        data: columns method, score_one, score_other, chosen; one row per configuration in common.
        rho: columns method, rho; NaN where there are too few configurations.
        methods: the panels.
        labels: of the x and the y axis.
        note: the footnote.
    """
    across = min(len(methods), ACROSS if len(methods) > 3 else 3)
    rows = -(-len(methods) // across)
    width = WIDTH * (1 if across > 2 else 0.36 * across)
    figure = Figure(figsize=(width, (width / across - 0.25) * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    correlation = rho.set_index("method")["rho"]
    for axes, method in zip(grid, methods, strict=False):
        _pair(axes, data, method, float(correlation.get(method, np.nan)))
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(methods) - across) : len(methods)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel(labels[0], fontsize=9)
    figure.supylabel(labels[1], fontsize=9)
    return finish(figure, _rings(), note)


def _pair(axes: Axes, data: pd.DataFrame, method: str, rho: float) -> None:
    style, mine = look(method), data[data["method"] == method]
    axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9)
    if np.isfinite(rho):
        words = f"ρ {rho:.2f}".replace("-", "−")
        axes.text(0.97, 0.04, words, transform=axes.transAxes, ha="right", fontsize=8.5, color=FAINT)
    inside = float(np.median(data[["score_one", "score_other"]]))
    axes.axline((inside, inside), slope=1, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
    crowd: dict[str, Any] = {"linewidths": 0, "zorder": 2, "rasterized": len(data) > MANY}
    axes.scatter(data["score_one"], data["score_other"], 5, EVERYONE, **crowd)
    size, edge = (20, 0.4) if len(mine) <= CROWD else (4, 0.0)
    dots: dict[str, Any] = {"marker": style.marker, "edgecolors": "white", "linewidths": edge, "zorder": 3}
    axes.scatter(mine["score_one"], mine["score_other"], size, style.colour, rasterized=len(data) > MANY, **dots)
    chosen = mine[mine["chosen"]]
    axes.scatter(chosen["score_one"], chosen["score_other"], 90, "none", edgecolors=INK, linewidths=1.2, zorder=4)


def _rings() -> list[Line2D]:
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 9}
    return [
        Line2D([], [], linestyle="none", marker="o", label="what the sweep on the x axis would choose", **ring),
        Line2D(
            [], [], linestyle="none", marker="o", color=EVERYONE, markersize=4, label="configurations of other methods"
        ),
        Line2D([], [], color=FAINT, linewidth=0.9, linestyle="--", label="the same score on both"),
    ]


def carried_over(data: pd.DataFrame, rows: Sequence[str], labels: Sequence[str]) -> Figure:
    """What choices score on a sweep, a panel per direction: carried over from the other, tuned there, default, average.

    Args:
        data: columns one, other, method, transferred, transferred_low, transferred_high, best, default, typical.
        rows: methods, top to bottom.
        labels: of the x axes, one per direction in the order of the data.
    """
    directions = list(dict.fromkeys(zip(data["one"], data["other"], strict=True)))
    names = [f"from {one} to {other}" for one, other in directions]
    figure, grid = panels(names, height=0.55 + (0.42 if len(rows) <= AT_EASE else 0.25) * len(rows))
    for axes, (one, other), label in zip(grid, directions, labels, strict=True):
        mine = data[(data["one"] == one) & (data["other"] == other)].set_index("method")
        for place, method in enumerate(reversed(rows)):
            if method in mine.index:
                _choices(axes, place, method, mine.loc[method])
        name_rows(axes, rows)
        axes.set_xlabel(label)
    return finish(figure, _choice_handles(), "")


def _choices(axes: Axes, place: int, method: str, numbers: pd.Series) -> None:
    style = Look(INK, "o") if method == ANY else look(method)
    shown = numbers[["transferred", "best", "default", "typical"]].dropna()
    if len(shown) > 1:
        axes.plot([shown.min(), shown.max()], [place, place], color=GRID, linewidth=1.4, zorder=1)
    axes.plot(
        [numbers["transferred_low"], numbers["transferred_high"]],
        [place] * 2,
        color=style.colour,
        linewidth=2,
        zorder=2,
    )
    axes.plot(numbers["typical"], place, "|", color=FAINT, markersize=9, markeredgewidth=1.6, zorder=3)
    axes.plot(numbers["default"], place, "D", color="white", markeredgecolor=INK, markersize=4.5, zorder=3)
    axes.plot(numbers["best"], place, "o", color="none", markeredgecolor=INK, markersize=9, zorder=4)
    dots: dict[str, Any] = {"marker": style.marker, "edgecolors": "white", "linewidths": 0.5, "zorder": 5}
    axes.scatter([numbers["transferred"]], [place], 34, style.colour, **dots)


def _choice_handles() -> list[Line2D]:
    plain: dict[str, Any] = {"linestyle": "none", "color": "white", "markeredgecolor": INK}
    return [
        Line2D([], [], color=FAINT, linewidth=2, marker="o", markersize=5, label="carried over, 95 % interval"),
        Line2D([], [], marker="o", markersize=9, label="tuned there", **plain),
        Line2D([], [], marker="D", markersize=4.5, label="default", **plain),
        Line2D([], [], linestyle="none", color=FAINT, marker="|", markersize=9, label="average configuration"),
    ]


def what_matters(data: pd.DataFrame, methods: Sequence[str], labels: tuple[str, str]) -> Figure:
    """The share of every hyperparameter on one sweep against that on another: a panel per hyperparameter.

    Args:
        data: columns method, symbol, share_one, share_other and their ends; one row per method and hyperparameter.
        methods: in the order of the legend.
        labels: of the x and the y axis.
    """
    names = list(data["symbol"].value_counts(sort=True).index)
    across = min(len(names), 4)
    rows, width = -(-len(names) // across), WIDTH * min(1.0, 0.3 * across + 0.04)
    legend = 0.2 * (-(-len(methods) // 7))
    figure = Figure(figsize=(width, (width / across - 0.2) * rows + 0.7 + legend), layout="constrained")
    grid = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, loc="left", fontweight="bold")
        axes.axline((0, 0), slope=1, color=FAINT, linewidth=0.9, linestyle="--", zorder=1)
        for row in data[data["symbol"] == name].to_dict("records"):
            _share(axes, {str(key): value for key, value in row.items()})
        axes.tick_params(labelbottom=True)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    grid[0].set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    for axis in (grid[0].xaxis, grid[0].yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.supxlabel(labels[0], fontsize=9)
    figure.supylabel(labels[1], fontsize=9)
    return finish(figure, method_handles(methods), "")


def _share(axes: Axes, row: dict[str, Any]) -> None:
    style, x, y = look(row["method"]), row["share_one"], row["share_other"]
    faint: dict[str, Any] = {"color": style.shade(0.2), "linewidth": 0.9, "zorder": 2}
    axes.plot([row["share_one_low"], row["share_one_high"]], [y, y], **faint)
    axes.plot([x, x], [row["share_other_low"], row["share_other_high"]], **faint)
    axes.scatter([x], [y], 30, style.colour, marker=style.marker, edgecolors="white", linewidths=0.5, zorder=3)
