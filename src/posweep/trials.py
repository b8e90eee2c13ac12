"""The trials of a sweep on an executor: what each comes to goes to tracker and display, and what was lost runs again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from posweep.errors import NoRoom
from posweep.executors import Event, Executor, Work
from posweep.folder import RUNNING, note_running, taken_over
from posweep.ledger import Ledger
from posweep.mirror import NoMirror
from posweep.progress import Progress
from posweep.recorder import Recorder
from posweep.records import TrialFailure, TrialResult, TrialSpec
from posweep.stop import Stop, StopRule

FULL = "its disk is full or read-only"
LONGEST = 60.0
"""Seconds to wait at most before lost trials start again; doubled from 1."""


@dataclass
class Trials:
    """Runs trials until each has finished, diverged or failed, or the sweep is asked to stop."""

    executor: Executor
    work: Work
    mirror: NoMirror
    recorder: Recorder
    progress: Progress
    stop: Stop
    rule: StopRule = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.rule = StopRule(self.work.configuration.executor)
        self.ledger = Ledger(self.work.folder)

    def run(self, keys: Sequence[str]) -> None:
        """Run the trials; those that were lost run again, at most `executor.retries` times."""
        left, retries = list(keys), self.work.configuration.executor.retries
        try:
            for attempt in range(retries + 1):
                if attempt:
                    self._wait(len(left), attempt, retries)
                if left and not self.stop.reason:
                    left = self._once(self._one_by_one() if attempt else self.work, left)
        finally:
            with suppress(OSError):  # of a folder that may no longer be written
                (self.work.folder / RUNNING).unlink(missing_ok=True)
        if not self.stop.reason:
            for key in left:
                self._give_up(key, retries)

    def extend(self, added: Sequence[TrialSpec]) -> None:
        """A search has added trials, of which some may be done."""
        self.work.specs.update((spec.key, spec) for spec in added)
        self.progress.extend(added, self.ledger.finished(added))

    def _one_by_one(self) -> Work:
        """The same work without shared passes, in which one trial that ends its process would take the others along."""
        configuration = self.work.configuration
        executor = dataclasses.replace(configuration.executor, fused=1)
        return dataclasses.replace(self.work, configuration=dataclasses.replace(configuration, executor=executor))

    def _once(self, work: Work, keys: Sequence[str]) -> list[str]:
        """Run the trials once; those that have neither result nor failure."""
        self.mirror.prepare(keys)
        self.executor.run(work, keys, self._listen)
        for key in self.mirror.settle():
            self._tell(Event("finished", key))
        specs = [self.work.specs[key] for key in keys]
        ended = self.ledger.finished(specs).keys() | self.ledger.failures(specs).keys()
        return [key for key in keys if key not in ended]

    def _listen(self, event: Event) -> None:
        """Hand on what became of a trial; the ledger has it already."""
        if event.kind == "unwritten":
            self.stop.ask(FULL)  # whatever the trials that run come to could not be written either
            elsewhere = self.work.configuration.executor.storage
            raise NoRoom("TMPDIR: the folder of a worker" if elsewhere else f"output_dir: {self.work.folder}", FULL)
        if event.kind == "started":
            self.ledger.forget_failure(event.key)  # not before: a launch that is killed keeps what it did not retry
        elif not self.mirror.collect(event.key):
            return  # its files are late, and with them what became of it
        if event.kind == "stopped" and taken_over(self.work.folder, self.work.driver):
            self.stop.ask("another posweep has taken it over")
        self._tell(event)

    def _tell(self, event: Event) -> None:
        """What became of a trial, to policies, display, tracker and stop rule."""
        event, result = self._as_recorded(event)
        self._prune(event)
        self.progress.event(event, result)
        if event.kind not in ("finished", "diverged"):  # a result says it
            with suppress(OSError):  # a note for posweep status; a disk that is full says so elsewhere
                note_running(self.work.folder, self.progress.running())
        if result or event.kind == "failed":
            self.recorder.send(event.key)
        counts = event.kind != "lost" or not event.beside  # a worker that is lost is one, whatever it was at
        if counts and (reason := self.rule.count(event.kind)):
            self.stop.ask(reason)

    def _as_recorded(self, event: Event) -> tuple[Event, TrialResult | None]:
        """How a trial ended, as the ledger has it, and its result: executors know less, and may have it from hearsay."""
        if event.kind not in ("finished", "diverged", "failed"):
            return event, None
        spec = self.work.specs[event.key]
        if result := self.ledger.finished([spec]).get(event.key):
            return Event("diverged" if result.status == "diverged" else "finished", event.key), result
        if self.ledger.failures([spec]):
            return Event("failed", event.key), None
        return dataclasses.replace(event, kind="stopped" if self.stop.reason else "lost"), None

    def _prune(self, event: Event) -> None:
        """Where workers share a storage, only here do the policies of all nodes meet."""
        executor, keep = self.work.configuration.executor, self.work.configuration.train.keep
        if executor.storage and keep == "best" and event.kind == "finished":
            from posweep.executors.keep import drop_worse

            drop_worse(self.work, self.ledger, self.work.specs[event.key])

    def _wait(self, lost: int, attempt: int, retries: int) -> None:
        """Before lost trials start again: a node that went away may need a moment to come back."""
        if lost and not self.stop.reason:
            seconds = min(2.0 ** (attempt - 1), LONGEST)
            lost_worker = f"{lost} trial{'s' if lost > 1 else ''} lost {'their' if lost > 1 else 'its'} worker"
            again = f"start{'' if lost > 1 else 's'} again in {seconds:.0f} s"
            self.progress.say(f"{lost_worker} and {again} (retry {attempt} of {retries})")
            self.stop.wait(seconds)

    def _give_up(self, key: str, retries: int) -> None:
        times = f"{retries + 1} times" if retries else "once"
        story = f"its worker was lost {times} (killed, out of the machine's memory, or its node went away)"
        self.ledger.fail(TrialFailure(key, "WorkerLost", story, str(self.ledger.log(key)), "lost"), f"{story}\n")
        self.progress.event(Event("failed", key))
        self.recorder.send(key)
