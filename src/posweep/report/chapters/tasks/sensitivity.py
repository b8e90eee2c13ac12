"""Whether the same hyperparameter matters on two tasks, and at the same value."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.tasks.part import DRAWN, LEVEL, SAID, ends
from posweep.report.comparison import Comparison
from posweep.report.drawing.axes import number
from posweep.report.drawing.tasks import what_matters
from posweep.report.tasks import share_table


def sensitivity(comparison: Comparison) -> Chapter | None:
    """Whether the same hyperparameter matters on both tasks; nothing where no method varies any in common."""
    table, refused = share_table(comparison)
    silences = (
        (f"Shares of {', '.join(refused)}: the configurations in common are no full grid, and PED-ANOVA needs 50.",)
        if refused
        else ()
    )
    if table.empty:
        return Chapter("sensitivity", MATTERS, silences=silences) if refused else None
    drawings = tuple(_share_drawings(comparison, table))
    return Chapter(
        "sensitivity", MATTERS, tuple(_share_words(table)), (_share_sheet(table, comparison.over),), drawings, silences
    )


MATTERS = "Does the same hyperparameter matter?"


def _share_sheet(table: pd.DataFrame, over: str) -> Sheet:
    caption = (
        "The share of the variance between the configurations in common that each hyperparameter explains by "
        "itself on either sweep (main effects of ANOVA; without a full grid PED-ANOVA, which has no interval), and "
        "the value that does best on average over all others. p: that the shares do not differ, Holm over all "
        "rows. "
    )
    caption += f"Intervals: 95 %, over {over}."
    shown = table.assign(best_one=table["best_one"].map(_level), best_other=table["best_other"].map(_level))
    columns = {
        "one": Column("sweep", "text"),
        "other": Column("and", "text"),
        "title": Column("method", "text"),
        "symbol": Column("hyperparameter", "text"),
        "how": Column("how", "text"),
        "share_one": Column("share on the first", "percent", interval=ends("share_one")),
        "share_other": Column("share on the second", "percent", interval=ends("share_other")),
        "p": Column("Holm p", "p"),
        "best_one": Column("best on the first", "text"),
        "best_other": Column("best on the second", "text"),
    }
    return Sheet("tasks_sensitivity", "What matters on either task", caption, shown, columns, limit=120)


def _level(value: object) -> str:
    return "" if value is None or value != value else number(value)


def _share_words(table: pd.DataFrame) -> Iterator[str]:
    """The hyperparameters whose share differs significantly."""
    sure = table[table["p"] < LEVEL]
    if len(sure) > SAID:
        yield f"{len(sure)} of {len(table)} shares differ significantly between the sweeps (Holm, 5 %)."
    elif len(sure):
        each = ", ".join(
            f"{row['title']} {row['symbol']} {row['share_one']:.0%} on {row['one']}, {row['share_other']:.0%} on "
            f"{row['other']}"
            for row in sure.to_dict("records")
        )
        yield f"How much a hyperparameter explains differs significantly between the sweeps (Holm, 5 %): {each}."


def _share_drawings(comparison: Comparison, table: pd.DataFrame) -> Iterator[Drawing]:
    for place, ((one, other), rows) in enumerate(list(table.groupby(["one", "other"], sort=False))[:DRAWN]):
        labels = (f"share on {one}", f"share on {other}")
        shown = [method for method in comparison.methods if method in set(rows["method"])]
        caption = (
            "One point per method: the share of variance its hyperparameter explains by itself on either sweep; "
            "whiskers: 95 % intervals over seeds and prompts as the table says. On the dashed line it matters as "
            "much on both."
        )
        name = "tasks_sensitivity" if place == 0 else f"tasks_sensitivity_{place + 1}"
        figure = what_matters(rows, shown, labels)
        yield Drawing(name, f"What matters on {one} and on {other}", caption, rows, figure)
