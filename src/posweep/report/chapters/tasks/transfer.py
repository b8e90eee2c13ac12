"""What the best configuration of one task is worth on another, beside tuning there and not tuning at all."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.tasks.part import LEVEL, SAID, axis_of, bounds, ends
from posweep.report.comparison import ANY, Comparison
from posweep.report.drawing.tasks import carried_over
from posweep.report.tasks import transfer_table


def transferred(comparison: Comparison) -> Chapter | None:
    """What the best configuration of one task is worth on the other, beside tuning there and not tuning at all."""
    table, over = transfer_table(comparison), comparison.over
    if table.empty:
        return None
    drawings = (_transfer_drawing(comparison, table),) if len(table) else ()
    return Chapter(
        "transfer",
        "What is the best configuration of one task worth on another?",
        tuple(_transfer_words(table)),
        (_transfer_sheet(table, over), _choice_sheet(table, over)),
        drawings,
        _transfer_silences(table),
        _transfer_finding(table),
    )


def _transfer_sheet(table: pd.DataFrame, over: str) -> Sheet:
    caption = (
        "Scores on the second sweep, of the configurations that both tried. Carried over: the one that is best on "
        "the first. Tuned there: the best of the second itself, chosen on one half of its prompts (of its seeds, "
        "where scores have no prompts) and scored on the other. Regret: tuned there less carried over; p: that it "
        f"is 0, Holm over the rows of a direction. Intervals: 95 %, over {over}."
    )
    columns = {
        **ROWS,
        "transferred": Column("carried over", interval=ends("transferred")),
        "best": Column("tuned there", interval=ends("best")),
        "regret": Column("regret", interval=ends("regret")),
        "regret_p": Column("Holm p", "p"),
    }
    return Sheet("tasks_transfer", "The best of one task on another", caption, table, columns, limit=120)


def _choice_sheet(table: pd.DataFrame, over: str) -> Sheet:
    caption = (
        "What the first sweep would choose, and what that gains on the second over not tuning at all. Default: the "
        "configuration nearest to the method's cited defaults. Average: of all configurations in common, what a "
        "blind choice gives. p: that there is no gain, Holm over the rows of a direction. Intervals: 95 %, over "
        f"{over}."
    )
    columns = {
        **ROWS,
        "point": Column("what the first would choose", "text"),
        "default": Column("default"),
        "over_default": Column("carried over less default", interval=ends("over_default")),
        "over_default_p": Column("Holm p", "p"),
        "typical": Column("average"),
        "over_typical": Column("carried over less average", interval=ends("over_typical")),
        "over_typical_p": Column("Holm p", "p"),
    }
    own = table[table["method"] != ANY]
    return Sheet("tasks_choices", "The best of one task against not tuning", caption, own, columns, limit=120)


ROWS = {"one": Column("from", "text"), "other": Column("to", "text"), "title": Column("method", "text")}


def _transfer_words(table: pd.DataFrame) -> Iterator[str]:
    """One sentence per direction for all methods together, then the methods that surely lose or gain."""
    for (one, other), rows in table.groupby(["one", "other"], sort=False):
        yield from (_pooled(row) for row in rows[rows["method"] == ANY].to_dict("records"))
        own, before = rows[rows["method"] != ANY], f"Carried from {one} to {other}, the best configuration"
        beyond = own["over_default_p"] < LEVEL
        yield from _listed(own[own["regret_p"] < LEVEL], before, "loses against tuning there", "regret")
        yield from _listed(own[beyond & (own["over_default"] > 0)], before, "gains over the default", "over_default")
        yield from _listed(own[beyond & (own["over_default"] < 0)], before, "falls behind the default", "over_default")


def _pooled(row: Mapping[Hashable, Any]) -> str:
    """What choosing among all methods on the one task gives on the other."""
    known = {str(name): value for name, value in row.items()}
    tuned = f"; tuned on {known['other']} itself, the best scores {known['best']:.3f}{bounds(known, 'best')}"
    return (
        f"The configuration of any method that {known['one']} would choose scores {known['transferred']:.3f}"
        f"{bounds(known, 'transferred')} on {known['other']}{tuned if known['best'] == known['best'] else ''}."
    )


def _listed(rows: pd.DataFrame, before: str, verb: str, name: str) -> Iterator[str]:
    """The methods of which a difference is significant; counted where they are many."""
    if len(rows) > SAID:
        yield f"{before} of {len(rows)} methods {verb} (significant at 5 % after Holm)."
    elif len(rows):
        each = ", ".join(_by(row, name) for row in rows.to_dict("records"))
        yield f"{before} {verb} (significant at 5 % after Holm): {each}."


def _by(row: Mapping[Hashable, Any], name: str) -> str:
    """By how much, without a sign: `DPO 0.052 [0.021, 0.083]`."""
    low, high = sorted(abs(row[end]) for end in ends(name))
    return f"{row['title']} {abs(row[name]):.3f} [{low:.3f}, {high:.3f}]"


def _transfer_silences(table: pd.DataFrame) -> tuple[str, ...]:
    lost = table[table["lost"].fillna("") != ""]
    each = [
        f"{row['title']}: what {row['one']} would rather choose ({row['lost']}) has no score on {row['other']}; the "
        "next best is carried over."
        for row in lost.to_dict("records")
    ]
    shown = each[:SAID] + ([f"The same of {len(each) - SAID} more; see the CSV file."] if len(each) > SAID else [])
    split = (
        ()
        if table["best"].notna().any()
        else ("Tuning there: one seed and no scores by prompt leave nothing to split.",)
    )
    return (*shown, *split)


def _transfer_finding(table: pd.DataFrame) -> str:
    """What is lost by not tuning again, where that is significant for the best of all methods."""
    rows = table[(table["method"] == ANY) & (table["regret_p"] < LEVEL)].to_dict("records")
    each = [f"from {row['one']} to {row['other']} by {_by({**row, 'title': ''}, 'regret').strip()}" for row in rows]
    said = "Carried over, the best configuration of any method loses against tuning there"
    return f"{said}: {'; '.join(each)} (significant at 5 % after Holm)." if each else ""


def _transfer_drawing(comparison: Comparison, table: pd.DataFrame) -> Drawing:
    caption = (
        "Scores on the second sweep of four choices among the configurations that both sweeps tried; bar: 95 % "
        "interval of what is carried over, over seeds and prompts as the table says. What is tuned there is "
        "cross-fitted."
    )
    ordered = [
        *(m for m in comparison.methods if m in set(table["method"])),
        *([ANY] if ANY in set(table["method"]) else []),
    ]
    by_name = dict(zip(comparison.names, comparison.tables, strict=True))
    labels = [axis_of(by_name[other]) for _, other in dict.fromkeys(zip(table["one"], table["other"], strict=True))]
    figure = carried_over(table, ordered, labels)
    return Drawing("tasks_transfer", "What the best of one task scores on another", caption, table, figure)
