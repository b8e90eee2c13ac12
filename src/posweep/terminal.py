"""Consoles and tables that print text as it is: the door to rich, where whatever prints takes its console.

Names, paths and messages are never read as markup or emoji, so `exp[v1]` and `:smile:` stand as they are; a colour is
asked for by `rich.text.Text(…, style=…)`.
"""

from __future__ import annotations

from typing import NoReturn, TextIO

from rich.console import Console
from rich.table import Table

WIDE = 160
"""Columns where there is no terminal: enough for every table."""


class LiteralConsole(Console):
    """A console that prints text as it is, and leaves a closed pipe to whoever called."""

    def __init__(self, file: TextIO | None = None, width: int | None = None, soft_wrap: bool = True):
        super().__init__(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=soft_wrap)

    def on_broken_pipe(self) -> NoReturn:
        """Raise what rich would turn into the end of the process with exit code 1."""
        raise


def open_console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    console = LiteralConsole()
    return console if console.is_terminal else LiteralConsole(width=WIDE)


def table_of(*columns: str, numbers: int) -> Table:
    """A plain table whose last `numbers` columns are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i >= len(columns) - numbers else "left")
    return table
