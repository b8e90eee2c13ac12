"""What a win costs in KL and length, whether sampling alone would do as well, and who wins head to head."""

from __future__ import annotations

from posweep.report.chapter import Chapter
from posweep.report.chapters.cost.best_of_n import sampled
from posweep.report.chapters.cost.frontier import spent
from posweep.report.chapters.cost.head_to_head import compared
from posweep.report.chapters.cost.length import controlled
from posweep.report.chapters.cost.sweep import Sweep
from posweep.report.tables import Tables, evaluation_sets

QUESTION = "What does it cost in KL and length?"


def chapter(tables: Tables) -> Chapter | None:
    """Frontiers, length control, best-of-n and head-to-head on the primary metric's set; nothing before any measure."""
    if not evaluation_sets(tables.record):
        return None
    sweep = Sweep.of(tables)
    if sweep is None:
        return Chapter("cost", QUESTION, silences=("No trial has finished with a win-rate to be paid for.",))
    parts = [part(sweep) for part in (spent, controlled, sampled, compared)]
    return Chapter(
        "cost",
        QUESTION,
        words=tuple(sentence for part in parts for sentence in part.words),
        sheets=tuple(sheet for part in parts for sheet in part.sheets),
        drawings=tuple(drawing for part in parts for drawing in part.drawings),
        silences=tuple(silence for part in parts for silence in part.silences),
        finding=" ".join(part.finding for part in parts if part.finding),
    )
