"""How figures look: one colour and marker per method, small vector-friendly type, nothing left behind in rcParams."""

from __future__ import annotations

import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_rgb

from posweep.objectives import OBJECTIVES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, without black and yellow
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven against six colours: 42 pairs before one repeats
INK, FAINT, GRID = "#222222", "#666666", "#E4E4E4"
WIDTH = 10.0  # inches, of every figure

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, has the Greek letters, and is the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a $ in somebody's name of a metric or method is a $
    "svg.fonttype": "path",  # text as outlines: the same picture whatever fonts the reader has
    "svg.hashsalt": "posweep",  # the same record gives the same bytes
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Look:
    """A method's colour and marker."""

    colour: str
    marker: str

    def shade(self, depth: float) -> tuple[float, float, float]:
        """The colour mixed with white: depth 0 is pale but visible, 1 the colour itself."""
        part = 0.3 + 0.7 * depth
        red, green, blue = (1 - part * (1 - channel) for channel in to_rgb(self.colour))
        return red, green, blue


def look(method: str) -> Look:
    """The same look for a method in every report, whichever methods it stands beside."""
    known = list(OBJECTIVES)
    position = known.index(method) if method in known else len(known) + zlib.crc32(method.encode()) % 36
    return Look(COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)])


def publication() -> AbstractContextManager[None]:
    """The settings above, for as long as the context lasts."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **RC, "backend": mpl.rcParams["backend"]}
    return mpl.rc_context(settings)
