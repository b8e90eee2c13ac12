"""From items of the data to the objective's loss: the only place where a trial's method meets its pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import Mismatched, ReferenceLogps
from posweep.artifacts.shared import EvaluationSet, Shared
from posweep.objectives import OBJECTIVES, Objective, PreferenceLogps, PreferenceLoss, needs
from posweep.policy.base import Policy, onto
from posweep.policy.batch import Batch, Columns, Losses
from posweep.policy.reproducible import stream
from posweep.policy.score import (
    TokenBatch,
    Values,
    collision_logps,
    lay_out,
    pack,
    response_values,
    sequence_logps,
    sum_by_sequence,
    token_logps,
)
from posweep.records import TrialSpec
from posweep.trial.tokens import CommonPairs, common_pairs


def objective_of(spec: TrialSpec) -> Objective:
    """The objective with the trial's hyperparameters."""
    return OBJECTIVES[spec.method](**spec.hyperparameters)


def preference_loss(spec: TrialSpec, shared: Shared) -> PairLoss:
    """The trial's objective on the training pairs."""
    return PairLoss(
        objective_of(spec),
        shared.policy,
        shared.pairs,
        shared.pair_logps,
        "train",
        spec.seed,
        shares_prompts(spec, shared),
    )


def held_out_loss(spec: TrialSpec, shared: Shared, evaluation: EvaluationSet) -> PairLoss:
    """The trial's objective on the held-out pairs of a set."""
    return PairLoss(
        objective_of(spec), shared.policy, evaluation.pairs, evaluation.reference, evaluation.name, spec.seed,
        shares_prompts(spec, shared),
    )  # fmt: skip


def shares_prompts(spec: TrialSpec, shared: Shared) -> bool:
    """Whether the prompt of a pair is computed once for both responses."""
    return bool(spec.train.get("prefix_sharing", shared.configuration.train.prefix_sharing))


@dataclass
class PairLoss:
    """An objective on some pairs, given what the reference makes of them: what `policy.train.optimise` minimises.

    `name` and `seed` name the stream that SamPO draws its tokens from, anew for each epoch.
    `shares`: whether the prompt of a pair is computed once for both responses, where both answer the same.
    """

    objective: Objective
    policy: Policy
    pairs: TokenPairs
    reference: ReferenceLogps
    name: str
    seed: int
    shares: bool = False
    _common: dict[int, CommonPairs] = field(default_factory=dict)

    @property
    def separable(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its parts."""
        return self.objective.separable

    def forward(self, batch: Batch) -> Columns:
        """log π of both responses in one pass, and what else the objective asks of the policy."""
        tokens, asked = self._tokens(batch.items), needs(self.objective)
        values: list[Values] = [token_logps] + [collision_logps] * ("collisions" in asked)
        by_token, *collisions = response_values(self.policy, tokens, *values)
        columns = _both("policy_{}_logps", sum_by_sequence(by_token, tokens))
        if "sampled" in asked or "shared" in asked:
            columns |= _both("policy_{}_common_logps", self._common_logps(batch, by_token, tokens))
        for each in collisions:
            columns |= _both("policy_{}_collision_logps", sum_by_sequence(each, tokens))
        if "mismatched" in asked:
            columns["policy_mismatched_logps"] = self._mismatched_logps(batch)
        return columns

    def score(self, batch: Batch, columns: Columns) -> PreferenceLoss:
        """The objective on what the policy made of a batch, beside what the reference made of it."""
        return self.objective(PreferenceLogps(**columns, **self._known(batch)))

    def losses(self, batch: Batch, columns: Columns) -> Losses:
        """The same, with the charts of a training step."""
        out = self.score(batch, columns)
        charts = {
            "rewards/chosen": out.chosen_rewards,
            "rewards/rejected": out.rejected_rewards,
            "rewards/accuracies": (out.chosen_rewards > out.rejected_rewards).float(),
            "rewards/margins": out.chosen_rewards - out.rejected_rewards,
            "logps/chosen": columns["policy_chosen_logps"].detach(),
            "logps/rejected": columns["policy_rejected_logps"].detach(),
        }
        return Losses(out.losses, charts)

    def _tokens(self, items: np.ndarray) -> TokenBatch:
        """Chosen and then rejected responses with their prompts."""
        flat = self.pairs.flat
        prompts = flat["prompts"].take(items)
        responses = flat["chosen"].take(items).beside(flat["rejected"].take(items))
        if self.shares and self.pairs.rejected_prompts is None:
            return pack(prompts, responses, self.policy.device)
        others = flat.get("rejected_prompts", flat["prompts"]).take(items)
        return lay_out(self.policy, prompts.beside(others), responses)

    def _known(self, batch: Batch) -> dict[str, Tensor]:
        """What does not depend on the policy: lengths, and what the reference makes of the batch."""
        items, device, asked = batch.items, self.policy.device, needs(self.objective)
        lengths = np.stack([self.pairs.flat[side].lengths[items] for side in ("chosen", "rejected")])
        known = dict(zip(("chosen_lengths", "rejected_lengths"), onto(device, lengths), strict=True))
        rows = onto(device, items)
        if not self.objective.reference_free:
            known["reference_chosen_logps"] = self.reference.chosen[rows]
            known["reference_rejected_logps"] = self.reference.rejected[rows]
        if "mismatched" in asked:
            known["reference_mismatched_logps"] = self._mismatched().logps[rows]
        if "sampled" in asked or "shared" in asked:
            common = self._common_pairs(batch.epoch)
            sums = torch.from_numpy(common.reference_chosen[items]), torch.from_numpy(common.reference_rejected[items])
            known["reference_chosen_common_logps"], known["reference_rejected_common_logps"] = (
                onto(device, side) for side in sums
            )
        return known

    def _common_logps(self, batch: Batch, by_token: Tensor, tokens: TokenBatch) -> Tensor:
        """The policy's log π over the tokens that count, chosen and then rejected responses, (2 · pairs,)."""
        common = self._common_pairs(batch.epoch)
        flags = np.concatenate([common.chosen.of(batch.items), common.rejected.of(batch.items)])
        return sum_by_sequence(by_token * onto(by_token.device, flags), tokens)

    def _common_pairs(self, epoch: int) -> CommonPairs:
        """The tokens that count in an epoch, of all pairs at once; kept until the next epoch."""
        if epoch not in self._common:
            if self.reference.by_token is None:
                raise ValueError("the reference's log-probs token by token were not prepared for this sweep")
            drawn = "sampled" in needs(self.objective)
            rng = stream("common tokens", self.name, self.seed, epoch) if drawn else None
            self._common = {epoch: common_pairs(self.pairs, self.reference.by_token, rng)}
        return self._common[epoch]

    def _mismatched_logps(self, batch: Batch) -> Tensor:
        """log π of responses to other prompts, without gradient: they only set a reference point."""
        prompts = self.pairs.flat["prompts"].take(batch.items)
        responses = [self._mismatched().responses[i] for i in batch.items]
        with torch.no_grad():
            return sequence_logps(self.policy, lay_out(self.policy, prompts, responses))

    def _mismatched(self) -> Mismatched:
        if self.reference.mismatched is None:
            raise ValueError("mismatched pairs were not prepared for this sweep")
        return self.reference.mismatched


def _both(name: str, values: Tensor) -> dict[str, Tensor]:
    """Values of chosen and then rejected responses as two columns."""
    chosen, rejected = values.chunk(2)
    return {name.format("chosen"): chosen, name.format("rejected"): rejected}
