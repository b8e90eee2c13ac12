"""Trials one after another in this process: the debugger's friend, and the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from posweep.executors.base import Event, Listener, Work, gpu_problem, gpus_here
from posweep.settings import ExecutorSettings


class LocalExecutor:
    """Runs in the calling process."""

    def __init__(self, settings: ExecutorSettings):
        self.settings = settings

    def preflight(self) -> list[str]:
        """A GPU asked for must be here."""
        asked = self.settings.trial_resources.gpu
        return gpu_problem(asked, gpus_here(), "this machine") if asked else []

    def run(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        """Run the trials in order."""
        from posweep.executors.worker import Worker

        worker = Worker(work)
        for key in keys:
            listen(Event("started", key))
            listen(Event(worker.run(key), key))
