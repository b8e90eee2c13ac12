"""From the ledger to the tracker, in a thread of its own: no trial waits for a server, and none fails with it.

What is to be sent is a line of keys. One that cannot be sent goes to the end of the line, and the next is tried after a
pause that doubles. Nothing of it has to survive the driver: whenever the tracker is opened, the ledger is compared with what
it holds, and what it lacks is put in line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from posweep.errors import PreflightError, TrackerUnavailable, TrialsFailed, first_line
from posweep.folder import CONFIG, HEADER, OPPONENTS, read_header
from posweep.invocation import command
from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.records import Outcome, TrialSpec
from posweep.settings import Configuration
from posweep.trackers import Tracker

PATIENCE = 60.0
"""Seconds that a launch waits for a tracker that answered a moment ago, before it goes on without."""
FLUSH = 30.0
"""Seconds that the end of a launch waits while nothing arrives at the tracker any more."""
HURRY = 3.0
"""Seconds that it waits in all after Ctrl-C."""
PAUSE, LONGEST = 0.5, 30.0
"""Seconds between two attempts, doubled from the first to the second."""
OPEN, SWEEP, END = "open", "sweep", "end"
"""In line among the keys: to find out what is held, what belongs to the sweep as a whole, and that it is over."""


class Unsendable(Exception):
    """A trial that no attempt will send; it says why."""


class Recorder:
    """Sends what the ledger holds to the tracker.

    Attributes:
        trouble: why the last attempt did not succeed; empty if it did.
        sent: keys of the results, and of the failures, that arrived.
        given_up: what no attempt will send, and why: a mistake of ours, or rows that cannot be read.
    """

    def __init__(self, tracker: Tracker, plan: Plan, folder: Path):
        self.tracker, self.plan, self.folder, self.ledger = tracker, plan, folder, Ledger(folder)
        self.trouble = ""
        self.sent: dict[str, set[str]] = {"results": set(), "failures": set()}
        self._specs = {spec.key: spec for spec in plan}
        self._held: dict[str, str] | None = None
        self._refusal: PreflightError | None = None
        self.given_up: dict[str, str] = {}
        self._status = ""
        self._line: dict[str, None] = {OPEN: None}
        self._busy, self._again, self._stopped, self._hurry = "", True, False, False
        self._pause, self._not_before, self._moved, self._away_since = 0.0, 0.0, 0.0, 0.0
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="posweep-recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not self._refusal and not self._status:
            self.finish("failed" if isinstance(error, TrialsFailed) else "killed", hurry=True)
        with self._change:
            self._stopped = True
            self._change.notify_all()

    # --- what a launch asks

    def held(self) -> dict[str, str] | None:
        """The trials that the tracker holds completely, key → score key; None if it does not answer in time.

        Raises:
            PreflightError: the tracker says no for good.
        """
        with self._change:
            self._change.wait_for(lambda: self._held is not None or self._refusal, PATIENCE)
        if self._refusal:
            raise self._refusal
        return self._held

    def fetch(self, key: str) -> Outcome | None:
        """A trial that the tracker holds; None if it cannot be read, or the tracker has been away for too long."""
        pause = PAUSE
        while True:
            try:
                found = self.tracker.fetch(key)
                self._away_since = 0.0
                return found
            except TrackerUnavailable:
                self._away_since = self._away_since or time.monotonic()
            if time.monotonic() + pause > self._away_since + PATIENCE:
                return None
            time.sleep(pause)
            pause *= 2

    def extend(self, plan: Plan) -> None:
        """The plan has grown: its trials may be sent from now on, and the folder's new plan is."""
        added = [spec for spec in plan if spec.key not in self._specs]
        self.plan, self._again = plan, True  # the tracker is opened with it
        self._specs.update({spec.key: spec for spec in added})
        self.send(OPEN)
        if self._held is not None:
            for key in self._lacking(added, self._held, {}):
                self.send(key)

    def send(self, key: str) -> None:
        """Send what the ledger holds of a trial: its result, or its failure."""
        with self._change:
            if key not in self.sent["results"]:
                self._line[key] = None
                self._change.notify_all()

    def describe(self) -> None:
        """Send what the folder holds of the sweep as a whole, so that it can be read while it runs."""
        self.send(SWEEP)

    def finish(self, status: str, hurry: bool = False) -> str:
        """Send the rest, and how the sweep ended; why something is left, or nothing.

        Args:
            status: `finished`, `failed` or `killed`.
            hurry: say how it ended before the rest, and wait HURRY seconds for both, whether or not something arrives.
        """
        with self._change:
            began = self._moved = time.monotonic()
            self._status, self._hurry, self._pause, self._not_before = status, hurry, 0.0, 0.0
            self._line |= {SWEEP: None, END: None}
            self._change.notify_all()
            while self._line or self._busy:
                left = (began + HURRY if hurry else self._moved + FLUSH) - time.monotonic()
                if left <= 0:
                    return self.trouble or "no answer in time"
                self._change.wait(left)
        return ""

    def left(self) -> int:
        """Trials that did not arrive; all that the ledger knows of, if the tracker has not said what it holds."""
        if self._held is None:
            return len(self._lacking(self.plan, {}, {}))
        with self._change:
            return len((self._line.keys() | {self._busy}) & self._specs.keys())

    # --- the thread

    def _work(self) -> None:
        while item := self._next():
            try:
                if self._again:
                    self._open()
                self._send(item)
                self._after(item, "")
            except (TrackerUnavailable, OSError) as error:  # a tracker that is away must not stop the sweep
                self._after(item, first_line(error))
            except PreflightError as error:
                if self._held is None:
                    self._refusal = error
                self._after(item, first_line(error))
            except Exception as error:  # nor must a mistake of ours; but what failed so fails again
                self.given_up[item] = (
                    str(error) if isinstance(error, Unsendable) else f"{type(error).__name__}: {first_line(error)}"
                )
                self._after(item, "")

    def _next(self) -> str:
        """The next in line when its time has come, the end after all others or before them; empty when there is none."""
        with self._change:
            while not self._stopped:
                pause = self._not_before - time.monotonic()
                if self._line and pause <= 0:
                    first_or_last = END if self._hurry and END in self._line else ""
                    self._busy = first_or_last or next((item for item in self._line if item != END), END)
                    del self._line[self._busy]
                    return self._busy
                self._change.wait(pause if self._line else None)
        return ""

    def _after(self, item: str, trouble: str) -> None:
        """What could not be sent goes to the end of the line; the tracker is opened again before the next."""
        with self._change:
            now, self._busy, self.trouble = time.monotonic(), "", trouble
            if trouble:
                self._line.setdefault(item)
                self._again, self._pause = True, min(max(2 * self._pause, PAUSE), LONGEST)
            else:
                self._pause, self._moved = 0.0, now
            self._not_before = now + self._pause
            self._change.notify_all()

    def _open(self) -> None:
        self.tracker.open(self.plan.name, self.plan.trials)
        self._again = False
        if self._held is None:
            held, failed = self.tracker.held(), self.tracker.failed()
            with self._change:
                self._held = held
                self._change.notify_all()
            for key in self._lacking(self.plan, held, failed):
                self.send(key)

    def _lacking(self, plan: Iterable[TrialSpec], held: dict[str, str], failed: dict[str, str]) -> list[str]:
        """What the ledger holds and the tracker does not: a driver died before it was sent, or nobody answered."""
        specs = list(plan)
        results, failures = self.ledger.finished(specs), self.ledger.failures(specs)
        return [
            *(key for key, result in results.items() if held.get(key) != result.score_key),
            *(key for key, failure in failures.items() if failed.get(key) != failure.said),
        ]

    def _send(self, item: str) -> None:
        if item == SWEEP:
            self._describe()
        elif item == END:
            self.tracker.close(self._status)
        elif item != OPEN:
            self._send_trial(self._specs[item])

    def _describe(self) -> None:
        if (self.folder / HEADER).is_file():
            files = [self.folder / name for name in (CONFIG, OPPONENTS)]
            self.tracker.describe(read_header(self.folder), [file for file in files if file.is_file()])

    def _send_trial(self, spec: TrialSpec) -> None:
        """The result, if it is one under the plan's judges; else the failure, if it has not been made good since."""
        outcome = self.ledger.outcome(spec.key)
        if outcome and outcome.result.score_key == spec.score_key:
            self.tracker.write(spec, outcome)
            self.sent["results"].add(spec.key)
        elif self.ledger.finished([spec]):
            raise Unsendable(f"its rows cannot be read; remove ledger/{spec.key}.json to run it again")
        elif failure := self.ledger.failures([spec]).get(spec.key):
            self.tracker.fail(spec, failure, _story(self.ledger.log(spec.key)))
            self.sent["failures"].add(spec.key)


def _story(log: Path) -> str:
    """The log of a failed trial, if it is there."""
    try:
        return log.read_text(errors="replace", encoding="utf-8")
    except OSError:
        return ""


def given_up(recorder: Recorder) -> list[str]:
    """What MLflow lacks for good, a sentence each."""
    trials = {spec.key for spec in recorder.plan}
    return [
        f"MLflow lacks {f'trial {item}' if item in trials else 'what belongs to the sweep as a whole'}: {why}."
        for item, why in recorder.given_up.items()
    ]


def unsent(configuration: Configuration, recorder: Recorder, trouble: str) -> str:
    """What is said where MLflow lacks something in the end; the command that sends it stands last."""
    left = recorder.left()
    lacks = f"lacks {left} of {len(recorder.plan)} trials" if left else "does not know how this sweep ended"
    send = command(configuration, "sync")
    return f"MLflow {lacks} ({trouble}); nothing is lost, send the rest with: {send}"
