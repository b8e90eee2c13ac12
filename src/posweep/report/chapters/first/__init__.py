"""What to try first: each method's default and best point, and whether tuning bought anything that is no luck."""

from __future__ import annotations

import math
from typing import Any

from posweep.report.chapter import Chapter, Column, Drawing, Sheet
from posweep.report.chapters.first.numbers import SIGNIFICANT, Starts, starts
from posweep.report.chapters.first.peak import peak
from posweep.report.drawing.tornado import tornado
from posweep.report.tables import Tables, title

QUESTION = "What to try first?"
SAID = 6  # methods that get a sentence each; of more, the table speaks
NAMED = 3


def chapter(tables: Tables) -> Chapter | None:
    """What to try first; nothing before a trial has finished."""
    found = starts(tables)
    if found is None:
        return None
    searched = peak(tables)
    return Chapter(
        "first",
        QUESTION,
        (*said(found, tables), *searched.words),
        (sheet(found, tables), *searched.sheets),
        tuple(drawings(found, tables)),
        (*silences(found, tables), *searched.silences),
        finding(found, tables),
    )


def sheet(found: Starts, tables: Tables) -> Sheet:
    """Default, best and what lies between, a row per method."""
    how = (
        "its score is cross-fitted: each half of the prompts chooses a best, the other scores it"
        if tables.prompts() > 1
        else "its score is the plain maximum, which flatters and has no interval, as there are no scores by prompt"
    )
    known = found.methods["start_score_low"].notna().any()
    drawn = f"Intervals: 95 %, over {found.over}; p: Holm over methods." if known else "No interval can be drawn."
    caption = (
        f"{tables.metric}. Default: the configuration nearest to the method's cited default (on log axes where those are "
        f"declared) and this project's training settings. Best: the highest of all data; {how}. Gain: that score less the "
        "default's, about 0 where tuning buys nothing; by hyperparameter with the others at the default. Where the best "
        f"lies at an end of the grid, extend the grid there. {drawn}"
    )
    columns = {
        "method": Column("method", "method"),
        "default": Column("default, nearest on this grid", "text"),
        "default_score": Column("score there", interval=("default_score_low", "default_score_high")),
        "best": Column("best point", "text"),
        "best_score": Column("score of the best", interval=("best_score_low", "best_score_high")),
        "gain": Column("gain by tuning", interval=("gain_low", "gain_high")),
        "gain_p": Column("Holm p", "p"),
        "gain_by_hyperparameter": Column("gain by hyperparameter", "text"),
        "ends_of_grid": Column("best at an end of the grid", "text"),
    }
    return Sheet("recommended", "Where to start", caption, found.methods, columns)


def said(found: Starts, tables: Tables) -> tuple[str, ...]:
    """A sentence per method; of many methods, how many gain by tuning."""
    rows = found.methods.to_dict("records")
    if len(rows) <= SAID:
        return tuple(_said(row, tables) for row in rows)
    better = [row for row in rows if row["gain"] > 0 and row["gain_p"] < SIGNIFICANT]
    known = sum(math.isfinite(row["gain"]) for row in rows)
    names = f": {_listed([row['method'] for row in better])}" if 0 < len(better) <= SAID else ""
    ends, luck = sum(bool(row["ends_of_grid"]) for row in rows), sum(row["ends_by_luck"] for row in rows)
    return (
        f"Tuning beats the default, by more than luck of these prompts and seeds, for {len(better)} of {known} methods"
        f"{names}.",
        f"The best point of {ends} of {len(rows)} methods lies at an end of its grid, where {luck:.0f} would if all points "
        "were equally good.",
    )


def _said(row: dict[Any, Any], tables: Tables) -> str:
    """Where to start with one method, and why there."""
    place = tables.place
    head = f"For {title(row['method'])} start at {row['start']}: it scored {_with_interval(row, 'start_score')} on {place}."
    end = (
        f" The best point lies at an end of the grid ({row['ends_of_grid']}): extend it there."
        if row["ends_of_grid"]
        else ""
    )
    if not row["default"]:
        return f"{head} Its default is not known here.{end}"
    cited = (
        "its default" if row["default_is_cited"] else f"the nearest on this grid to its default, {row['cited_default']}"
    )
    if not math.isfinite(row["default_score"]):
        return f"{head} The trials at {row['default']}, {cited}, did not finish ({row['default_lost']}).{end}"
    if not math.isfinite(row["gain"]):
        return f"{head} It is {cited}, and the only one with a score."
    gain = _with_interval(row, "gain", "+z.3f")
    if not row["cross_fitted"]:
        return f"{head} It is {cited}; the plain maximum of the grid, which flatters, is {gain} higher.{end}"
    if not row["start_is_default"]:
        return (
            f"{head} Points that half of the prompts choose add on the others {gain} to {row['default']}, {cited}.{end}"
        )
    return (
        f"{head} It is {cited}; points that half of the prompts choose add {gain} on the others: no gain is shown.{end}"
    )


def _with_interval(row: dict[Any, Any], name: str, form: str = "z.3f") -> str:
    """`0.625 [0.571, 0.680]`; the number alone where nothing was drawn."""
    values = [format(row[key], form).replace("-", "−") for key in (name, f"{name}_low", f"{name}_high")]
    return f"{values[0]} [{values[1]}, {values[2]}]" if math.isfinite(row[f"{name}_low"]) else values[0]


def _listed(methods: list[str]) -> str:
    return " and ".join(", ".join(map(title, methods)).rsplit(", ", 1))


def finding(found: Starts, tables: Tables) -> str:
    """The starting point that scored highest, if it beats the SFT model, and the ones that cannot be told from it."""
    rows = found.methods
    good = rows[(rows["start_score"] > 0.5) & (rows["start_p"] < SIGNIFICANT)]
    if good.empty or not tables.metric.endswith("win_rate_vs_sft"):
        return ""
    top = good.loc[good["start_score"].idxmax()].to_dict()
    rivals = _level_with(top["method"], found)
    scored = f"{_with_interval(top, 'start_score')} against SFT on {tables.place}"
    said = f"What to try first: {title(top['method'])} at {top['start']}, {scored}"
    if len(rows) == 1:
        return said + "."
    if not rivals:
        return f"{said}; the starting point of every other method scores less."
    names = _listed(rivals) if len(rivals) <= NAMED else f"{len(rivals)} of the other {len(rows) - 1} methods"
    points = "starting point" if len(rivals) == 1 else "starting points"
    return f"{said}; the {points} of {names} cannot be told from it."


def _level_with(method: str, found: Starts) -> list[str]:
    """The methods whose starting point is not shown to differ from one method's."""
    apart = {other for pair, p in found.pairs.items() if method in pair and p < SIGNIFICANT for other in pair}
    return [other for other in found.methods["method"] if other != method and other not in apart]


def drawings(found: Starts, tables: Tables) -> list[Drawing]:
    """What can be won and lost from the default, by hyperparameter."""
    data = found.gains
    if data.empty:
        return []
    known = data["gain_low"].notna().any()
    drawn = f"Bars: 95 % intervals over {found.over}." if known else "No interval can be drawn."
    flattering = (
        "" if tables.prompts() > 1 else " Nothing is cross-fitted, as there are no scores by prompt: ends flatter."
    )
    caption = (
        f"{tables.metric} less that at the default: the best (full colour) and the worst (pale) that one hyperparameter "
        "reaches with the others at the default, and all of them together; chosen on one half of the prompts, scored on the "
        f"other.{flattering} {drawn}"
    )
    return [Drawing("tunability", "What tuning can win and lose", caption, data, tornado(data, tables.note))]


def silences(found: Starts, tables: Tables) -> tuple[str, ...]:
    """What cannot be said, and why."""
    rows, names = found.methods, []
    if found.silent:
        names.append(f"No trial of {_listed(found.silent)} has finished with a score on {tables.metric}.")
    unknown = list(rows.loc[rows["default"] == "", "method"])
    if unknown:
        names.append(f"The default of {_listed(unknown)} is not known here, so neither is what tuning adds to it.")
    lost = list(rows.loc[(rows["default"] != "") & rows["default_score"].isna(), "method"])
    if lost:
        names.append(f"No trial at the default of {_listed(lost)} has finished.")
    if rows["start_score_low"].isna().all():
        names.append("With one seed and no scores by prompt nothing can be told from luck.")
    return tuple(names)
