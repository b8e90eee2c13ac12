"""Chapters on the page: words, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from posweep.report.cells import cells
from posweep.report.chapter import Chapter, Drawing, Sheet
from posweep.report.drawing.style import WIDTH
from posweep.report.page.markup import Safe, html, named, picture, table


def chapter_section(chapter: Chapter, pictures: Mapping[str, bytes]) -> Safe:
    """A chapter as a section: its question, its words, its tables and figures, and what it cannot say.

    Args:
        pictures: SVG by the name of the drawing.
    """
    words = "".join(f"<p>{html(sentence)}</p>" for sentence in chapter.words)
    parts = [*map(sheet_table, chapter.sheets), *(figure(one, pictures[one.name]) for one in chapter.drawings)]
    silent = "".join(f"<li>{html(sentence)}</li>" for sentence in chapter.silences)
    silences = f'<ul class="silences">{silent}</ul>' if silent else ""
    head = f'<section id="{escape(chapter.name)}">\n<h2>{html(chapter.question)}</h2>'
    return Safe("\n".join([head, words, *parts, silences, "</section>"]))


def sheet_table(sheet: Sheet) -> Safe:
    """A sheet with its heading and caption; long ones are cut, and say where the rest is."""
    columns = list(sheet.columns.values())
    text = next((i for i, column in enumerate(columns) if column.kind not in ("text", "method")), len(columns))
    raw = sheet.data.to_dict("records")
    rows: list[list[object]] = []
    for row, shown in zip(raw, cells(sheet)[: sheet.limit], strict=False):
        pairs = zip(sheet.columns.items(), shown, strict=True)
        rows.append([named(str(row[n]), s) if c.kind == "method" and s else s for (n, c), s in pairs])
    more = len(raw) - sheet.limit
    rest = f" {more} more rows are in tables/{sheet.name}.csv." if more > 0 else ""
    headings = [column.heading for column in columns]
    shown_table = table(headings, rows, text=text, wrap=True)
    caption = f'<p class="faint">{html(sheet.caption + rest)}</p>'
    return Safe(
        f'<div class="sheet" id="{escape(sheet.name)}"><h3>{html(sheet.heading)}</h3>{shown_table}{caption}</div>'
    )


def figure(drawing: Drawing, svg: bytes) -> Safe:
    """A drawing with its heading and caption."""
    narrow = drawing.figure.get_figwidth() < WIDTH
    image = picture(svg, f"{drawing.heading}. {drawing.caption}", narrow)
    return Safe(
        f'<figure id="{escape(drawing.name)}">\n<h3>{html(drawing.heading)}</h3>\n<div class="scroll">{image}</div>\n'
        f"<figcaption>{html(drawing.caption)}</figcaption>\n</figure>"
    )
