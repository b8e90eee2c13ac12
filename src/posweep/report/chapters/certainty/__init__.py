"""How sure are we? What could turn the result round: luck of seeds and prompts, failures, what each method was given."""

from __future__ import annotations

from posweep.report.chapter import Chapter
from posweep.report.chapters.certainty.failures import failures
from posweep.report.chapters.certainty.fairness import fairness
from posweep.report.chapters.certainty.improvement import improvement
from posweep.report.chapters.certainty.order import order
from posweep.report.chapters.certainty.tuned import tuned
from posweep.report.chapters.certainty.variance import variance
from posweep.report.tables import Tables


def chapter(tables: Tables) -> Chapter | None:
    """Every part that the sweep carries; nothing without trials."""
    if not tables.methods:
        return None
    parts = [make(tables) for make in (improvement, order, variance, failures, fairness, tuned)]
    return Chapter(
        "certainty",
        "How sure are we?",
        words=tuple(words for part in parts for words in part.words),
        sheets=tuple(sheet for part in parts for sheet in part.sheets),
        drawings=tuple(drawing for part in parts for drawing in part.drawings),
        silences=tuple(silence for part in parts for silence in part.silences),
        finding=" ".join(part.finding for part in parts if part.finding),
    )
