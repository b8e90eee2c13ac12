"""Methods against methods: a matrix of shares, one beside or below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posweep.report.drawing.panels import finish
from posweep.report.drawing.style import INK, WIDTH
from posweep.report.tables import title

LOSES, EVEN, WINS = "#D55E00", "#F7F7F7", "#0072B2"
SIDES = LinearSegmentedColormap.from_list("sides", [LOSES, EVEN, WINS])
Cells = tuple[NDArray[np.float64], NDArray[np.bool_]]
BESIDE = 8  # methods: matrices of more stand below each other


def matrices(data: pd.DataFrame, names: Sequence[str], methods: Sequence[str], level: float, note: str) -> Figure:
    """One matrix per name: in each cell, how often the row's method wins against the column's, in %.

    Args:
        data: columns at (a name), method, other, win_rate, p_holm; one row per pair.
        names: the matrices, in order.
        methods: rows and columns, in order.
        level: below which a p-value makes a number bold.
        note: the footnote.
    """
    reach = max(0.1, float((data["win_rate"] - 0.5).abs().max()))
    count, few = len(methods), len(methods) <= BESIDE
    side = 0.34 * count + 1.5 if few else 0.24 * count + 1.3
    figure = Figure(figsize=(WIDTH, side + 0.5 if few else len(names) * side + 0.5), layout="constrained")
    shape = (1, len(names)) if few else (len(names), 1)
    for axes, name in zip(figure.subplots(*shape, squeeze=False).ravel(), names, strict=True):
        rows = data[data["at"] == name]
        _matrix(axes, _square(rows, methods, level), methods, reach, 9 if few else 6.5)
        axes.set_title(f"at the {name} configuration", loc="left", fontweight="bold")
    return finish(figure, [], note)


def _matrix(axes: Axes, cells: Cells, methods: Sequence[str], reach: float, size: float) -> None:
    shares, sure = cells
    axes.imshow(shares, cmap=SIDES, norm=Normalize(0.5 - reach, 0.5 + reach), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            text: dict[str, Any] = {"fontsize": size, "ha": "center", "va": "center"}
            text["fontweight"] = "bold" if sure[row, column] else "normal"
            text["color"] = "white" if abs(share - 0.5) > 0.7 * reach else INK
            axes.text(column, row, f"{100 * share:.0f}", **text).set_in_layout(False)  # hundreds, all of them inside
    labels = [title(method) for method in methods]
    axes.set_xticks(
        range(len(methods)), labels, rotation=0 if len(methods) <= BESIDE else 90, fontsize=min(size + 1, 9)
    )
    axes.set_yticks(range(len(methods)), labels, fontsize=min(size + 1, 9))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _square(data: pd.DataFrame, methods: Sequence[str], level: float) -> Cells:
    """Both halves of the matrix from its pairs; NaN on the diagonal."""
    shares = np.full((len(methods), len(methods)), np.nan)
    sure = np.zeros(shares.shape, dtype=np.bool_)
    for row in data.to_dict("records"):
        i, j = methods.index(row["method"]), methods.index(row["other"])
        shares[i, j], shares[j, i] = row["win_rate"], 1 - row["win_rate"]
        sure[i, j] = sure[j, i] = row["p_holm"] < level
    return shares, sure
