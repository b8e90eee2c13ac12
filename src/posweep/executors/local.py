"""Trials one after another in this process: the debugger's friend, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posweep.errors import PreflightError
from posweep.executors.base import ArtifactSummary, Event, Listener, Work, gpu_problem, gpus_here
from posweep.executors.cohorts import cohorts
from posweep.executors.nodes import Inspection, mark, visit
from posweep.folder import asked_to_stop
from posweep.mirror import driver_mirror
from posweep.settings import Configuration, ExecutorSettings


class LocalExecutor:
    """Runs in the calling process."""

    def __init__(self, settings: ExecutorSettings):
        self.settings = settings
        self._worker: Any = None

    def preflight(self) -> list[str]:
        """A GPU asked for must be here."""
        asked = {place: request.gpu for place, request in self.settings.requests.items() if request.gpu}
        gpus = gpus_here() if asked else 0
        return [problem for place, gpu in asked.items() for problem in gpu_problem(gpu, gpus, "this machine", place)]

    def open(self, configuration: Configuration, folder: Path, say: Callable[[str], None]) -> None:
        """The storage must be reached from here."""
        here = "this machine"
        if not self.settings.storage:
            return
        if problems := Inspection(configuration, folder).problems(lambda errand: {here: visit(errand, mark(here))}):
            raise PreflightError(problems)

    def close(self) -> None:
        """Nothing was taken."""

    def make_artifacts(self, work: Work, say: Callable[[str], None]) -> ArtifactSummary:
        """In this process, which runs the trials too."""
        from posweep.executors.artifacts import make_artifacts

        return make_artifacts(work, driver_mirror(work.configuration, work.folder), say)

    def run(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        """Run the trials in order."""
        from posweep.executors.worker import Worker

        if self._worker is None or self._worker.work is not work:
            self._worker = Worker(work)
        for cohort in cohorts(work, keys):
            if asked_to_stop(work.folder):
                return
            for key in cohort:
                listen(Event("started", key))
            for key, end in self._worker.run_all(cohort).items():
                listen(Event(end, key))
