"""The page around its sections: one HTML file without a single address to load from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from posweep.report.page.markup import Safe, Section, html

PAGE = files("posweep.report.page")
# Nothing but what the file itself holds may be loaded; drawing many points with WebGL needs 'unsafe-eval'.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"


def frame(title: str, header: Safe, sections: Sequence[Section]) -> str:
    """The whole document: a table of contents beside or above the sections.

    Args:
        title: of the browser's tab, as text.
        header: the first heading and what belongs to it.
        sections: in order.
    """
    entries = "".join(f'<li><a href="#{escape(one.anchor)}">{html(one.heading)}</a></li>' for one in sections)
    body = "\n".join(map(_section, sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{source("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<nav aria-label="Contents"><details open>
<summary>Contents</summary>
<ol>{entries}</ol>
</details></nav>
<main id="content">
{header}
{body}
</main>
<script>
{source("page.js")}</script>
</body>
</html>
"""


def source(name: str) -> str:
    """A style sheet or script of ours."""
    return PAGE.joinpath(name).read_text(encoding="utf-8")


def _section(one: Section) -> str:
    """A section whose heading links to itself, so that its address can be copied."""
    anchor = escape(one.anchor)
    heading = f'<h2><a href="#{anchor}">{html(one.heading)}</a></h2>'
    return f'<section id="{anchor}">\n{heading}\n{one.body}\n</section>'
