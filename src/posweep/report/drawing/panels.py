"""The frame of every figure: panels side by side, a legend above, a footnote below that counts what is not drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title

COLUMNS = 3
NOTE_WIDTH = 150  # characters of a footnote line in a figure of full width
INTERVAL = 1.96  # standard errors either side
MANY = 2000  # points: more are pixels, not shapes, and have no whiskers, which would cover each other


def panels(names: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """One panel per evaluation set, at most three in a row, on shared axes."""
    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.66 * WIDTH, rows * height + 0.75), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, loc="left", fontweight="bold")
        axes.tick_params(labelbottom=True)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure, grid[: len(names)]


def name_x(grid: Sequence[Axes], label: str) -> None:
    """One label for the x axes that panels share, under the middle of the last row."""
    last = grid[(len(grid) - 1) // COLUMNS * COLUMNS :]
    last[len(last) // 2].set_xlabel(label)


def name_rows(axes: Axes, methods: Sequence[str]) -> None:
    """The methods as rows, top to bottom, without lines between them."""
    axes.set_yticks(range(len(methods)), [title(method) for method in reversed(methods)], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.6, len(methods) - 0.4)


def finish(figure: Figure, handles: Sequence[Artist], note: str) -> Figure:
    """Add legend and footnote, lay everything out once, and keep that layout for every format."""
    lines = textwrap.wrap(note, int(NOTE_WIDTH * figure.get_figwidth() / WIDTH))
    below = (0.10 + 0.15 * len(lines)) / figure.get_figheight()
    figure.text(0.008, 0.05 / figure.get_figheight(), "\n".join(lines), fontsize=7.5, color=FAINT, linespacing=1.4)
    layout = ConstrainedLayoutEngine(rect=(0, below, 1, 1 - below), w_pad=0.06, h_pad=0.05)
    figure.set_layout_engine(layout)
    if handles:
        rows = math.ceil(len(handles) / round(7 * figure.get_figwidth() / WIDTH))
        columns = math.ceil(len(handles) / rows)  # equally many entries in each: the last alone looks forgotten
        figure.legend(
            handles=list(handles), loc="outside upper left", ncols=columns, handletextpad=0.5, columnspacing=1.6
        )
    layout.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:  # the solver's last digits are not those of another run, and some ids are made from them
        axes.set_position(np.round(axes.get_position().bounds, 6))
    return figure


def method_handles(methods: Sequence[str]) -> list[Line2D]:
    """One legend entry per method."""
    return [
        Line2D([], [], linestyle="none", marker=look(m).marker, color=look(m).colour, markersize=6, label=title(m))
        for m in methods
    ]


def line_handle(label: str, style: Literal["-", ":"] = "-") -> Line2D:
    """A legend entry for a line that stands for the SFT model."""
    return Line2D([], [], color=INK, linewidth=1.2, linestyle=style, label=label)
