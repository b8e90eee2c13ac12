"""What has come of a trial so far, over all the pieces it was run in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posweep.trial.measure import Measured


class Stopwatch:
    """Seconds by stage; of stages inside one another only the innermost runs.

    `trials` that share all that is done share the time, too: each is given an equal part.
    """

    def __init__(self, trials: int = 1) -> None:
        self.seconds: dict[str, float] = {}
        self.trials = trials
        self._whole = 0.0
        self._lapped = time.perf_counter()
        self._running: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to a stage."""
        self._lap()
        self._running.append(name)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def total(self) -> dict[str, float]:
        """All stages and the whole of a trial, up to now."""
        self._lap()
        return {**self.seconds, "total": self._whole}

    def _lap(self) -> None:
        """Give the time since the last lap to the stage that runs."""
        now = time.perf_counter()
        spent = (now - self._lapped) / self.trials
        self._whole += spent
        if self._running:
            self.seconds[self._running[-1]] = self.seconds.get(self._running[-1], 0.0) + spent
        self._lapped = now


@dataclass
class Course:
    """Time spent, measures taken along training, notes, and how much is done at once.

    Attributes:
        along: share of training → measures, before its end.
        final: what was measured at its end.
        micro_batch_size: pairs whose gradient is taken at once.
        before: what `seconds` said in the processes before this one.
    """

    clock: Stopwatch = field(default_factory=Stopwatch)
    along: dict[float, Mapping[str, float]] = field(default_factory=dict)
    final: Measured | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    micro_batch_size: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)

    def seconds(self) -> dict[str, float]:
        """By stage and in total, over all pieces."""
        here = self.clock.total()
        return {name: self.before.get(name, 0.0) + here.get(name, 0.0) for name in {**self.before, **here}}

    def about(self, score_key: str) -> dict[str, Any]:
        """What a checkpoint says of the trial besides its state."""
        return {
            "score_key": score_key, "along": self.along, "notes": self.notes, "seconds": self.seconds(),
            "started_at": self.started_at, "micro_batch_size": self.micro_batch_size,
        }  # fmt: skip

    def go_on(self, about: Mapping[str, Any], along: Mapping[float, Mapping[str, float]], step: int) -> None:
        """Take over what a checkpoint says."""
        self.before, self.started_at = about["seconds"], about["started_at"]
        self.along, self.micro_batch_size = dict(along), about["micro_batch_size"]
        self.notes = {**about["notes"], "resumed_at": step}

    def begin_again(self, micro_batch_size: int) -> None:
        """With fewer pairs at once, so that nothing of what was trained and measured counts; the time was spent."""
        self.along, self.final, self.micro_batch_size = {}, None, micro_batch_size
        self.notes = {"micro_batch_size": micro_batch_size}
