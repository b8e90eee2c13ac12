"""One question of a reader per file, in the order a careful reviewer would ask them: the table `CHAPTERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from posweep.report.chapter import Chapter
from posweep.report.chapters import budget, certainty, cost, first, hyperparameters, paper
from posweep.report.tables import Tables

CHAPTERS: tuple[Callable[[Tables], Chapter | None], ...] = (
    paper.chapter,
    budget.chapter,
    certainty.chapter,
    hyperparameters.chapter,
    cost.chapter,
    first.chapter,
)
"""Each makes its chapter of a sweep, or nothing where there is nothing to say."""


def chapters(tables: Tables) -> Iterator[Chapter]:
    """Every chapter that has something to say, each made when it is asked for."""
    return (chapter for make in CHAPTERS if (chapter := make(tables)))
