"""The top of the page: what came out, in words, and what was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from posweep.records import SweepRecord
from posweep.report.chapter import Chapter
from posweep.report.drawing.axes import number
from posweep.report.page.markup import Safe, Section, count, html, listed, paragraph, section, terms
from posweep.report.page.sections import DISTRIBUTIONS, metric_words
from posweep.report.tables import STATUSES, Tables, evaluation_sets, facts_of, status, title

ELSEWHERE = ("judge/", "set/", "data/")  # facts that tables of their own show
FIRST = ("model", "data", "judges", "decoding")
MANY = 8  # methods: more are counted, and named in the tables
SILENT = "No difference between methods is claimed: the chapters below show estimates with their intervals."


def header(record: SweepRecord) -> Safe:
    """The sweep's name, and a caution where it carries one."""
    note = paragraph(record.facts.get("note") or "", "note")
    return Safe(f"<header>\n<h1>Sweep {html(record.name)}</h1>\n{note}\n</header>")


def summary_section(tables: Tables, told: Sequence[Chapter]) -> Section:
    """What was run, in one sentence, and what each chapter found; nothing is claimed where nothing is significant."""
    found = [
        Safe(f'{html(chapter.finding)} <a href="#{html(chapter.name)}">How this is known</a>')
        for chapter in told
        if chapter.finding
    ]
    silent = SILENT if told and not found else ""
    return section("summary", "Summary", paragraph(_run_words(tables)), listed(found, "findings"), paragraph(silent))


def _run_words(tables: Tables) -> str:
    """Who was compared on what, and how the trials ended."""
    prompts = tables.prompts()
    seeds = len(tables.seeds)
    behind = f" ({prompts:,} prompts)" if prompts > 1 else ""
    return (
        f"{_methods(tables)}, {len(tables.record.plan):,} trials with {seeds} seed{'s' * (seeds != 1)}: {ended(tables)}. "
        f"Compared by {metric_words(tables.metric)} on {tables.place}{behind}."
    )


def _methods(tables: Tables) -> str:
    named = ", ".join(map(title, tables.methods))
    return named if len(tables.methods) <= MANY else f"{len(tables.methods)} methods"


def ended(tables: Tables) -> str:
    """How many trials ended how: `33 finished, 1 diverged, 1 failed, 1 missing`."""
    counts = Counter(status(tables.record, spec.key) for spec in tables.record.plan)
    return ", ".join(f"{counts[name]:,} {name}" for name in STATUSES)


def run_section(tables: Tables) -> Section:
    """Everything that a reader needs to run it again, as far as it is recorded."""
    record = tables.record
    shown: dict[str, Any] = {
        "methods": ", ".join(map(title, tables.methods)),
        "trials": f"{len(record.plan):,}: {ended(tables)}",
        "configurations": f"{len({(s.method, s.configuration) for s in record.plan}):,}, each method's grid below",
        "seeds": ", ".join(map(str, tables.seeds)),
        "primary metric": f"{tables.metric}, declared before the sweep ran",
        "evaluation sets": ", ".join(_set_words(record, place) for place in evaluation_sets(record)),
        **{name: record.facts[name] for name in FIRST if name in record.facts},
        "commit": record.facts.get("commit", "not recorded"),
        "time": _time(record),
        **_others(record),
    }
    searched = f"{count(tables.adaptive)} trials that a search placed where scores were high are left out"
    left_out = (f"{searched}, but for the peak it found.",) if tables.adaptive else ()
    others = (f"{count(record.others)} recorded trials are not in this plan and not shown.",) if record.others else ()
    known = {name: number(value) for name, value in shown.items() if value != ""}
    return section("run", "What was run", terms(known), *map(paragraph, (*left_out, *others)))


def _others(record: SweepRecord) -> dict[str, Any]:
    """Recorded facts that have no place of their own."""
    return {
        k: v for k, v in record.facts.items() if k not in ("note", "commit", *FIRST) and not k.startswith(ELSEWHERE)
    }


def _set_words(record: SweepRecord, place: str) -> str:
    """A set's name, whether its prompts are like those trained on, and how many there are."""
    found = str(facts_of(record, "set").get(place, {}).get("distribution", ""))
    rows = next(iter(record.responses.values()), ())
    prompts = len({row.index for row in rows if row.set == place})
    known = [DISTRIBUTIONS.get(found, found), f"{prompts:,} prompts" if prompts else ""]
    words = ", ".join(word for word in known if word)
    return f"{place} ({words})" if words else place


def _time(record: SweepRecord) -> str:
    """The trials' own time, summed; nothing where it is not recorded."""
    seconds = sum(r.seconds.get("total", sum(r.seconds.values())) for r in record.results.values())
    spent = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    return f"{spent}, summed over trials" if seconds else ""
