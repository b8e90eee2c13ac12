"""Writes what the examples of docs/statistics.md print, and the figures beside them: `make docs`."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posweep.report.drawing.style import COLOURS, FAINT, INK, MARKERS, publication
from posweep.robustness import Sample, best_within, configuration_scores

PAGE = Path(__file__).with_name("statistics.md")
FIGURES = PAGE.parent / "figures"
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.S)
STYLES = dict(zip(("steep", "flat", "plain"), zip(COLOURS, MARKERS, strict=False), strict=False))


def run(text: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The page with what its examples print now, and the names each figure may draw: those when it is shown."""
    names: dict[str, Any] = {}
    seen: dict[str, dict[str, Any]] = {}
    parts: list[str] = []
    end = 0
    for example in EXAMPLE.finditer(text):
        parts.append(text[end : example.start()])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example["code"], f"{PAGE.name}", "exec"), names)
        parts.append(f"```python\n{example['code']}```\n\n```text\n{printed.getvalue()}```\n")
        end = example.end()
        shown = re.match(r"\n!\[[^]]*]\(figures/(\w+)\.svg\)", text[end:])
        if shown:
            seen[shown[1]] = dict(names)
    return "".join([*parts, text[end:]]), seen


def panel(width: float = 6.0) -> tuple[Figure, Axes]:
    """One panel, as wide as a column of text."""
    figure = Figure(figsize=(width, 2.9), layout="constrained")
    return figure, figure.subplots()


def distribution(names: Mapping[str, Any]) -> Figure:
    """Every configuration as a point, the median as a tick."""
    figure, axes = panel()
    for row, (method, values) in enumerate(names["means"].items()):
        colour, marker = STYLES[method]
        axes.scatter(
            values, row + 0.22 * (np.arange(1, 13) * 0.618 % 1 - 0.5), 26, colour, marker=marker, edgecolors="white"
        )
        axes.plot([np.median(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set(
        yticks=range(3), yticklabels=list(names["means"]), ylim=(2.6, -0.6), xlabel="win-rate against SFT (line: ½)"
    )
    axes.grid(axis="y", visible=False)
    return figure


def tuning(names: Mapping[str, Any]) -> Figure:
    """A curve per method."""
    figure, axes = panel()
    for method, curve in names["curves"].items():
        colour, marker = STYLES[method]
        axes.plot(range(1, 13), curve, color=colour, marker=marker, markersize=4, label=method)
    axes.set(xlabel="configurations tried (n)", ylabel="expected win-rate of the best", xticks=range(1, 13))
    axes.legend()
    return figure


def profile(names: Mapping[str, Any]) -> Figure:
    """A falling step curve per method."""
    figure, axes = panel()
    for method, shares in names["profiles"].items():
        axes.step(names["levels"], shares, color=STYLES[method][0], linewidth=1.6, label=method)
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set(xlabel="win-rate τ (line: ½)", ylabel="share of configurations above τ", xlim=(0.35, 0.72))
    axes.legend()
    return figure


def ice(names: Mapping[str, Any]) -> Figure:
    """A curve per β, and their mean."""
    figure, axes = panel(4.6)
    curves = names["curves"]
    for context, values in zip(curves.contexts, curves.scores, strict=True):
        axes.plot(curves.along, values, color=STYLES["steep"][0], alpha=0.55, marker="o", markersize=3)
        axes.annotate(
            f"β {context['beta']:g}", (curves.along[-1], values[-1]), (5, -3), textcoords="offset points", fontsize=8
        )
    axes.plot(curves.along, curves.mean, color=INK, linewidth=2)
    axes.set(xscale="log", xlabel="learning rate (black: mean)", ylabel="win-rate", xticks=curves.along)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    return figure


def frontier(names: Mapping[str, Any]) -> Figure:
    """Points, and the best within each KL as a step curve."""
    figure, axes = panel()
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle="--")
    for method, kl in names["kl"].items():
        colour, marker = STYLES[method]
        axes.scatter(kl, names["means"][method], 24, colour, marker=marker, edgecolors="white", label=method)
        order = np.argsort(kl)
        place = best_within(kl, names["means"][method])
        best = np.where(place < 0, 0.5, names["means"][method][place])  # −1: the SFT model itself is as good
        axes.step(kl[order], best[order], color=colour, where="post", linewidth=1.2)
    axes.set(xscale="log", xlabel="KL to the SFT model (nats)", ylabel="win-rate against SFT (dashed: ½)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend()
    return figure


def transfer(names: Mapping[str, Any]) -> Figure:
    """A point per configuration, a ring around what the first task would choose."""
    figure, axes = panel(3.6)
    one = names["means"]["steep"]
    other = configuration_scores(names["second"], Sample.everything(3, 200))[0]
    axes.axline((0.5, 0.5), slope=1, color=FAINT, linewidth=0.9, linestyle="--")
    axes.scatter(one, other, 26, STYLES["steep"][0], edgecolors="white")
    best = int(one.argmax())
    axes.scatter(one[best], other[best], 110, "none", edgecolors=INK, linewidths=1.2)
    axes.set(xlabel="win-rate on the first task", ylabel="win-rate on the second")
    return figure


DRAWN: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "distribution": distribution,
    "tuning": tuning,
    "profile": profile,
    "ice": ice,
    "frontier": frontier,
    "transfer": transfer,
}
"""Figure → how it is drawn from the names of the examples before it."""


def main() -> None:
    """Write the page and its figures."""
    text, seen = run(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    with publication():
        for name, names in seen.items():
            DRAWN[name](names).savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
