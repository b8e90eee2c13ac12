"""Chapters on the page: words, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from posweep.report.cells import cells
from posweep.report.chapter import Chapter, Drawing, Sheet
from posweep.report.drawing.style import WIDTH
from posweep.report.page.markup import (
    Safe,
    Section,
    folded,
    html,
    listed,
    named,
    paragraph,
    part,
    picture,
    section,
    table,
)

FOLDED_FROM = 30  # rows
SORTABLE_FROM = 6


def chapter_section(chapter: Chapter, pictures: Mapping[str, bytes]) -> Section:
    """A chapter as a section: its words, its tables and figures, and what it cannot say.

    Args:
        pictures: images by the name of the drawing.
    """
    drawn = (figure(one, pictures[one.name]) for one in chapter.drawings)
    silences = listed(chapter.silences, "silences")
    return section(
        chapter.name,
        chapter.question,
        *map(paragraph, chapter.words),
        *map(sheet_table, chapter.sheets),
        *drawn,
        silences,
    )


def sheet_table(sheet: Sheet) -> Safe:
    """A sheet with its heading and caption; long ones are folded, longer ones cut, and say where the rest is."""
    columns = list(sheet.columns.values())
    text = next((i for i, column in enumerate(columns) if column.kind not in ("text", "method")), len(columns))
    rows = _rows(sheet)
    more = len(sheet.data) - len(rows)
    headings = [column.heading for column in columns]
    shown = table(headings, rows, text=text, wrap=True, sortable=len(rows) >= SORTABLE_FROM)
    if len(rows) >= FOLDED_FROM:
        shown = folded(f"{len(rows)} rows", shown)
    rest = f" {more} more rows are in tables/{sheet.name}.csv." if more > 0 else ""
    caption = paragraph(sheet.caption + rest, "faint")
    return Safe(f'<div class="sheet" id="{escape(sheet.name)}">{part(sheet.heading, shown, caption)}</div>')


def _rows(sheet: Sheet) -> list[list[object]]:
    """The cells of the rows that are shown, methods with their colours."""
    rows: list[list[object]] = []
    for row, shown in zip(sheet.data.to_dict("records"), cells(sheet)[: sheet.limit], strict=False):
        pairs = zip(sheet.columns.items(), shown, strict=True)
        rows.append([named(str(row[n]), s) if c.kind == "method" and s else s for (n, c), s in pairs])
    return rows


def figure(drawing: Drawing, image: bytes) -> Safe:
    """A drawing with its heading and caption."""
    narrow = drawing.figure.get_figwidth() < WIDTH
    shown = picture(image, f"{drawing.heading}. {drawing.caption}", narrow)
    return Safe(
        f'<figure id="{escape(drawing.name)}">\n<h3>{html(drawing.heading)}</h3>\n'
        f'<div class="scroll">{shown}</div>\n<figcaption>{html(drawing.caption)}</figcaption>\n</figure>'
    )
