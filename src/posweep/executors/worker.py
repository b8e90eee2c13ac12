"""A worker: what stays loaded between trials, and what becomes of each trial. The same on every executor."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

from posweep.artifacts.shared import Shared, prepare, release
from posweep.artifacts.store import Store
from posweep.errors import JudgeUnavailable, Stopped, first_line, no_room, without_password
from posweep.executors.base import Work
from posweep.executors.keep import drop_worse, keep
from posweep.folder import asked_to_stop, checkpoint_file, taken_over
from posweep.ledger import Ledger
from posweep.mirror import worker_mirror
from posweep.policy.checkpoint import CheckpointFile, Checkpoints
from posweep.records import Outcome, TrialFailure, TrialResult, TrialSpec
from posweep.trial import out_of_memory, rescore, run_cohort, run_trial

End = Literal["finished", "diverged", "failed", "stopped", "unwritten"]


class Worker:
    """Runs trials one after another; weights, tokens and judges are loaded once."""

    def __init__(self, work: Work):
        self.work = work
        self.mirror = worker_mirror(work.configuration, work.folder)
        self.folder = self.mirror.folder
        self.ledger = Ledger(self.folder)
        self._shared: Shared | None = None
        self._most = sys.maxsize  # trials that fit into one pass, as far as is known
        self._apart: dict[str, str] = {}  # why trials that were to share their passes run by themselves
        self._tidy()

    @property
    def shared(self) -> Shared:
        """The artifacts, read on the first trial."""
        if self._shared is None:
            configuration, store = self.work.configuration, Store(self.folder / "artifacts", mirror=self.mirror)
            self._shared = prepare(configuration, store, configuration.device, True, self.work.fingerprints)
        return self._shared

    def run(self, key: str) -> End:
        """Run one trial and record what became of it; a mistake of ours fails that trial, not the sweep.

        A sweep that was asked to stop gets neither result nor failure: the trial goes on another time.
        """
        with self.mirror.trial(key):
            return "stopped" if self._asked_to_stop() else self._run(key)

    def run_all(self, keys: Sequence[str]) -> dict[str, End]:
        """The same for trials that may share their passes."""
        if len(keys) == 1:
            return {keys[0]: self.run(keys[0])}
        with ExitStack() as trials:
            for key in keys:
                trials.enter_context(self.mirror.trial(key))
            if self._asked_to_stop():
                return dict.fromkeys(keys, "stopped")
            specs = [self.work.specs[key] for key in keys]
            ready = [s.key for s in specs if self.ledger.finished([s]) or self._only_to_judge(s)]
            return {key: self._run(key) for key in ready} | self._together([key for key in keys if key not in ready])

    def _together(self, keys: Sequence[str]) -> dict[str, End]:
        """Train trials in one pass. Half as many where they do not fit, each by itself where one of them is to blame."""
        if len(keys) < 2:
            return {key: self._run(key) for key in keys}
        if len(keys) > self._most:
            return self._together(keys[: self._most]) | self._together(keys[self._most :])
        ends: dict[str, End] = {}
        fit = self._pass([self.work.specs[key] for key in keys], ends)
        if not fit:
            release()  # the error is gone, and with it what it held
            self._most = len(keys) // 2
        left = [key for key in keys if key not in ends]
        return ends | (self._together(left) if not fit else {key: self._run(key) for key in left})

    def _pass(self, specs: Sequence[TrialSpec], ends: dict[str, End]) -> bool:
        """Train and record trials that share their passes; whether they fit into memory. `ends` lacks who is in doubt."""
        try:
            doors = [self._door(spec.key) for spec in specs]
            for spec, end in run_cohort(specs, self.shared, self._unjudged, doors):
                ends[spec.key] = self._settled(spec.key, lambda end=end: self._kept(_given(end)))  # type: ignore[misc]
        except Exception as error:
            if out_of_memory(error):
                return False
            story = without_password(f"{type(error).__name__}: {first_line(error)}")
            self._apart |= {spec.key: story for spec in specs}
        return True

    def _run(self, key: str) -> End:
        spec = self.work.specs[key]
        if done := self.ledger.finished([spec]):  # by a worker of a driver that was killed, since this one looked
            return _end(done[key])
        return self._settled(key, lambda: self._outcome(spec, self.shared))

    def _settled(self, key: str, outcome_of: Callable[[], Outcome]) -> End:
        """Record what a trial comes to."""
        try:
            outcome = outcome_of()
            self._record(outcome)
            return _end(outcome.result)
        except Stopped:
            return "stopped"
        except Exception as error:
            if taken_over(self.folder, self.work.driver):
                return "stopped"
            if no_room(error):
                return "unwritten"  # a failure could not be written either
            kind = _kind(error)
            self._fail(key, error, kind)
        if kind == "memory":
            release()  # the error is gone, and with it what it held; the next trial needs the room
        return "failed"

    def _outcome(self, spec: TrialSpec, shared: Shared) -> Outcome:
        """Train, unless responses of this very policy lie there and only want other judges."""
        if before := self._only_to_judge(spec):
            if before.responses:
                return rescore(spec, shared, before)
            return dataclasses.replace(before, result=dataclasses.replace(before.result, score_key=spec.score_key))
        outcome = self._kept(run_trial(spec, shared, keep=self._unjudged, door=self._door(spec.key)))
        return _noted(outcome, alone=self._apart[spec.key]) if spec.key in self._apart else outcome

    def _only_to_judge(self, spec: TrialSpec) -> Outcome | None:
        """What lies there of a trial that only wants other judges."""
        before = self.ledger.outcome(spec.key)
        fits = before and before.result.response_key == spec.response_key and before.wants_only_judges
        return before if fits else None

    def _door(self, key: str) -> Checkpoints:
        return Checkpoints(self._checkpoint(key), self.work.configuration.train, self._asked_to_stop)

    def _unjudged(self, outcome: Outcome) -> None:
        """A trained policy's responses, for when the judge is back; the policy itself likewise."""
        self._record(self._kept(outcome))

    def _kept(self, outcome: Outcome) -> Outcome:
        """With the policy on disk, if it is one to keep."""
        result = outcome.result
        if result.status != "finished" or not (trouble := keep(self.work, self.ledger, self.shared.policy, result)):
            return outcome
        return _noted(outcome, policy=f"not kept: {trouble}")

    def _record(self, outcome: Outcome) -> None:
        """The result first; what it makes superfluous goes after it.

        Raises:
            Stopped: another driver runs this trial; a key has one result.
        """
        if taken_over(self.folder, self.work.driver):
            raise Stopped("another posweep has taken over this sweep")
        self.ledger.write(outcome)
        self._checkpoint(outcome.result.key).discard()
        drop_worse(self.work, self.ledger, self.work.specs[outcome.result.key])

    def _fail(self, key: str, error: Exception, kind: str) -> None:
        message = without_password(str(error).partition("\n")[0])
        failure = TrialFailure(key, type(error).__name__, message, str(self.ledger.log(key)), kind)
        self.ledger.fail(failure, without_password("".join(traceback.format_exception(error))))

    def _checkpoint(self, key: str) -> CheckpointFile:
        return CheckpointFile(checkpoint_file(self.folder, key), key)

    def _tidy(self) -> None:
        """Remove checkpoints of trials that have a result: a worker was killed between the two."""
        keys = {file.stem for file in (self.folder / "checkpoints").glob("*.pt")} & self.work.specs.keys()
        for key in self.ledger.finished(self.work.specs[key] for key in keys):
            self._checkpoint(key).discard()

    def _asked_to_stop(self) -> bool:
        return asked_to_stop(self.folder, self.work.driver)


def _noted(outcome: Outcome, **notes: str) -> Outcome:
    result = outcome.result
    return dataclasses.replace(outcome, result=dataclasses.replace(result, notes={**result.notes, **notes}))


def _given(end: Outcome | Exception) -> Outcome:
    if isinstance(end, Exception):
        raise end
    return end


def _end(result: TrialResult) -> End:
    return "diverged" if result.status == "diverged" else "finished"


def _kind(error: Exception) -> str:
    """The class of a failure: what helps against it."""
    if isinstance(error, JudgeUnavailable):
        return "judge"
    return "memory" if out_of_memory(error) else "bug"
