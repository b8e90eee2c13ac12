"""The primary metric against each hyperparameter, one row of panels per method; two methods abreast where there are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from posweep.report.drawing.axes import declared, number, places, setting_axis, symbol
from posweep.report.drawing.panels import MANY, finish, line_handle
from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title

FEW = 8  # distinct values that get a median each; more are pooled into FEWER groups of equal size
FEWER = 5
ONE_BY_ONE = 8  # methods: more stand two abreast


def varying(data: pd.DataFrame, settings: Sequence[str]) -> dict[str, list[str]]:
    """Which settings each method varies, in order; methods that vary none are left out."""
    groups = data.groupby("method", sort=False)
    found = {method: [name for name in settings if group[name].nunique() > 1] for method, group in groups}
    return {str(method): names for method, names in found.items() if names}


def sensitivity(
    data: pd.DataFrame, varied: dict[str, list[str]], metric: str, label: str, line: float | None, note: str
) -> Figure:
    """Small multiples: rows are methods, columns the settings that vary, the y axis is shared.

    Args:
        data: one row per trial: method, status, the settings and the metric's column (NaN where there is none).
        varied: what `varying` found; not empty.
        metric: the column on the y axis.
        label: of the y axis.
        line: where the SFT model stands; None draws no line.
        note: the footnote.
    """
    layout = Layout.of(varied)
    figure = Figure(figsize=layout.size, layout="constrained")
    grid = layout.grid(figure)
    first: Axes | None = None
    for place, (method, names) in enumerate(in_common_order(varied).items()):
        mine = data[data["method"] == method]
        row: list[Axes] = []
        for spot in layout.spots(grid, place, len(names)):
            row.append(figure.add_subplot(spot, sharey=first))
            first = first or row[0]
        for axes, name in zip(row, names, strict=True):
            _panel(axes, mine[mine[name].notna()], method, name, metric, line, layout.tick_share)
        _name_row(row, title(method))
    for dots in (dots for axes in figure.axes for dots in axes.collections):
        dots.set_rasterized(len(data) > MANY)
    _make_room(first)
    figure.supylabel(label, fontsize=9)
    return finish(figure, _handles(data, list(varied), line), note)


@dataclass(frozen=True)
class Layout:
    """How many panels stand where: `columns` for a method, `abreast` methods in a row."""

    methods: int
    columns: int
    abreast: int

    @classmethod
    def of(cls, varied: dict[str, list[str]]) -> Layout:
        """Two methods abreast where there are many and their panels are few."""
        columns = max(map(len, varied.values()))
        return cls(len(varied), columns, 2 if len(varied) > ONE_BY_ONE and columns <= 3 else 1)

    @property
    def size(self) -> tuple[float, float]:
        """Inches: the full width from three panels on, lower rows where there are many."""
        across = self.columns * self.abreast
        rows = -(-self.methods // self.abreast)
        return WIDTH * min(max(across, 2) / 3, 1.0), 0.9 + (1.75 if self.abreast == 1 else 1.5) * rows

    @property
    def tick_share(self) -> float:
        """Least distance of ticks, as a share of the axis: labels need more of a narrow one."""
        return 0.14 if self.columns * self.abreast <= 4 else 0.3

    def grid(self, figure: Figure) -> GridSpec:
        """Cells for all panels, with a narrow empty column between methods abreast."""
        between = [*([1.0] * self.columns), 0.12] * self.abreast
        return figure.add_gridspec(-(-self.methods // self.abreast), len(between) - 1, width_ratios=between[:-1])

    def spots(self, grid: GridSpec, place: int, count: int) -> list[SubplotSpec]:
        """The cells of one method's panels."""
        row, beside = divmod(place, self.abreast)
        return [grid[row, beside * (self.columns + 1) + i] for i in range(count)]


def in_common_order(varied: dict[str, list[str]]) -> dict[str, list[str]]:
    """Each method's settings, those of most methods first, so that the same ones stand below each other."""
    often = Counter(name for names in varied.values() for name in names)
    return {method: sorted(names, key=lambda name: -often[name]) for method, names in varied.items()}


def _make_room(first: Axes | None) -> None:
    """For the crosses below the points; all panels share the axis."""
    if first is not None:
        low, high = first.get_ylim()
        first.set_ylim(low - 0.14 * (high - low), high)


def _name_row(row: Sequence[Axes], text: str) -> None:
    """The method's name over its first panel, which also carries the y axis."""
    row[0].set_title(text, loc="left", fontweight="bold")
    for axes in row[1:]:
        axes.tick_params(labelleft=False)


def _panel(
    axes: Axes, data: pd.DataFrame, method: str, name: str, metric: str, line: float | None, tick_share: float
) -> None:
    at = setting_axis(axes, data[name], declared(method, name).scale, tick_share)
    values = data[metric].to_numpy(dtype=np.float64)
    axes.set_xlabel(symbol(method, name), labelpad=1)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=1.2, zorder=1)
    axes.plot(*_medians(at, values), color=look(method).colour, linewidth=1.3, zorder=2)
    dots: dict[str, Any] = {"marker": look(method).marker, "edgecolors": FAINT, "linewidths": 0.4, "zorder": 3}
    axes.scatter(at, values, 20, _shades(data, method), **dots)
    lost = at[data["status"].to_numpy() == "diverged"]
    axes.plot(lost, np.full(len(lost), 0.07), "x", color=INK, markersize=5, transform=axes.get_xaxis_transform())


def _shades(data: pd.DataFrame, method: str) -> list[tuple[float, float, float]]:
    """Darker for a higher learning rate, by its rank among the method's own."""
    rates = data["learning_rate"] if "learning_rate" in data else pd.Series(0.0, index=data.index)
    ranks = rates.rank(method="dense").fillna(1.0)
    return [look(method).shade((rank - 1) / (ranks.max() - 1) if ranks.max() > 1 else 1.0) for rank in ranks]


def _medians(at: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[pd.Series, pd.Series]:
    """The median score at each value of a setting, or in groups of equal size where nearly every value is its own."""
    points = pd.DataFrame({"at": at, "value": values}).dropna()
    if points.empty:
        return points["at"], points["value"]
    pooled = points["at"] if points["at"].nunique() <= FEW else pd.qcut(points["at"], FEWER, duplicates="drop")
    medians = points.groupby(pooled.rename("group"), observed=True).median()
    return medians["at"], medians["value"]


def _handles(data: pd.DataFrame, methods: Sequence[str], line: float | None) -> list[Line2D | Patch]:
    """What marks and shades mean; the shades in the first method's colour."""
    style = look(methods[0])
    entries: list[Line2D | Patch] = [Line2D([], [], color=FAINT, linewidth=1.3, label="median")]
    entries += [line_handle("SFT model")] if line is not None else []
    entries += [Line2D([], [], linestyle="none", marker="x", color=INK, markersize=5, label="diverged")]
    rates = data["learning_rate"].dropna() if "learning_rate" in data else pd.Series(dtype=float)
    distinct = np.unique(places(rates, "log")[0]) if len(rates) else np.array([])
    if len(distinct) < 2:
        return entries
    ends = ((0.0, distinct[0]), (1.0, distinct[-1]))
    return entries + [Patch(color=style.shade(depth), label=f"learning rate {number(float(r))}") for depth, r in ends]
