"""Whether the configurations that do well on one task do well on another."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.tasks.part import DRAWN, SAID, axis_of, bounds, ends
from posweep.report.comparison import Comparison
from posweep.report.drawing.tasks import against
from posweep.report.tasks import FEWEST, order_table, score_table


def kept_order(comparison: Comparison) -> Chapter | None:
    """Whether the configurations that do well on one task do well on the other; nothing without common ones."""
    table = order_table(comparison)
    if table.empty:
        nothing = "No configuration was tried in two of the sweeps: nothing can be carried from one to the other."
        return Chapter("order", ORDER, silences=(nothing,))
    few = table[table["rho"].isna()]
    silences = _few(few) + _same_trials(comparison)
    caption = (
        "Spearman's ρ between the scores of the configurations that both sweeps tried: 1 where both order them "
        "alike, 0 where one order says nothing of the other. Luck of seeds and prompts lowers it. "
    )
    caption += f"Intervals, cut at ±1: 95 %, over {comparison.over}."
    columns = {
        "one": Column("sweep", "text"),
        "other": Column("and", "text"),
        "title": Column("method", "text"),
        "configurations": Column("in common", "count"),
        "rho": Column("Spearman's ρ", digits=2, interval=ends("rho")),
    }
    sheet = Sheet("tasks_order", "Is the order of configurations kept?", caption, table, columns, limit=120)
    drawings = tuple(_order_drawings(comparison, table))
    return Chapter("order", ORDER, tuple(_order_words(table)), (sheet,), drawings, silences)


ORDER = "Do the same configurations do well?"


def _few(few: pd.DataFrame) -> tuple[str, ...]:
    if few.empty:
        return ()
    named = ", ".join(dict.fromkeys(few["title"]))
    return (
        f"The order of configurations, of {named}: fewer than {FEWEST} have a score on both sweeps, or all are level.",
    )


def _same_trials(comparison: Comparison) -> tuple[str, ...]:
    """A caution where one run serves two sweeps."""
    counts = [(a, b, comparison.same_trials(a, b)) for a, b in comparison.pairs()]
    return tuple(
        f"{count} trials belong to both {comparison.names[a]} and {comparison.names[b]}: they were run once, their "
        "luck is common to both, and what is carried over looks better than it would elsewhere."
        for a, b, count in counts
        if count
    )


def _order_words(table: pd.DataFrame) -> Iterator[str]:
    """How many correlations are surely positive, and how strong they are."""
    for (one, other), rows in table.dropna(subset=["rho_low"]).groupby(["one", "other"], sort=False):
        sure = rows[rows["rho_low"] > 0]
        if sure.empty:
            continue
        if len(rows) <= SAID:
            known = sure.to_dict("records")
            each = ", ".join(f"{row['title']} ρ {row['rho']:.2f}{bounds(row, 'rho', 2)}" for row in known)
            yield f"{one} and {other} order configurations alike beyond luck: {each}."
        else:
            middle = rows["rho"].median()
            yield (
                f"{one} and {other} order the configurations of {len(sure)} of {len(rows)} methods alike beyond "
                f"luck (95 % interval above 0, each for itself); the median ρ is {middle:.2f}."
            )


def _order_drawings(comparison: Comparison, table: pd.DataFrame) -> Iterator[Drawing]:
    for place, (one, other) in enumerate(list(comparison.pairs())[:DRAWN]):
        first, second = comparison.names[one], comparison.names[other]
        data = score_table(comparison, one, other)
        if data.empty:
            continue
        rho = table[(table["one"] == first) & (table["other"] == second)]
        shown = list(dict.fromkeys(data["method"]))
        labels = tuple(f"{name}: {axis_of(comparison.tables[i])}" for name, i in ((first, one), (second, other)))
        figure = against(data, rho, shown, (labels[0], labels[1]), "")
        caption = (
            f"One point per configuration that both {first} and {second} tried and that has a score on both (mean "
            f"over seeds); grey: those of other methods; ring: what {first} would choose; dashed line: the same score "
            "on both. No interval is drawn."
        )
        name = "tasks_scores" if place == 0 else f"tasks_scores_{place + 1}"
        yield Drawing(name, f"Every configuration on {first} and on {second}", caption, data, figure)
