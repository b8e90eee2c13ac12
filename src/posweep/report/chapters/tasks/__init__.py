"""What only several sweeps can say: whether what holds on one task holds on another. One chapter per question."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from posweep.report.chapter import Chapter
from posweep.report.chapters.tasks.methods import methods
from posweep.report.chapters.tasks.order import kept_order
from posweep.report.chapters.tasks.sensitivity import sensitivity
from posweep.report.chapters.tasks.transfer import transferred
from posweep.report.comparison import Comparison

MAKERS: tuple[Callable[[Comparison], Chapter | None], ...] = (methods, kept_order, transferred, sensitivity)
"""Each makes its chapter of several sweeps, or nothing where there is nothing to say."""


def chapters_of(comparison: Comparison) -> Iterator[Chapter]:
    """Every chapter that has something to say, one after the other."""
    return (chapter for make in MAKERS if (chapter := make(comparison)))
