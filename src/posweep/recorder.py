"""From the ledger to the tracker, in a thread of its own: no trial waits for a server, and none fails with it."""

from __future__ import annotations

import queue
import threading

from posweep.errors import first_line
from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.records import SweepHeader
from posweep.trackers import Tracker

FLUSH = 60.0
"""Seconds the last results may take to reach the tracker."""


class Recorder:
    """Sends finished trials to the tracker from a thread of its own: no trial waits for a server."""

    def __init__(self, tracker: Tracker, ledger: Ledger, plan: Plan):
        self.tracker, self.ledger = tracker, ledger
        self.specs = {spec.key: spec for spec in plan}
        self.last_error = ""
        self._keys: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="posweep-recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._keys.put(None)
        self._thread.join(FLUSH)
        if self._thread.is_alive():
            self.last_error = f"it did not take the last results within {FLUSH:.0f} s"

    def send(self, key: str) -> None:
        """Record a trial that the ledger holds."""
        self._keys.put(key)

    def extend(self, plan: Plan) -> None:
        """Record the plan again, with the trials that a search has added."""
        self.specs.update((spec.key, spec) for spec in plan)
        try:
            self.tracker.open(plan.name, plan.trials)
        except Exception as error:
            self.last_error = first_line(error)

    def describe(self, header: SweepHeader) -> None:
        """Record the sweep as a whole, so that it can be read while it runs."""
        try:
            self.tracker.describe(header, [])
        except Exception as error:
            self.last_error = first_line(error)

    def _work(self) -> None:
        while (key := self._keys.get()) is not None:
            try:
                outcome = self.ledger.outcome(key)
                if outcome is None:
                    raise OSError(f"the rows of {key} cannot be read")
                self.tracker.write(self.specs[key], outcome)
            except Exception as error:  # a tracker that is away must not stop the sweep
                self.last_error = first_line(error)
