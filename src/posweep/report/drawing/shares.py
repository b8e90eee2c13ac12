"""Stacked bars of shares: how many of a method's configurations beat the SFT model, how many harm."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from posweep.report.drawing.panels import finish
from posweep.report.drawing.style import INK, WIDTH
from posweep.report.tables import title

Segment = tuple[str, str]
WRITTEN = 0.055  # of the bar: narrower segments hold no number

SEGMENTS: Mapping[str, Segment] = {
    "surely_beats": ("surely beats SFT", "#1B7837"),
    "beats": ("beats SFT, within error", "#A6DBA0"),
    "level": ("level with SFT", "#F0F0F0"),
    "harms": ("worse than SFT, within error", "#C2A5CF"),
    "surely_harms": ("surely worse than SFT", "#762A83"),
}
"""Green and purple, which every eye tells apart and no method wears: a column → its words and colour, left to right."""


def stacked(data: pd.DataFrame, note: str) -> Figure:
    """A bar per method, from the configurations that surely beat the SFT model to those that surely harm.

    Args:
        data: columns method, configurations and those of SEGMENTS: shares that add up to 1; one row per method, the first
            on top.
        note: the footnote.
    """
    figure = Figure(figsize=(WIDTH, 0.95 + (0.42 if len(data) <= 8 else 0.29) * len(data)), layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(data.iloc[::-1].iterrows()):
        _bar(axes, place, row)
    names = [f"{title(row.method)}  ({row.configurations})" for row in data.iloc[::-1].itertuples()]
    axes.set_yticks(range(len(data)), names, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.55, len(data) - 0.45)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("share of configurations (how many in brackets)")
    shown = [name for name in SEGMENTS if (data[name] > 0).any()]
    return finish(figure, [Patch(color=SEGMENTS[n][1], label=SEGMENTS[n][0]) for n in shown], note)


def _bar(axes: Axes, place: int, row: pd.Series) -> None:
    left = 0.0
    for name, (_, colour) in SEGMENTS.items():
        share = float(row[name])
        axes.barh(place, share, 0.72, left, color=colour, edgecolor="white", linewidth=0.8)
        if share >= WRITTEN:
            ink = "white" if name.startswith("surely") else INK
            axes.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=7.5, color=ink)
        left += share
