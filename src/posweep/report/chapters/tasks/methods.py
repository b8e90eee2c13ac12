"""How good each method is on each task, and which comes first where that is significant."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.certainty.order import order
from posweep.report.chapters.tasks.part import axis_of, ends
from posweep.report.comparison import Comparison
from posweep.report.drawing.tasks import side_by_side
from posweep.report.tasks import method_table


def methods(comparison: Comparison) -> Chapter:
    """Each method's distribution on each task, and the order of methods where it is significant and survives."""
    table, over = method_table(comparison)
    ordered = [order(tables) for tables in comparison.tables]
    found = [f"{name}: {part.finding}" for name, part in zip(comparison.names, ordered, strict=True) if part.finding]
    silent = [name for name, part in zip(comparison.names, ordered, strict=True) if not part.finding]
    lacking = [
        f"{tables.record.name}: no order of methods is significant and survives every variant of the analysis."
        for tables in comparison.tables
        if tables.record.name in silent and len(tables.methods) > 1
    ]
    words = (*_byaxis_of(comparison), *found)
    shown = table.dropna(subset=["iqm"])
    drawings = () if shown.empty else (_methods_drawing(comparison, table),)
    return Chapter(
        "methods",
        "How good is each method on each task?",
        words,
        (_methods_sheet(table, comparison, over),),
        drawings,
        tuple(lacking),
        " ".join(found),
    )


def _byaxis_of(comparison: Comparison) -> tuple[str, ...]:
    """A caution where sweeps were declared to be about different things."""
    metrics = dict.fromkeys(tables.metric for tables in comparison.tables)
    if len(metrics) < 2:
        return ()
    each = ", ".join(f"{tables.record.name} by {tables.metric}" for tables in comparison.tables)
    return (f"Each sweep is read by its own primary metric ({each}): levels cannot be compared across them.",)


def _methods_sheet(table: pd.DataFrame, comparison: Comparison, over: Sequence[str]) -> Sheet:
    each = "; ".join(f"{name}: over {what}" for name, what in zip(comparison.names, over, strict=True) if what)
    caption = (
        "Of each sweep's primary metric over all of a method's configurations there (means over seeds; diverged "
        f"and failed trials dropped). Intervals: 95 %, given the configurations; {each or 'none can be drawn'}."
    )
    columns = {
        "sweep": Column("sweep", "text"),
        "title": Column("method", "text"),
        "configurations": Column("configurations", "count"),
        **{name: Column(words, interval=ends(name)) for name, words in MIDDLE_WORDS.items()},
    }
    return Sheet("tasks_methods", "Every method on every task", caption, table, columns, limit=120)


MIDDLE_WORDS = {"median": "median", "iqm": "interquartile mean", "p10": "10th percentile"}


def _methods_drawing(comparison: Comparison, table: pd.DataFrame) -> Drawing:
    caption = (
        "Interquartile mean over a method's configurations, with its 95 % interval over seeds and prompts as the "
        "table says; tick: the 10th percentile, below which one configuration in ten falls."
    )
    labels = [axis_of(tables) for tables in comparison.tables]
    figure = side_by_side(table, comparison.names, comparison.methods, labels)
    return Drawing("tasks_methods", "Every method on every task", caption, table, figure)
