"""From items of the data to the objective's loss: the only place where a trial's method meets its pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from posweep.artifacts.shared import Shared
from posweep.objectives import OBJECTIVES, Objective, PreferenceLogps
from posweep.policy.score import collate, sequence_logps
from posweep.policy.train import Losses
from posweep.records import TrialSpec


def objective_of(spec: TrialSpec) -> Objective:
    """The objective with the trial's hyperparameters."""
    return OBJECTIVES[spec.method](**spec.hyperparameters)


def preference_loss(spec: TrialSpec, shared: Shared) -> Callable[[np.ndarray], Losses]:
    """The loss of some pairs under the current weights: one forward pass over chosen and rejected together."""
    objective, policy, pairs = objective_of(spec), shared.policy, shared.pairs
    reference = None if objective.reference_free else shared.pair_logps

    def loss(items: np.ndarray) -> Losses:
        count = len(items)
        prompts = [pairs.prompts[i] for i in items]
        responses = [pairs.chosen[i] for i in items] + [pairs.rejected[i] for i in items]
        batch = collate(prompts + prompts, responses, policy.pad, policy.device)
        logps = sequence_logps(policy, batch)
        chosen, rejected = logps[:count], logps[count:]
        given = PreferenceLogps(
            chosen, rejected, batch.lengths[:count], batch.lengths[count:],
            reference.chosen[items] if reference else None, reference.rejected[items] if reference else None,
        )  # fmt: skip
        out = objective(given)
        charts = {
            "rewards/chosen": out.chosen_rewards,
            "rewards/rejected": out.rejected_rewards,
            "rewards/accuracies": (out.chosen_rewards > out.rejected_rewards).float(),
            "rewards/margins": out.chosen_rewards - out.rejected_rewards,
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
        }
        return Losses(out.losses, charts)

    return loss
