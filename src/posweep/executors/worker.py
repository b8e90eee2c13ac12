"""A worker: what stays loaded between trials, and what becomes of each trial. The same on every executor."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Literal

from posweep.artifacts.shared import Shared, prepare
from posweep.artifacts.store import Store
from posweep.executors.base import Work
from posweep.folder import policy_folder
from posweep.ledger import Ledger
from posweep.mirror import worker_mirror
from posweep.policy.load import keep_policy
from posweep.records import Outcome, TrialFailure, TrialSpec
from posweep.trial import rescore, run_trial

End = Literal["finished", "diverged", "failed"]


class Worker:
    """Runs trials one after another; weights, tokens and judges are loaded once."""

    def __init__(self, work: Work):
        self.work = work
        self.mirror = worker_mirror(work.configuration, work.folder)
        self.folder = self.mirror.folder
        self.ledger = Ledger(self.folder)
        self._shared: Shared | None = None

    @property
    def shared(self) -> Shared:
        """The artifacts, read on the first trial."""
        if self._shared is None:
            configuration, store = self.work.configuration, Store(self.folder / "artifacts", mirror=self.mirror)
            self._shared = prepare(configuration, store, configuration.device, True, self.work.fingerprints)
        return self._shared

    def run(self, key: str) -> End:
        """Run one trial and record what became of it; a mistake of ours fails that trial, not the sweep."""
        with self.mirror.trial(key):
            return self._run(key)

    def _run(self, key: str) -> End:
        spec = self.work.specs[key]
        try:
            outcome = self._outcome(spec, self.shared)
            self.ledger.write(outcome)
            return "diverged" if outcome.result.status == "diverged" else "finished"
        except Exception as error:
            story = traceback.format_exc()
            message = str(error).partition("\n")[0]
            failure = TrialFailure(key, type(error).__name__, message, str(self.ledger.log(key)))
            self.ledger.fail(failure, story)
            return "failed"

    def _outcome(self, spec: TrialSpec, shared: Shared) -> Outcome:
        """Train, unless responses of this very policy lie there and only want other judges."""
        before = self.ledger.outcome(spec.key)
        if before and before.result.response_key == spec.response_key and not before.result.along:
            if before.result.status == "diverged":
                return dataclasses.replace(before, result=dataclasses.replace(before.result, score_key=spec.score_key))
            return rescore(spec, shared, before)
        outcome = run_trial(spec, shared, keep=self._unjudged)
        if outcome.result.status == "finished":
            self._keep(spec.key, shared)
        return outcome

    def _unjudged(self, outcome: Outcome) -> None:
        """A trained policy's responses, for when the judge is back; the policy itself likewise."""
        self._keep(outcome.result.key, self.shared)
        self.ledger.write(outcome)

    def _keep(self, key: str, shared: Shared) -> None:
        """What the settings say of a trained policy."""
        keep, policy = self.work.configuration.train.keep, shared.policy
        if keep == "all" or (keep == "adapters" and policy.adapted):
            keep_policy(policy, policy_folder(self.folder, key))
