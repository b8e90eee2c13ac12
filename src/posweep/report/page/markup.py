"""The little HTML a report needs: escaped cells, tables that scroll on a narrow screen, numbers with the right digits."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import urlsplit

from posweep.report.drawing.axes import number
from posweep.report.drawing.style import look

MISSING = "–"


class Safe(str):
    """Text that is HTML already; everything else is escaped."""


def html(value: object) -> str:
    """A value as HTML: escaped unless it is `Safe`."""
    return value if isinstance(value, Safe) else escape(str(value))


@dataclass(frozen=True)
class Section:
    """One part of the page: its anchor, its heading, and what stands below that."""

    anchor: str
    heading: str
    body: Safe


def section(anchor: str, heading: str, *parts: object) -> Section:
    """A section of parts, escaped unless `Safe`; what is empty is left out."""
    return Section(anchor, heading, Safe("\n".join(html(part) for part in parts if part)))


def paragraph(words: object, kind: str = "") -> Safe:
    """A paragraph; nothing where there are no words."""
    named = f' class="{kind}"' if kind else ""
    return Safe(f"<p{named}>{html(words)}</p>" if words else "")


def part(heading: str, *parts: object, anchor: str = "") -> Safe:
    """A smaller heading and what stands below it."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return Safe(f"<h3{place}>{html(heading)}</h3>\n" + "\n".join(html(one) for one in parts if one))


def listed(sentences: Iterable[object], kind: str = "") -> Safe:
    """Sentences one below the other; nothing where there are none."""
    items = "".join(f"<li>{html(sentence)}</li>" for sentence in sentences)
    named = f' class="{kind}"' if kind else ""
    return Safe(f"<ul{named}>{items}</ul>" if items else "")


def folded(label: object, body: object, unfolded: bool = False) -> Safe:
    """Something long behind a line to click; printed in full."""
    return Safe(f"<details{' open' * unfolded}>\n<summary>{html(label)}</summary>\n{html(body)}\n</details>")


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    text: int = 1,
    own: int = 0,
    wrap: bool = False,
    sortable: bool = False,
) -> Safe:
    """A table inside a box that scrolls sideways.

    Args:
        headers: one per column.
        rows: cells, escaped unless `Safe`; None is shown as a dash.
        text: how many leading columns are words, aligned left; the others are numbers.
        own: how many rows at the end are set off by a background.
        wrap: whether long headers are broken into lines.
        sortable: whether a reader may sort and filter it, where scripts run.
    """
    rows = list(rows)
    head = "".join(f'<th scope="col"{_kind(i < text)}>{html(name)}</th>' for i, name in enumerate(headers))
    body = "\n".join(
        f"<tr{' class=own' if place >= len(rows) - own else ''}>{_cells(row, text)}</tr>"
        for place, row in enumerate(rows)
    )
    kind = " ".join(["wrap"] * wrap + ["sortable"] * sortable)
    named = f' class="{kind}"' if kind else ""
    return Safe(
        f'<div class="scroll"><table{named}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
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
    return Safe(f'<a href="{escape(safe_url(url))}">{escape(text)}</a>' if safe_url(url) else escape(text))


def safe_url(url: str | None) -> str:
    """An address that a browser may safely follow, or nothing."""
    return url if url and urlsplit(url).scheme in ("http", "https", "file") else ""


def picture(image: bytes, description: str, narrow: bool = False) -> Safe:
    """An SVG or WebP as part of the page; as an image, so that the ids inside one figure cannot meet those of another."""
    data = base64.b64encode(image).decode("ascii")
    form = "webp" if image.startswith(b"RIFF") else "svg+xml"
    kind = ' class="narrow"' if narrow else ""
    return Safe(f'<img{kind} alt="{escape(description)}" src="data:image/{form};base64,{data}">')


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
    """A fact as recorded: texts and whole numbers as they are, small numbers as 3e-4, others with three digits."""
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    return str(decimals(value)) if 0.01 <= abs(value) < 1e6 else number(value)
