"""KL(π‖π_ref): how far a policy has gone from another, along responses that are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posweep.policy.base import Policy
from posweep.policy.score import SCORED, TokenBatch, batches_of, collate, response_logits, sum_by_sequence

AT_ONCE = {"cpu": 2**18, "cuda": 2**24}
"""Logits of each model that are compared at once: on a CPU what its caches hold, on a GPU what keeps it busy."""


def kl_all(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    batch_size: int = SCORED,
) -> Tensor:
    """Σ_t KL(π(·|x,y<t) ‖ π_ref(·|x,y<t)) along each response, exact over the vocabulary; nats, (sequences,)."""
    sums = torch.empty(len(prompts))
    for rows in batches_of(policy, prompts, responses, batch_size):
        batch = collate([prompts[i] for i in rows], [responses[i] for i in rows], policy.pad, policy.device)
        with torch.inference_mode():
            sums[rows] = sum_by_sequence(_token_kl(policy, reference, batch), batch).cpu()
    return sums


def _token_kl(policy: Policy, reference: Policy, batch: TokenBatch) -> Tensor:
    """KL at each response token, (tokens,); beyond the two models' logits only a few tokens' distributions are held."""
    ours, theirs = response_logits(policy, batch), response_logits(reference, batch)
    tokens = max(1, AT_ONCE[ours.device.type] // ours.shape[-1])
    return torch.cat([_kl(p, q) for p, q in zip(ours.split(tokens), theirs.split(tokens), strict=True)])


def _kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """Σ_v π(v) (log π(v) − log π_ref(v)) of each row, from logits; nats, (tokens,)."""
    log_p = ours.log_softmax(-1)
    difference = log_p - theirs.log_softmax(-1)
    return log_p.exp_().mul_(difference).sum(-1)
