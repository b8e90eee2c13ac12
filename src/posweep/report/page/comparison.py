"""The page of several sweeps: what is compared, what holds on all of them, and where each sweep's own page is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from posweep.report.chapter import Chapter
from posweep.report.comparison import Comparison
from posweep.report.page.frame import frame
from posweep.report.page.markup import Safe, Section, html, listed, paragraph, section, table
from posweep.report.page.overview import ended
from posweep.report.page.sheets import chapter_section
from posweep.report.tables import Tables, title

FACTS = ("model", "data", "judges", "commit")
SILENT = "No difference between methods or sweeps is claimed: the chapters below show estimates with their intervals."
MANY = 8  # methods: more are counted


def comparison_page(
    comparison: Comparison, told: Sequence[Chapter], pictures: Mapping[str, bytes], pages: Mapping[str, str]
) -> str:
    """The whole document.

    Args:
        comparison: the sweeps.
        told: the chapters.
        pictures: SVG by the name of the drawing.
        pages: sweep → address of its own page, from where this one lies.
    """
    name = " and ".join(comparison.names)
    found = [
        Safe(f'{html(chapter.finding)} <a href="#{html(chapter.name)}">How this is known</a>')
        for chapter in told
        if chapter.finding
    ]
    summary = section("summary", "Summary", listed(found, "findings"), "" if found else paragraph(SILENT))
    sections = [summary, sweeps_section(comparison, pages), *(chapter_section(chapter, pictures) for chapter in told)]
    header = Safe(f"<header>\n<h1>Sweeps {html(name)}</h1>\n{_notes(comparison)}\n</header>")
    return frame(f"{name} – posweep", header, [one for one in sections if one.body])


def sweeps_section(comparison: Comparison, pages: Mapping[str, str]) -> Section:
    """A row per sweep: what it is about, how it ended, where its own page is."""
    known = [fact for fact in FACTS if any(fact in tables.record.facts for tables in comparison.tables)]
    headers = ("sweep", "primary metric", "methods", "trials", "seeds", "prompts", *known)
    rows = [_row(tables, pages, known) for tables in comparison.tables]
    words = "Each sweep's own page says the rest. Trials that a search placed where scores were high are left out."
    return section("sweeps", "What is compared", paragraph(words), table(headers, rows, text=len(headers), wrap=True))


def _row(tables: Tables, pages: Mapping[str, str], known: Sequence[str]) -> list[object]:
    name, counted = tables.record.name, len(tables.methods)
    own = Safe(f'<a href="{escape(pages[name])}">{html(name)}</a>') if name in pages else html(name)
    methods = ", ".join(map(title, tables.methods)) if counted <= MANY else f"{counted} methods"
    prompts = str(tables.prompts()) if tables.prompts() > 1 else "not recorded"
    seeds = ", ".join(map(str, tables.seeds))
    trials = f"{len(tables.record.plan):,}: {ended(tables)}"
    facts = [tables.record.facts.get(fact) for fact in known]
    return [own, tables.metric, methods, trials, seeds, prompts, *facts]


def _notes(comparison: Comparison) -> Safe:
    """Cautions that sweeps carry, each once."""
    notes = dict.fromkeys(str(tables.record.facts.get("note") or "") for tables in comparison.tables)
    return Safe("\n".join(paragraph(note, "note") for note in notes if note))
