"""What can be won and lost from a method's default: a tornado per method, on one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from posweep.report.drawing.axes import symbol
from posweep.report.drawing.panels import COLUMNS, finish, line_handle, name_x
from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title

JOINTLY = "all together"


def tornado(data: pd.DataFrame, note: str) -> Figure:
    """A panel per method, all on one x axis: the longest bar on top, all hyperparameters together above it.

    Args:
        data: method, hyperparameter ("" for all together), gain and loss with `_low` and `_high`; not empty.
        note: the footnote.
    """
    groups = [(str(method), mine) for method, mine in data.groupby("method", sort=False)]
    across = min(len(groups), COLUMNS)
    rows = -(-len(groups) // across)
    bars = [max(len(mine) for _, mine in groups[i * across : (i + 1) * across]) for i in range(rows)]
    size = (WIDTH * max(across, 2) / COLUMNS, 1.0 + sum(0.5 + 0.24 * count for count in bars))
    figure = Figure(figsize=size, layout="constrained")
    ratios = [0.4 + count for count in bars]
    grid = figure.subplots(rows, across, sharex=True, squeeze=False, height_ratios=ratios).ravel().tolist()
    for place, (axes, (method, mine)) in enumerate(zip(grid, groups, strict=False)):
        _panel(axes, method, mine)
        axes.set_ylim(len(mine) - 0.4 - bars[place // across], len(mine) - 0.4)  # bars as high as their neighbours'
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(groups) - across) : len(groups)]:
        axes.tick_params(labelbottom=True)
    name_x(grid[: len(groups)], "difference from the default")
    style = look(groups[0][0])
    named = [Patch(color=style.colour, label="best of what was tried"), Patch(color=style.shade(0.15), label="worst")]
    return finish(figure, [*named, line_handle("default")], note)


def _panel(axes: Axes, method: str, data: pd.DataFrame) -> None:
    data = data.assign(span=data["gain"] - data["loss"], joint=data["hyperparameter"] == "")
    data = data.sort_values(["joint", "span"], ascending=[True, True], kind="stable")
    style, at = look(method), np.arange(len(data))
    for name, colour, beside in (("loss", style.shade(0.15), -0.1), ("gain", style.colour, 0.1)):
        value = data[name].to_numpy(dtype=np.float64)
        axes.barh(at, value, 0.62, color=colour, zorder=2)
        errors = np.abs(np.stack([value - data[f"{name}_low"], data[f"{name}_high"] - value]))
        if np.isfinite(errors).any():
            look_of: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.9, "capsize": 2, "zorder": 3}
            axes.errorbar(value, at + beside, xerr=errors, **look_of)
    axes.axvline(0, color=INK, linewidth=1.2, zorder=4)
    names = [symbol(method, name) if name else JOINTLY for name in data["hyperparameter"]]
    axes.set_yticks(at, names)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=FAINT)
    axes.grid(axis="y", visible=False)
    axes.set_title(title(method), loc="left", fontweight="bold")
