"""Each method's distribution of one measure over its configurations: points, a box, a density where it is earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from posweep.report.drawing.axes import nats_axis, root, square
from posweep.report.drawing.panels import INTERVAL, MANY, finish, line_handle, name_x, panels
from posweep.report.drawing.style import FAINT, INK, look
from posweep.report.tables import title

DENSITY_FROM = 20  # points; fewer are shown as they are
BOX_FROM = 5
AT_EASE = 8  # methods: more stand closer together
STYLES: tuple[Literal["-", ":"], ...] = ("-", ":", ":")  # of the SFT lines: the first is what to compare with
GOLDEN = 0.6180339887  # its multiples fill an interval evenly: a jitter without a random number


def distribution(
    data: pd.DataFrame,
    methods: Sequence[str],
    label: str,
    lines: Mapping[str, Mapping[str, float]],
    note: str,
    nats: bool = False,
) -> Figure:
    """A raincloud per method (rows) and evaluation set (panels).

    Args:
        data: columns method, set, value, standard_error; one row per configuration and set.
        methods: the rows, top to bottom.
        label: of the shared x axis, with its unit.
        lines: what the SFT model does: legend label → set → value; the first is drawn solid, the others dotted.
        note: the footnote.
        nats: whether the x axis is a √ scale of nats.
    """
    names = list(dict.fromkeys(data["set"]))
    figure, grid = panels(names, height=0.5 + (0.62 if len(methods) <= AT_EASE else 0.46) * len(methods))
    for axes, name in zip(grid, names, strict=True):
        _panel(axes, data[data["set"] == name], methods, nats, len(data) > MANY)
        for style, values in zip(STYLES, lines.values(), strict=False):
            if name in values:
                axes.axvline(values[name], color=INK, linewidth=1.2, linestyle=style, zorder=1)
    if nats:
        nats_axis(grid[0], "x", _highest(data))
    name_x(grid, label)
    _name_rows(grid, methods)
    return finish(figure, [line_handle(text, s) for text, s in zip(lines, STYLES, strict=False)], note)


def _highest(data: pd.DataFrame) -> float:
    """The right end of the longest whisker; 1 where there is no point."""
    ends = data["value"] + INTERVAL * data["standard_error"].fillna(0)
    return float(ends.max()) if ends.notna().any() else 1.0


def _name_rows(grid: Sequence[Axes], methods: Sequence[str]) -> None:
    for axes in grid:
        axes.set_yticks(range(len(methods)), [title(method) for method in reversed(methods)], fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.62, len(methods) - 0.45)


def _panel(axes: Axes, data: pd.DataFrame, methods: Sequence[str], nats: bool, many: bool) -> None:
    for row, method in enumerate(reversed(methods)):
        mine = data[data["method"] == method].sort_values("value", kind="stable")
        if mine.empty:
            axes.text(0.5, row, "no finished trial", transform=axes.get_yaxis_transform(), ha="center", color=FAINT)
            continue
        _rain(axes, row - 0.22, method, mine, many)
        values = mine["value"].to_numpy(dtype=np.float64)
        _box(axes, row + 0.13, method, values)
        if len(values) >= DENSITY_FROM and np.ptp(values) > 0:
            _cloud(axes, row + 0.25, method, values, nats)


def _rain(axes: Axes, centre: float, method: str, data: pd.DataFrame, many: bool) -> None:
    """Every configuration as a point, spread out so that equal values do not hide each other; its interval unless many."""
    style = look(method)
    height = centre + 0.28 * (np.arange(1, len(data) + 1) * GOLDEN % 1 - 0.5)
    if not many:
        error = INTERVAL * data["standard_error"].to_numpy(dtype=np.float64)
        axes.errorbar(data["value"], height, xerr=error, fmt="none", ecolor=style.shade(0.35), elinewidth=0.8, zorder=2)
    dots: dict[str, Any] = {"marker": style.marker, "linewidths": 0.4, "edgecolors": "white", "zorder": 3}
    axes.scatter(data["value"], height, 6 if many else 17, style.colour, **dots, rasterized=many)


def _box(axes: Axes, centre: float, method: str, values: NDArray[np.float64]) -> None:
    """Quartiles and median; the median alone where there are too few points for quartiles."""
    style = look(method)
    if len(values) < BOX_FROM:
        axes.plot([np.median(values)] * 2, [centre - 0.1, centre + 0.1], color=style.colour, linewidth=2)
        return
    axes.boxplot(
        values,
        positions=[centre],
        orientation="horizontal",
        widths=0.2,
        whis=(0, 100),
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": style.shade(0.0), "edgecolor": style.colour, "linewidth": 0.9},
        medianprops={"color": style.colour, "linewidth": 2},
        whiskerprops={"color": style.colour, "linewidth": 0.9},
        capprops={"visible": False},
    )


def _cloud(axes: Axes, floor: float, method: str, values: NDArray[np.float64], nats: bool) -> None:
    """A kernel density standing on `floor`, estimated on the axis as it is drawn."""
    drawn = root(values) if nats else values
    grid = np.linspace(drawn.min(), drawn.max(), 128)
    density = gaussian_kde(drawn)(grid)
    at = square(grid) if nats else grid
    axes.fill_between(at, floor, floor + 0.3 * density / density.max(), color=look(method).shade(0.25), linewidth=0)
