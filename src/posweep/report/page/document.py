"""report.html: one file that says what was run, what came out, and what every number is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import pandas as pd

from posweep.records import SweepRecord
from posweep.report.chapter import Chapter
from posweep.report.page.judges import TERMS, agreement_table, agreement_words, judge_table
from posweep.report.page.markup import Safe, fact, html, terms
from posweep.report.page.sections import (
    WORK,
    data_table,
    distribution_table,
    failures_table,
    fairness_table,
    fresh_table,
    per_set_table,
    seconds_table,
    trials_table,
)
from posweep.report.page.sheets import chapter_section
from posweep.report.tables import STATUSES, Tables, best, evaluation_sets, methods, status, title

ELSEWHERE = ("judge/", "set/", "data/")  # facts that tables of their own show
CSS = files("posweep.report.page").joinpath("page.css").read_text(encoding="utf-8")


def page(
    tables: Tables,
    summary: Mapping[str, Any],
    told: Sequence[Chapter],
    pictures: Mapping[str, bytes],
    agreed: pd.DataFrame,
) -> str:
    """The whole document: chapters with their pictures (SVG by name); `agreed` is what `judge_agreement` found."""
    name = escape(tables.record.name)
    body = "\n".join(section for section in _sections(tables, summary, told, pictures, agreed) if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – posweep</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _sections(
    tables: Tables,
    summary: Mapping[str, Any],
    told: Sequence[Chapter],
    pictures: Mapping[str, bytes],
    agreed: pd.DataFrame,
) -> Iterable[str]:
    record = tables.record
    yield _header(record)
    fresh = (fresh_table(record), Safe(f'<p class="faint">{FRESH}</p>')) if evaluation_sets(record) else ()
    shown = (distribution_table(summary), *fresh)
    yield _section(f"Distribution of {record.primary_metric}", _best_words(tables), *shown)
    yield _section("What each method was given", GIVEN, fairness_table(tables))
    yield from (chapter_section(chapter, pictures) for chapter in told)
    yield _section("Evaluation sets", SETS, per_set_table(tables)) if evaluation_sets(record) else ""
    yield _optional("The data", DATA, data_table(record))
    known = judge_table(record)
    yield _optional("The judges", JUDGES if known and "held out accuracy" in known else "", known)
    if found := agreement_table(agreed):
        yield _section("How far the judges agree", agreement_words(agreed), found, terms(TERMS))
    yield _section("Where the time went", SECONDS, seconds_table(record))
    yield _optional("Trials that did not finish", "Diverged is a result; failed is not.", failures_table(record))
    yield _optional("All trials", f"{ERRORS} “missing”: no result is recorded.", trials_table(tables))


ERRORS = "±: one standard error over prompts, given these seeds and this SFT checkpoint."
FRESH = (
    f"The SFT model against fresh responses of its own must win half of the time; {ERRORS} Elsewhere than at 0.5, "
    "something other than the methods moves the win-rates."
)
SECONDS = f"Seconds, summed over trials; overhead (everything but {', '.join(WORK)}) as a share of the total."
GIVEN = (
    "A method's distribution depends on what was searched. Decades: factors of ten spanned by its logarithmic dimensions; "
    "KL reached: lowest and highest of a configuration, nats per response."
)
SETS = (
    "Medians over configurations (means over seeds, diverged and failed trials dropped); "
    "the row “SFT model” holds its own values."
)
DATA = (
    "Counted when the data were read; a dash: not counted. What is longer than its limit is cut: prompts lose their "
    "beginning, responses their end."
)
JUDGES = "Held-out accuracy counts only as far as it exceeds what “the longer response wins” gets right."


def _section(heading: str, words: str, *parts: object) -> str:
    paragraph = f"<p>{html(words)}</p>" if words else ""
    return "\n".join([f"<section>\n<h2>{html(heading)}</h2>", paragraph, *map(html, parts), "</section>"])


def _optional(heading: str, words: str, part: Safe | None) -> str:
    return _section(heading, words, part) if part else ""


def _header(record: SweepRecord) -> str:
    """What was run and how it ended, a caution where the sweep carries one, and the recorded facts."""
    counts = Counter(status(record, spec.key) for spec in record.plan)
    ended = ", ".join(f"{counts[name]} {name}" for name in STATUSES)
    seeds = len({spec.seed for spec in record.plan})
    words = (
        f"{', '.join(map(title, methods(record)))}: {len(record.plan)} trials with {seeds} seed{'s' * (seeds != 1)}, "
        f"of which {ended}. Primary metric: {record.primary_metric}, declared before the sweep ran."
    )
    others = f" {record.others} recorded trials are not in this plan and not shown." if record.others else ""
    note = f'<p class="note">{html(record.facts["note"])}</p>' if record.facts.get("note") else ""
    shown = {k: v for k, v in record.facts.items() if k != "note" and not k.startswith(ELSEWHERE)}
    listed = terms({name: fact(value) for name, value in shown.items()}) if shown else ""
    return f"<header>\n<h1>Sweep {html(record.name)}</h1>\n<p>{html(words + others)}</p>\n{note}\n{listed}\n</header>"


def _best_words(tables: Tables) -> str:
    """What the statistics of the summary mean; how `best` was found."""
    fitted = [best(tables, method)[1] for method in methods(tables.record)]
    found = (
        "best: cross-fitted, chosen on half of the prompts and scored on the other half"
        if fitted and all(fitted)
        else "best: the largest value, which flatters (no cross-fitting without every trial's responses to a win-rate)"
    )
    return (
        "Over configurations, each the mean of its finished seeds; diverged and failed trials are dropped from the "
        "statistics and counted beside them. IQM: mean of the middle half; 10th pct.: nine of ten do at least as well; "
        f"{found}; beat SFT: share of point estimates above ½. "
        "Win-rates are the judge's. The rows are in the order of the plan."
    )
