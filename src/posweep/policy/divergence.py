"""KL(π‖π_ref): how far a policy has gone from another, along responses that are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posweep.policy.base import Policy
from posweep.policy.score import SCORED, TokenBatch, batches_of, collate, response_logits, sum_by_sequence


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
    log_p = response_logits(policy, batch).log_softmax(-1)
    log_q = response_logits(reference, batch).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
