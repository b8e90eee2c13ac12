"""What a chapter of the report is made of: a reader's question, words, tables and figures that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

Kind = Literal["text", "method", "count", "number", "percent", "p"]


@dataclass(frozen=True)
class Column:
    """How one column of a sheet is read.

    Attributes:
        heading: with its unit, as a reader sees it.
        kind: words, a method (title and colour), a whole number, a number, a share as a percentage, a p-value.
        digits: after the point, of a number.
        interval: the columns that hold the ends of its interval: `0.62 [0.58, 0.66]`.
        error: the column that holds its standard error: `0.62 ± 0.02`.
    """

    heading: str
    kind: Kind = "number"
    digits: int = 3
    interval: tuple[str, str] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sheet:
    """A table of a chapter: written as `tables/<name>.csv` (all of `data`) and `.tex`, and shown on the page.

    Attributes:
        name: of its files.
        heading: over it.
        caption: below it: what the numbers mean, and over what the intervals are.
        data: raw values under plain names; everything that a reader of the CSV should have.
        columns: what is shown, in order: a column of `data` → how it is read.
        limit: rows shown on the page; the files hold all.
    """

    name: str
    heading: str
    caption: str
    data: pd.DataFrame
    columns: Mapping[str, Column]
    limit: int = 60


@dataclass(frozen=True)
class Drawing:
    """A figure, the name of its files, its heading and caption, and the table it was drawn from."""

    name: str
    heading: str
    caption: str
    data: pd.DataFrame
    figure: Figure


@dataclass(frozen=True)
class Chapter:
    """One question of a reader and what the data answer.

    Attributes:
        name: the anchor on the page.
        question: the heading.
        words: sentences made from the numbers; none where the numbers carry none.
        sheets: tables.
        drawings: figures.
        silences: what cannot be said of this sweep and why, one sentence each.
        finding: the sentence for the summary at the top of the page; empty where nothing is significant.
    """

    name: str
    question: str
    words: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    silences: tuple[str, ...] = ()
    finding: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of a chapter; the fields are those of `Chapter`."""

    words: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    silences: tuple[str, ...] = ()
    finding: str = ""
