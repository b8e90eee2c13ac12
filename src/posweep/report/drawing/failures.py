"""How many trials did not finish, and what counting the diverged ones does to each method's median."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from posweep.report.drawing.panels import finish, name_rows
from posweep.report.drawing.style import FAINT, WIDTH, look

KINDS = {"diverged": "#882255", "failed": "#999999", "missing": "#DDDDDD"}


def failure_policies(data: pd.DataFrame, metric: str, note: str) -> Figure:
    """Shares of trials that did not finish beside a dumbbell: the median with diverged trials dropped and at the worst.

    Args:
        data: columns method, `<ending>_share`, median_dropped, median_worst; one row per method.
        metric: named below the second panel.
        note: the footnote.
    """
    count = len(data)
    figure = Figure(figsize=(WIDTH, 1.35 + (0.42 if count <= 8 else 0.27) * count), layout="constrained")
    shares, medians = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    rows = np.arange(count)[::-1]
    _bars(shares, rows, data)
    for row, line in zip(rows, data.to_dict("records"), strict=True):
        _dumbbell(medians, row, look(str(line["method"])).colour, line["median_dropped"], line["median_worst"])
    name_rows(shares, list(data["method"]))
    medians.grid(axis="y", visible=False)
    medians.spines["left"].set_visible(False)
    medians.tick_params(axis="y", length=0)
    shares.set_xlabel("share of the method's trials")
    medians.set_xlabel(f"median of {metric} over configurations")
    return finish(figure, [*_endings(data), *_policies()], note)


def _bars(axes: Axes, rows: np.ndarray, data: pd.DataFrame) -> None:
    start = np.zeros(len(data))
    for kind, shade in KINDS.items():
        share = data[f"{kind}_share"].to_numpy(dtype=np.float64)
        axes.barh(rows, share, left=start, height=0.6, color=shade, zorder=2)
        start += share
    axes.set_xlim(0, max(0.1, 1.08 * float(start.max())))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _dumbbell(axes: Axes, row: float, colour: str, dropped: float, worst: float) -> None:
    axes.plot([worst, dropped], [row, row], color=colour, linewidth=1.4, alpha=0.6, zorder=2)
    axes.plot(dropped, row, marker="o", color=colour, markersize=6, zorder=3)
    axes.plot(
        worst, row, marker="o", color="white", markeredgecolor=colour, markeredgewidth=1.4, markersize=6, zorder=4
    )


def _endings(data: pd.DataFrame) -> list[Patch]:
    return [Patch(color=shade, label=kind) for kind, shade in KINDS.items() if (data[f"{kind}_share"] > 0).any()]


def _policies() -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker="o", markersize=6, color=FAINT, markerfacecolor=shade, label=label)
        for label, shade in (("diverged dropped", FAINT), ("diverged at the worst value", "white"))
    ]
