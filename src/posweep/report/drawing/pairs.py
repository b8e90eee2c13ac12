"""The mean score over each pair of hyperparameters: heatmaps on one scale that diverges from the SFT model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from posweep.report.drawing.axes import number, set_ticks, symbol
from posweep.report.drawing.panels import finish
from posweep.report.drawing.style import INK, WIDTH
from posweep.report.tables import title

COLOURS = "PuOr"  # diverging, and the same to colour-blind readers
FEW = 8  # levels of an axis; more are pooled into FEWER of equal size
FEWER = 5
NUMBERS = 30  # cells that may carry their number
Panel = tuple[str, str, str]


def pairs(data: pd.DataFrame, panels: Sequence[Panel], label: str, centre: float | None, note: str) -> Figure:
    """One heatmap per method and pair.

    Args:
        data: method, y, x, y_level, x_level, score, configurations.
        panels: (method, y, x) in order; not empty.
        label: of the colour scale.
        centre: where the SFT model stands, the colour between; None: the middle of the scores.
        note: the footnote.
    """
    across = min(len(panels), 3 if len(panels) <= 6 else 5)
    rows = -(-len(panels) // across)
    width = WIDTH * {1: 0.55, 2: 0.8}.get(across, 1.0)
    figure = Figure(figsize=(width, 0.9 + (2.5 if across < 4 else 1.8) * rows), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False).ravel().tolist()
    norm = _norm(data["score"], centre)
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, _levels(data, panel), panel, norm, small=across > 3)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    _scale(figure, grid[: len(panels)], norm, _ends(data["score"], centre), label, centre)
    return finish(figure, [], note)


def _norm(scores: pd.Series, centre: float | None) -> Normalize:
    """The same distance up and down from the middle, so that equal depth is equal difference."""
    middle = centre if centre is not None else (scores.min() + scores.max()) / 2
    reach = float((scores - middle).abs().max()) or 0.05
    return Normalize(middle - reach, middle + reach)


def _levels(data: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """One panel's scores as a table of levels, y downwards from the highest."""
    method, y, x = panel
    mine = data[(data["method"] == method) & (data["y"] == y) & (data["x"] == x)]
    mine = mine.assign(y_level=_pooled(mine["y_level"]), x_level=_pooled(mine["x_level"]))
    weighted = mine.assign(total=mine["score"] * mine["configurations"])
    sums = weighted.groupby(["y_level", "x_level"], sort=False, observed=True)[["total", "configurations"]].sum()
    table = (sums["total"] / sums["configurations"]).unstack()
    order = [
        sorted(axis, key=_order(source))
        for axis, source in ((table.index, mine["y_level"]), (table.columns, mine["x_level"]))
    ]
    return table.loc[order[0][::-1], order[1]]


def _order(levels: pd.Series) -> Callable[[Any], Any]:
    """Numbers and intervals by size, words as they appear."""
    seen = list(dict.fromkeys(levels))
    words = any(isinstance(level, str) for level in seen)
    return (lambda level: seen.index(level)) if words else (lambda level: level)


def _pooled(levels: pd.Series) -> pd.Series:
    """The levels themselves where few, else intervals that hold as many configurations each."""
    numbers = pd.to_numeric(levels, errors="coerce")
    if numbers.nunique() <= FEW or numbers.isna().any():
        return levels
    return pd.qcut(numbers, FEWER, duplicates="drop").astype(object)


def _named(level: object) -> str:
    """A level, or the upper end of a group of them."""
    return number(float(f"{level.right:.2g}") if isinstance(level, pd.Interval) else level)


def _panel(axes: Axes, table: pd.DataFrame, panel: Panel, norm: Normalize, small: bool) -> None:
    method, y, x = panel
    values = table.to_numpy(dtype=np.float64)
    axes.imshow(values, cmap=COLOURS, norm=norm, aspect="auto")
    axes.set_xticks(range(len(table.columns)), list(map(_named, table.columns)), fontsize=7 if small else 8)
    axes.set_yticks(range(len(table.index)), list(map(_named, table.index)), fontsize=7 if small else 8)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9 if small else 10)
    axes.set_xlabel(symbol(method, x), labelpad=1)
    axes.set_ylabel(symbol(method, y), labelpad=1)
    if values.size <= NUMBERS:
        _write(axes, values, norm, small)


def _write(axes: Axes, values: np.ndarray, norm: Normalize, small: bool) -> None:
    """The number of every cell, light on dark."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if abs(float(norm(value)) - 0.5) > 0.33 else INK
            axes.text(
                column,
                row,
                f"{value:.2f}".replace("-", "−"),
                ha="center",
                va="center",
                fontsize=6.5 if small else 8,
                color=ink,
            )


def _ends(scores: pd.Series, centre: float | None) -> tuple[float, float]:
    """The part of the scale that is used, the SFT model included."""
    values = [*scores.dropna(), *([] if centre is None else [centre])]
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.01, high + 0.01)


def _scale(
    figure: Figure, grid: Sequence[Axes], norm: Normalize, ends: tuple[float, float], label: str, centre: float | None
) -> None:
    """The colour scale beside all panels, as far as it is used, with the SFT model marked."""
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=list(grid), fraction=0.03, pad=0.01, aspect=30)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.ax.set_ylim(*ends)
    if centre is not None:
        bar.ax.axhline(centre, color=INK, linewidth=1.2)
        others = [
            tick
            for tick in bar.get_ticks()
            if ends[0] <= tick <= ends[1] and abs(tick - centre) > 0.05 * (ends[1] - ends[0])
        ]
        set_ticks(bar.ax.yaxis, [*others, centre], [*map(number, others), "SFT"])
