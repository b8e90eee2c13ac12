"""How a sweep ends before its time: asked by Ctrl-C, SIGTERM or its own failures; trials write a checkpoint and give up.

The request is a file in the sweep's folder, so that it reaches every executor and machine alike.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from posweep.folder import STOP
from posweep.mirror import NoMirror
from posweep.settings import ExecutorSettings

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 20.0
"""Seconds after a signal that trials have to write a checkpoint."""
LAST = 8.0
"""Seconds after those that are left to tell the tracker; Slurm and Kubernetes kill after 30."""


class Stop:
    """The request to stop one launch.

    Args:
        mirror: tells workers elsewhere.

    Attributes:
        reason: why; empty while nobody asked.
        by_signal: whether it was Ctrl-C or SIGTERM.
    """

    def __init__(self, mirror: NoMirror):
        self.mirror, self.file = mirror, mirror.folder / STOP
        self.reason, self.by_signal = "", False
        self._asked, self._over = threading.Event(), threading.Event()

    @contextmanager
    def watched(self, say: Callable[[str], None], running: Callable[[], int]) -> Iterator[None]:
        """While trials run: the first signal asks them to stop, the second interrupts at once."""

        def on_signal(*_: object) -> None:
            if self.reason:
                raise KeyboardInterrupt
            self.by_signal = True
            self.ask("interrupted")

        self._retract()
        # in a thread of its own: a signal may arrive in the middle of a line that is being written
        threading.Thread(target=self._wind_down, args=(say, running), name="posweep-stop", daemon=True).start()
        try:
            with on_signals(on_signal):
                yield
        finally:
            self._asked.set()
            self._retract()

    def ask(self, reason: str) -> None:
        """Ask, once."""
        if not self.reason:
            self.reason = reason
            with suppress(OSError):  # a disk that is full or read-only may be the reason
                self.file.touch()
            self._asked.set()

    def wait(self, seconds: float) -> None:
        """Let time pass, unless somebody asks."""
        self._asked.wait(seconds)

    def close(self) -> None:
        """The launch has ended: nothing is left to interrupt."""
        self._over.set()

    def _retract(self) -> None:
        """Nobody is asked any more, by this driver or one that was killed."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
        with suppress(Exception):  # a storage that is away holds no request that could be read
            self.mirror.go_on()

    def _wind_down(self, say: Callable[[str], None], running: Callable[[], int]) -> None:
        """Pass the request on and say so; after a signal, interrupt what takes too long."""
        self._asked.wait()
        if not self.reason:
            return
        trials = running()
        writing = f"; {trials} running trial{'s write' if trials > 1 else ' writes'} a checkpoint" if trials else ""
        say(f"stopping: {self.reason}{writing}; Ctrl-C again stops at once")
        with suppress(Exception):
            self.mirror.ask_to_stop()
        for seconds in (GRACE, LAST) if self.by_signal else ():
            if self._over.wait(seconds):
                return
            os.kill(os.getpid(), signal.SIGTERM)


class StopRule:
    """When failures say that the next trial will fail too.

    Trials whose worker was lost are no failures, unless nothing else happens any more.
    """

    def __init__(self, settings: ExecutorSettings):
        self.settings = settings
        self.ended = self.failed = self.in_a_row = self.lost = 0

    @property
    def most_lost(self) -> int:
        """As many as `stop_after_failures` trials lose, each as often as `retries` allows."""
        return self.settings.stop_after_failures * (self.settings.retries + 1)

    def count(self, kind: str) -> str:
        """Take a trial's end; the reason to stop, empty while there is none."""
        if kind == "lost":
            self.lost += 1
            return f"{self.lost} times in a row a worker was lost" if self.lost >= self.most_lost else ""
        if kind not in ("finished", "diverged", "failed"):
            return ""
        self.lost = 0
        self.ended += 1
        self.failed += kind == "failed"
        self.in_a_row = self.in_a_row + 1 if kind == "failed" else 0
        limit, share = self.settings.stop_after_failures, self.settings.stop_at_failed_share
        if self.in_a_row >= limit:
            return f"{self.in_a_row} trials failed in a row (executor.stop_after_failures={limit})"
        if self.ended >= AT_LEAST and self.failed > share * self.ended:
            return f"{self.failed} of {self.ended} trials failed (executor.stop_at_failed_share={share:g})"
        return ""


AT_LEAST = 10
"""Trials that must have ended before their share of failures says anything."""


@contextmanager
def on_signals(handler: Callable[..., None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to a handler, in the main thread; where Ctrl-C is ignored (background jobs), it stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN or number is signal.SIGTERM]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
