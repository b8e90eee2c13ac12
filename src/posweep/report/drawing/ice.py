"""The score along each hyperparameter with the others held: a thin line per setting of them, their mean thick."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from posweep.report.drawing.axes import declared, places, setting_axis, symbol
from posweep.report.drawing.panels import finish, line_handle
from posweep.report.drawing.sensitivity import Layout, in_common_order
from posweep.report.drawing.style import INK, look
from posweep.report.tables import title

MANY = 2_000  # points of a panel: more are drawn as an image


def ice(data: pd.DataFrame, varied: Mapping[str, list[str]], label: str, line: float | None, note: str) -> Figure:
    """Small multiples: a method's panels side by side, one per hyperparameter, the y axis shared by all.

    Args:
        data: method, hyperparameter, context (empty for the mean), learning_rate, level, score.
        varied: method → hyperparameters that have curves; not empty.
        label: of the y axis.
        line: where the SFT model stands; None draws no line.
        note: the footnote.
    """
    layout = Layout.of(dict(varied))
    figure = Figure(figsize=layout.size, layout="constrained")
    grid = layout.grid(figure)
    first: Axes | None = None
    for place, (method, names) in enumerate(in_common_order(dict(varied)).items()):
        for spot, name in zip(layout.spots(grid, place, len(names)), names, strict=True):
            axes = figure.add_subplot(spot, sharey=first)
            first = first or axes
            mine = data[(data["method"] == method) & (data["hyperparameter"] == name)]
            _panel(axes, mine, method, name, layout.tick_share)
            if line is not None:
                axes.axhline(line, color=INK, linewidth=1.2, zorder=1)
            axes.tick_params(labelleft=name == names[0])
            axes.set_title(title(method) if name == names[0] else "", loc="left", fontweight="bold")
    figure.supylabel(label, fontsize=9)
    return finish(figure, _handles(next(iter(varied)), line), note)


def _panel(axes: Axes, data: pd.DataFrame, method: str, name: str, tick_share: float) -> None:
    scale = declared(method, name).scale
    setting_axis(axes, data["level"], scale, tick_share)
    axes.set_xlabel(symbol(method, name), labelpad=1)
    data = data.assign(at=places(data["level"], scale)[0])
    held, mean = data[data["context"] != ""].dropna(subset=["score"]), data[data["context"] == ""]
    rates = np.unique(held["learning_rate"].dropna().to_numpy(dtype=np.float64))
    for _, curve in held.groupby("context", sort=False):
        colour = look(method).shade(_depth(curve["learning_rate"].iloc[0], rates))
        many = len(held) > MANY
        axes.plot(curve["at"], curve["score"], color=colour, linewidth=0.9, marker=".", markersize=3, rasterized=many)
    axes.plot(mean["at"], mean["score"], color=look(method).colour, linewidth=2.6, zorder=3)


def _depth(rate: float, rates: NDArray[np.float64]) -> float:
    """How dark a line is, by the rank of its learning rate; pale where there is but one or none."""
    return 0.1 + 0.5 * float(np.searchsorted(rates, rate)) / (len(rates) - 1) if len(rates) > 1 else 0.2


def _handles(method: str, line: float | None) -> list[Line2D]:
    """What the lines mean, in the first method's colour."""
    style = look(method)
    held = Line2D([], [], color=style.shade(0.3), linewidth=1.0, label="others held, darker for a higher learning rate")
    mean = Line2D([], [], color=style.colour, linewidth=2.6, label="their mean")
    return [held, mean, *([line_handle("SFT model")] if line is not None else [])]
