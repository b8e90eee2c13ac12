"""Which trained policies stay on disk, as `train.keep` says."""

from __future__ import annotations

import math
from collections.abc import Iterable

from posweep.errors import first_line
from posweep.executors.base import Work
from posweep.folder import policy_folder
from posweep.ledger import Ledger
from posweep.policy.base import Policy
from posweep.policy.load import drop_policy, keep_policy
from posweep.records import TrialResult, TrialSpec


def keep(work: Work, ledger: Ledger, policy: Policy, result: TrialResult) -> str:
    """Write a policy that was just trained, if it is one to keep; before its result, so that a result never lacks it.

    Returns:
        Why it could not be written; empty where all is well. The result is worth more than the weights.
    """
    spec, wanted = work.specs[result.key], work.configuration.train.keep
    if wanted == "nothing" or (wanted == "adapters" and not policy.adapted):
        return ""
    judged = bool(result.score_key)  # of one that no judge has seen nobody knows; `drop_worse` looks again
    if wanted == "best" and judged and any(_better(one, result, work) for one in _kept(work, ledger, spec)):
        return ""
    try:
        keep_policy(policy, policy_folder(ledger.folder, result.key))
    except Exception as error:  # a full disk, which each writer has an exception of its own for
        return first_line(error)
    return ""


def drop_worse(work: Work, ledger: Ledger, spec: TrialSpec) -> None:
    """Under `best`, leave one policy of a method; any number of workers may do so at the same time.

    Only trials with a result are compared, so a policy that another worker has just written stays until it has one. One
    goes only because a better one is there; so the best of all never goes, whoever looks when.
    """
    if work.configuration.train.keep != "best":
        return
    kept = list(_kept(work, ledger, spec))
    for one in kept:
        if any(_better(other, one, work) for other in kept):
            drop_policy(policy_folder(ledger.folder, one.key))


def _kept(work: Work, ledger: Ledger, spec: TrialSpec) -> Iterable[TrialResult]:
    """Results of the trials of a method whose policies are there."""
    for folder in sorted((ledger.folder / "policies").glob("[!.]*")):
        one, result = work.specs.get(folder.name), ledger.result(folder.name)
        if one and result and one.method == spec.method and result.score_key == one.score_key:
            yield result


def _better(one: TrialResult, other: TrialResult, work: Work) -> bool:
    """By the primary metric; of equals the one whose key comes first, so that every worker says the same."""
    return (-_score(one, work), one.key) < (-_score(other, work), other.key)


def _score(result: TrialResult, work: Work) -> float:
    score = result.measures.get(work.configuration.sweep.primary_metric, math.nan)
    return -math.inf if math.isnan(score) else score
