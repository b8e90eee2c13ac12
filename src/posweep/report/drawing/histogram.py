"""How one measure is spread over each method's configurations: a histogram per method, all on the same bins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from posweep.report.drawing.frontier import ACROSS, TOGETHER
from posweep.report.drawing.panels import finish, line_handle
from posweep.report.drawing.style import FAINT, INK, WIDTH, look
from posweep.report.tables import title

BINS = 20  # at most


def bins(values: ArrayLike) -> NDArray[np.float64]:
    """Edges of at most 20 bins of a round width (1, 2 or 5 times a power of ten) that starts at its own multiples.

    So ½ is an edge, and a bin is all above it or all below.
    """
    found = np.asarray(values, dtype=np.float64)
    low, high = float(found.min()), float(found.max())
    power = math.floor(math.log10((high - low) / BINS)) if high > low else -2
    widths = [digit * 10.0 ** (power + more) for more in range(3) for digit in (1, 2, 5)]
    spans = ((width, math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1) for width in widths)
    width, first, last = next(span for span in spans if span[2] - span[1] <= BINS)
    edges = np.asarray(np.arange(first, last + 1) * width, dtype=np.float64)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must not lose a value
    return edges


def histograms(
    data: pd.DataFrame, edges: NDArray[np.float64], methods: Sequence[str], label: str, line: float | None, note: str
) -> Figure:
    """Counts of configurations per bin, a panel per method on shared axes.

    Args:
        data: columns method, value; one row per configuration.
        edges: of the bins, `bins`.
        methods: in the order of the panels.
        label: of the x axis, with its unit.
        line: where the SFT model stands; None draws none.
        note: the footnote.
    """
    across = min(len(methods), 3 if len(methods) <= TOGETHER else ACROSS)
    rows = math.ceil(len(methods) / across)
    size = (WIDTH if across > 1 else 0.66 * WIDTH), (2.3 if across <= 3 else 1.45) * rows + 0.85
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False).ravel().tolist()
    counts = {m: np.histogram(data.loc[data["method"] == m, "value"], edges)[0] for m in methods}
    highest = max(1, *(int(found.max()) for found in counts.values()))
    for place, (axes, method) in enumerate(zip(grid, methods, strict=False)):
        _panel(axes, data.loc[data["method"] == method, "value"], counts[method], edges, method)
        axes.set_ylim(0, 1.08 * highest)
        axes.tick_params(labelleft=place % across == 0, labelbottom=place >= len(methods) - across)
        if line is not None:
            axes.axvline(line, color=INK, linewidth=1.2, zorder=3)
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    grid[min((rows - 1) * across + across // 2, len(methods) - 1)].set_xlabel(label)
    figure.supylabel("configurations", fontsize=9)
    median = Line2D([], [], linestyle="none", marker="^", color=FAINT, markersize=6, label="median")
    return finish(figure, [*([line_handle("SFT model")] if line is not None else []), median], note)


def _panel(axes: Axes, values: pd.Series, counts: NDArray[np.int64], edges: NDArray[np.float64], method: str) -> None:
    style = look(method)
    axes.set_title(title(method), loc="left", fontweight="bold", fontsize=9)
    axes.stairs(counts, edges, fill=True, facecolor=style.shade(0.55), edgecolor=style.colour, linewidth=0.9, zorder=2)
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if len(values):
        axes.plot(values.median(), 0, "^", color=style.colour, markersize=7, clip_on=False, zorder=4)
    else:
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=FAINT)
