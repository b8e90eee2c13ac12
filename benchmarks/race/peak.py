"""The most memory that each worker of a command took, as its operating system counted it."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil

EVERY = 1.0
"""Seconds between looks; the system keeps the high-water mark, so only what a worker takes at its very end is missed."""


class Watch:
    """Looks at the workers below a process while it runs: Ray's, while they train a trial."""

    def __init__(self, pid: int):
        self.root = psutil.Process(pid)
        self.peaks: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Note what each worker has taken so far, in megabytes."""
        try:
            below = self.root.children(recursive=True)
        except psutil.Error:
            return
        for process in below:
            try:
                if process.pid in self.peaks or is_worker(" ".join(process.cmdline())):
                    self.peaks[process.pid] = max(high_water(process), self.peaks.get(process.pid, 0.0))
            except (psutil.Error, OSError):
                continue  # it has ended


def is_worker(command: str) -> bool:
    """Whether a process is one of Ray's workers at a trial of Tune."""
    return command.startswith("ray::") and ".train" in command


def high_water(process: psutil.Process) -> float:
    """The most resident memory so far, MB; where the system does not say, what it is now."""
    status = Path(f"/proc/{process.pid}/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(process.memory_info().rss / 2**20)
