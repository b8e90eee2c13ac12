"""The little HTML a report needs: escaped cells, tables that scroll on a narrow screen, numbers with the right digits."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import urlsplit

from posweep.report.drawing.style import look

MISSING = "–"


class Safe(str):
    """Text that is HTML already; everything else is escaped."""


def html(value: object) -> str:
    """A value as HTML: escaped unless it is `Safe`."""
    return value if isinstance(value, Safe) else escape(str(value))


def table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1, own: int = 0, wrap: bool = False
) -> Safe:
    """A table inside a box that scrolls sideways.

    Args:
        headers: one per column.
        rows: cells, escaped unless `Safe`; None is shown as a dash.
        text: how many leading columns are words, aligned left; the others are numbers.
        own: how many rows at the end are set off by a background.
        wrap: whether long headers are broken into lines.
    """
    listed = list(rows)
    head = "".join(f"<th{_kind(i < text)}>{html(name)}</th>" for i, name in enumerate(headers))
    body = "\n".join(
        f"<tr{' class=own' if place >= len(listed) - own else ''}>{_cells(row, text)}</tr>"
        for place, row in enumerate(listed)
    )
    kind = " class=wrap" if wrap else ""
    return Safe(
        f'<div class="scroll"><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _cells(row: Sequence[object], text: int) -> str:
    return "".join(f"<td{_kind(i < text)}>{MISSING if cell is None else html(cell)}</td>" for i, cell in enumerate(row))


def _kind(words: bool) -> str:
    return ' class="text"' if words else ""


def named(method: str, title: str) -> Safe:
    """A method's title behind a spot of its colour."""
    spot = f'<span class="swatch" style="background:{look(method).colour}"></span>'
    return Safe(f'<span class="named">{spot}{escape(title)}</span>')


def terms(meanings: Mapping[str, str]) -> Safe:
    """Words beside what they mean."""
    return Safe(
        f"<dl>{''.join(f'<dt>{html(term)}</dt><dd>{html(words)}</dd>' for term, words in meanings.items())}</dl>"
    )


def link(text: str, url: str | None) -> Safe:
    """A link where the address is one a browser may safely follow, else the text."""
    if url and urlsplit(url).scheme in ("http", "https", "file"):
        return Safe(f'<a href="{escape(url)}">{escape(text)}</a>')
    return Safe(escape(text))


def picture(svg: bytes, description: str, narrow: bool = False) -> Safe:
    """An SVG as part of the page; as an image, so that the ids inside one figure cannot meet those of another."""
    data = base64.b64encode(svg).decode("ascii")
    kind = ' class="narrow"' if narrow else ""
    return Safe(f'<img{kind} alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">')


def decimals(value: object, digits: int = 3) -> str | None:
    """A number with so many digits after the point; None for what is missing or not finite."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:z.{digits}f}".replace("-", "−") if known else None


def with_error(value: object, error: object, digits: int = 3) -> str | None:
    """A number and its standard error: 0.503 ± 0.011."""
    shown, spread = decimals(value, digits), decimals(error, digits)
    return f"{shown} ± {spread}" if shown and spread else shown


def count(value: object) -> str:
    """A whole number with its thousands apart; anything else as a fact."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return f"{value:,.0f}" if whole else fact(value)


def fact(value: object) -> str:
    """A fact as recorded: whole numbers and texts as they are, others with three digits."""
    return (decimals(value) or str(value)) if isinstance(value, float) else str(value)
