"""Where the variance of a run's score comes from: a stacked bar per method, and how large the variance is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from posweep.report.drawing.axes import number
from posweep.report.drawing.panels import finish, name_rows
from posweep.report.drawing.style import INK, WIDTH, look

SHADES = ("#332288", "#44AA99", "#DDCC77", "#BBBBBB")  # Tol's muted: apart for all eyes, and not the methods' colours
LEGIBLE = 0.08  # of the bar: smaller parts carry no number


def variance_shares(data: pd.DataFrame, parts: Sequence[str], note: str) -> Figure:
    """Shares of each part, stacked to 100 %, beside the standard deviation they are shares of (squared).

    Args:
        data: columns method, deviation and `<part>_share` for each part; one row per method.
        parts: from left to right.
        note: the footnote.
    """
    count = len(data)
    figure = Figure(figsize=(WIDTH, 1.35 + (0.42 if count <= 8 else 0.27) * count), layout="constrained")
    bars, sizes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    rows = np.arange(count)[::-1]
    start = np.zeros(count)
    known = {p: s for p, s in zip(parts, SHADES, strict=True) if data[f"{p}_share"].notna().any()}
    for part, shade in known.items():
        share = data[f"{part}_share"].fillna(0).to_numpy(dtype=np.float64)
        bars.barh(rows, share, left=start, height=0.62, color=shade, zorder=2)
        _numbers(bars, rows, start, share, "white" if shade == SHADES[0] else INK)
        start += share
    for row, method, deviation in zip(rows, data["method"], data["deviation"], strict=True):
        style = look(method)
        sizes.plot([0, deviation], [row, row], color=style.shade(0.2), linewidth=1.2, zorder=2)
        sizes.plot(deviation, row, marker=style.marker, color=style.colour, markersize=5.5, zorder=3)
    _axes(bars, sizes, list(data["method"]))
    return finish(figure, [Patch(color=s, label=p) for p, s in known.items()], note)


def _numbers(axes: Axes, rows: np.ndarray, start: np.ndarray, share: np.ndarray, ink: str) -> None:
    for row, left, width in zip(rows, start, share, strict=True):
        if width >= LEGIBLE:
            axes.text(left + width / 2, row, f"{width:.0%}", ha="center", va="center", color=ink, fontsize=7.5)


def _axes(bars: Axes, sizes: Axes, methods: list[str]) -> None:
    name_rows(bars, methods)
    sizes.grid(axis="y", visible=False)
    sizes.spines["left"].set_visible(False)
    sizes.tick_params(axis="y", length=0)
    bars.set_xlim(0, 1)
    bars.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    bars.set_xlabel("share of the variance of a run's score")
    sizes.set_xlim(left=0)
    sizes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    sizes.xaxis.set_major_formatter(lambda value, _: number(round(value, 6)))
    sizes.set_xlabel("standard deviation of a run's score")
