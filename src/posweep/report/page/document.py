"""report.html: one file that says what was run, what came out, and what every number is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from posweep.report.chapter import Chapter
from posweep.report.page.examples import examples_section
from posweep.report.page.explorer import explorer_section
from posweep.report.page.frame import frame
from posweep.report.page.judges import TERMS, agreement_table, agreement_words, judge_table
from posweep.report.page.markup import Safe, Section, folded, paragraph, part, section, terms
from posweep.report.page.overview import header, run_section, summary_section
from posweep.report.page.sections import (
    WORK,
    data_table,
    distribution_table,
    failures_table,
    fresh_table,
    per_set_table,
    seconds_table,
    trials_table,
)
from posweep.report.page.sheets import chapter_section
from posweep.report.tables import Tables, best, evaluation_sets, methods

AT_EASE = 8  # methods: the medians of more on every set are folded
LISTED = 2000  # trials shown as a table; all are in its CSV file


def page(
    tables: Tables,
    summary: Mapping[str, Any],
    told: Sequence[Chapter],
    pictures: Mapping[str, bytes],
    agreed: pd.DataFrame,
) -> str:
    """The whole document: chapters with their pictures (by name); `agreed` is what `judge_agreement` found."""
    sections = [one for one in _sections(tables, summary, told, pictures, agreed) if one.body]
    return frame(f"{tables.record.name} – posweep", header(tables.record), sections)


def _sections(
    tables: Tables,
    summary: Mapping[str, Any],
    told: Sequence[Chapter],
    pictures: Mapping[str, bytes],
    agreed: pd.DataFrame,
) -> Iterable[Section]:
    """In the order in which a careful reviewer asks."""
    record = tables.record
    yield summary_section(tables, told)
    yield run_section(tables)
    yield _methods_section(tables, summary)
    yield from (chapter_section(chapter, pictures) for chapter in told)
    yield explorer_section(tables)
    yield examples_section(tables)
    yield _judges_section(tables, agreed)
    yield _told("data", "The data", DATA, data_table(record))
    yield _told("time", "Where the time went", SECONDS, seconds_table(record))
    yield _told(
        "failures", "Trials that did not finish", "Diverged is a result; failed is not.", failures_table(record)
    )
    yield _trials_section(tables)


ERRORS = "±: one standard error over prompts, given these seeds and this SFT checkpoint."
FRESH = (
    f"The SFT model against fresh responses of its own must win half of the time; {ERRORS} Elsewhere than at 0.5, "
    "something other than the methods moves the win-rates."
)
SECONDS = f"Seconds, summed over trials; overhead (everything but {', '.join(WORK)}) as a share of the total."
SETS = (
    "Medians over configurations (means over seeds, diverged and failed trials dropped); "
    "the row “SFT model” holds its own values."
)
DATA = (
    "Counted when the data were read; a dash: not counted. What is longer than its limit is cut: prompts lose their "
    "beginning, responses their end."
)
JUDGES = "Held-out accuracy counts only as far as it exceeds what “the longer response wins” gets right."


def _told(anchor: str, heading: str, words: str, shown: Safe | None) -> Section:
    """A section of one table; empty where there is none."""
    return section(anchor, heading, *((paragraph(words), shown) if shown else ()))


def _methods_section(tables: Tables, summary: Mapping[str, Any]) -> Section:
    """What each method came to, and how it fares on every set."""
    record = tables.record
    fresh = (fresh_table(record), paragraph(FRESH, "faint")) if evaluation_sets(record) else ()
    parts = [
        part(f"Distribution of {tables.metric}", paragraph(_best_words(tables)), distribution_table(summary), *fresh),
    ]
    if evaluation_sets(record):
        medians = per_set_table(tables)
        shown = medians if len(tables.methods) <= AT_EASE else folded("All methods on all sets", medians)
        parts.append(part("On every evaluation set", paragraph(SETS), shown))
    return section("methods", "The methods", *parts)


def _judges_section(tables: Tables, agreed: pd.DataFrame) -> Section:
    """What is known of the judges, and how far they agree."""
    known, found = judge_table(tables.record), agreement_table(agreed)
    words = paragraph(JUDGES if known and "held out accuracy" in known else "")
    agreeing = found and part("How far the judges agree", paragraph(agreement_words(agreed)), found, terms(TERMS))
    return section("judges", "The judges", words if known else "", known or "", agreeing or "")


def _trials_section(tables: Tables) -> Section:
    """Every trial with its run, folded; a plan of many thousands is cut and the file with all is named."""
    shown, planned = trials_table(tables, limit=LISTED), len(tables.record.plan)
    if shown is None:
        return section("trials", "All trials")
    rest = f" The first {LISTED:,} are shown; all {planned:,} are in tables/trials.csv." if planned > LISTED else ""
    words = f"{ERRORS} “missing”: no result is recorded.{rest}"
    return section("trials", "All trials", paragraph(words), folded(f"{min(planned, LISTED):,} trials", shown))


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
