"""Which method beats which: a matrix of probabilities, blue where the row is ahead, orange where the column is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from posweep.report.drawing.panels import finish
from posweep.report.drawing.style import FAINT, INK, WIDTH
from posweep.report.tables import title

NUMBERS, INTERVALS = 12, 6  # methods: with so many at most, cells hold a number; and its interval
SHADES = LinearSegmentedColormap.from_list("ahead", ["#B4500A", "#EBA66B", "#F7F5F2", "#7DB3D8", "#0A5A94"])
DARK = 0.32  # from ½ on: white letters
UNKNOWN = "#EEEEEE"


def improvement_matrix(data: pd.DataFrame, methods: Sequence[str], level: float, note: str) -> Figure:
    """P(a random run of the row beats one of the column) for every pair.

    Args:
        data: columns method, other, probability, low, high, p_holm; one row per cell.
        methods: top to bottom and left to right.
        level: below which p_holm is significant: a frame around the cell's number, a dot where there are none.
        note: the footnote.
    """
    count = len(methods)
    side = min(WIDTH - 2.2, 0.9 + count * (0.86 if count <= INTERVALS else 0.58 if count <= NUMBERS else 0.24))
    figure = Figure(figsize=(min(WIDTH, max(side + 2.0, 5.6)), side + 0.75), layout="constrained")
    axes = figure.add_subplot()
    cells = {name: _matrix(data, methods, name) for name in ("probability", "low", "high", "p_holm")}
    shown = np.where(np.eye(count, dtype=bool), math.nan, cells["probability"])
    image = axes.imshow(shown, cmap=SHADES.with_extremes(bad=UNKNOWN), vmin=0, vmax=1)
    (_write if count <= NUMBERS else _mark)(axes, cells, level)
    _name_sides(axes, methods)
    bar = figure.colorbar(
        image, ax=axes, shrink=min(1.0, 2.6 / side), aspect=16, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1]
    )
    bar.set_label("P(run of row beats run of column)", fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.set_yticklabels(["0", "¼", "½ even", "¾", "1"])
    return finish(figure, [], note)


def _matrix(data: pd.DataFrame, methods: Sequence[str], name: str) -> NDArray[np.float64]:
    table = data.pivot(index="method", columns="other", values=name).reindex(index=list(methods), columns=list(methods))
    return table.to_numpy(dtype=np.float64)


def _mark(axes: Axes, cells: dict[str, NDArray[np.float64]], level: float) -> None:
    """A dot in every significant cell."""
    rows, columns = np.nonzero(cells["p_holm"] < level)
    inks = [_ink(value) for value in cells["probability"][rows, columns]]
    axes.scatter(columns, rows, 5, inks, linewidths=0)


def _write(axes: Axes, cells: dict[str, NDArray[np.float64]], level: float) -> None:
    """Every cell's number, with its interval where few; a frame around the significant ones."""
    intervals = len(cells["probability"]) <= INTERVALS
    for row, column in np.argwhere(~np.isnan(cells["probability"]) & ~np.eye(len(cells["probability"]), dtype=bool)):
        value, low, high, p = (cells[name][row, column] for name in ("probability", "low", "high", "p_holm"))
        ends = intervals and not math.isnan(low)
        look: dict[str, Any] = {"ha": "center", "va": "center", "color": _ink(value)}
        axes.text(column, row - 0.1 * ends, f"{value:.2f}", fontweight="bold" if p < level else "normal", **look)
        if ends:
            axes.text(column, row + 0.2, f"{low:.2f}–{high:.2f}", fontsize=6.5, **look)
        if p < level:
            frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.3)
            axes.add_patch(frame)


def _ink(value: float) -> str:
    """White on dark cells."""
    return "white" if abs(value - 0.5) > DARK else INK


def _name_sides(axes: Axes, methods: Sequence[str]) -> None:
    """Rows at the left, columns on top, slanted where they would touch."""
    count, names = len(methods), [title(method) for method in methods]
    slanted = count > INTERVALS or max(map(len, names)) > 9
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(range(count), names, rotation=90 if slanted else 0, fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("beats a run of …", color=FAINT, fontsize=8)
    axes.set_ylabel("a run of …", color=FAINT, fontsize=8)
