"""What a user sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import heapq
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from posweep.executors.base import Event
from posweep.objectives import OBJECTIVES
from posweep.records import TrialResult, TrialSpec
from posweep.terminal import LiteralConsole

LINE_EVERY = 5.0
"""Seconds between plain lines."""
LEADING = 3
"""Methods whose best score a plain line names."""
BECOMES = {"started": "running", "stopped": "left", "lost": "left"}
"""What a trial is after an event of another name."""
FRAME = 6
"""Lines of the live display that are not methods."""


class Progress:
    """Counts trials per method, estimates the time left, keeps the best score so far."""

    def __init__(
        self, plan: Sequence[TrialSpec], done: Mapping[str, TrialResult], metric: str, out: TextIO | None = None
    ):
        self.specs = {spec.key: spec for spec in plan}
        self.metric, self.out = metric, out or sys.stdout
        self.status: dict[str, str] = {}
        self.best: dict[str, float] = {}
        self._running: dict[str, None] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        for result in done.values():
            self._becomes(result.key, result.status)
            self.score(result)
        self.before = len(done)
        self.began = time.monotonic()
        self.phase = ""
        self._console = LiteralConsole(self.out, soft_wrap=False)  # a live table has to know its lines
        self._live: Live | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.__exit__(kind, error, at)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, soft_wrap=True)

    def start(self, phase: str) -> None:
        """Trials begin now; the estimate counts from here."""
        self.phase, self.began = phase, time.monotonic()

    def extend(self, trials: Sequence[TrialSpec], done: Mapping[str, TrialResult]) -> None:
        """A search has added trials, of which some may be done."""
        new = [spec for spec in trials if spec.key not in self.specs]
        self.specs |= {spec.key: spec for spec in new}
        for result in (done[spec.key] for spec in new if spec.key in done):
            self._becomes(result.key, result.status)
            self.score(result)
            self.before += 1

    def event(self, event: Event, result: TrialResult | None = None) -> None:
        """Take note of what became of a trial."""
        self._becomes(event.key, BECOMES.get(event.kind, event.kind))
        if result:
            self.score(result)
        if not self._live and event.kind != "started":
            self._line()

    def _becomes(self, key: str, status: str) -> None:
        """Counts by method are kept, not made: a plan may have ten thousand trials."""
        counts = self._counts[self.specs[key].method]
        counts[self.status.get(key, "left")] -= 1
        counts[status] += 1
        self.status[key] = status
        if status == "running":
            self._running[key] = None
        else:
            self._running.pop(key, None)

    def score(self, result: TrialResult) -> None:
        """Keep the best value of the primary metric per method."""
        value, spec = result.measures.get(self.metric), self.specs.get(result.key)
        if value is not None and spec is not None:
            self.best[spec.method] = max(value, self.best.get(spec.method, value))

    def running(self) -> list[str]:
        """Keys of the trials that run."""
        return list(self._running)

    def counts(self) -> Counter[str]:
        """Trials by what became of them."""
        return sum(self._counts.values(), Counter())

    def time_left(self) -> str:
        """From the pace since the first trial of this launch; empty until one is done."""
        counts = self.counts()
        ended = counts["finished"] + counts["diverged"] + counts["failed"] - self.before
        left = len(self.specs) - ended - self.before
        if ended < 1:
            return "–"
        seconds = (time.monotonic() - self.began) / ended * left
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self) -> None:
        counts, now = self.counts(), time.monotonic()
        ended = counts["finished"] + counts["diverged"] + counts["failed"]
        if now - self._last_line < LINE_EVERY and ended < len(self.specs):
            return
        self._last_line = now
        leading = (
            self.best if len(self.best) <= LEADING else heapq.nlargest(LEADING, self.best, key=self.best.__getitem__)
        )
        best = ", ".join(f"{OBJECTIVES[method].title} {self.best[method]:.3f}" for method in leading)
        self.say(
            f"{ended}/{len(self.specs)} done · {counts['running']} running · {counts['failed']} failed · "
            f"{counts['diverged']} diverged · {self.time_left()} left · best {self.metric}: {best or '–'}"
        )

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name in ("method", "done", "running", "failed", "diverged", f"best {self.metric}"):
            table.add_column(name, justify="left" if name == "method" else "right")
        trials = Counter(spec.method for spec in self.specs.values())
        methods = list(trials)
        shown = self._window(methods, self._console.size.height - FRAME)
        for method in shown:
            mine = self._counts[method]
            done, best = mine["finished"] + mine["diverged"], self.best.get(method)
            table.add_row(
                OBJECTIVES[method].title, f"{done}/{trials[method]}", str(mine["running"]), str(mine["failed"]),
                str(mine["diverged"]), "–" if best is None else f"{best:.3f}",
            )  # fmt: skip
        if len(shown) < len(methods):
            table.add_row(Text(f"… {len(shown)} of {len(methods)} methods shown", style="dim"))
        counts = self.counts()
        ended = counts["finished"] + counts["diverged"] + counts["failed"]
        foot = Table.grid(padding=(0, 1))
        foot.add_row(
            ProgressBar(len(self.specs), ended, width=40), Text(f"{ended}/{len(self.specs)} · {self.time_left()} left")
        )
        waiting = ended == self.before and not counts["running"]
        return Group(Text(f"{self.phase} · starting workers …" if waiting else self.phase), table, foot)

    def _window(self, methods: Sequence[str], room: int) -> Sequence[str]:
        """As many methods as there is room for, from a little before the first that is not done."""
        room = max(room, LEADING)
        if len(methods) <= room:
            return methods
        left = [self.specs[key].method for key in self.specs if self.status.get(key) in (None, "left", "running")]
        first = methods.index(left[0]) if left else 0
        start = min(max(0, first - 2), len(methods) - room)
        return methods[start : start + room]
