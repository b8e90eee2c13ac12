"""log π(y|x): what a policy thinks of responses that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posweep.policy.base import Policy, onto

LOGITS = 2**28
"""Logits that a batch may hold when nothing is trained: a gigabyte in float32, and KL holds several of that size."""

SCORED = 128
"""Sequences scored at once."""


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with their responses, right-padded, and where the response tokens are.

    Attributes:
        input_ids: (sequences, longest).
        predicts: (tokens,) flat positions in `input_ids` whose hidden state predicts a response token.
        targets: (tokens,) the response tokens.
        owner: (tokens,) the sequence each response token belongs to.
        lengths: (sequences,) response tokens.
    """

    input_ids: Tensor
    predicts: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor


def collate(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device: torch.device
) -> TokenBatch:
    """Lay prompts and responses side by side. Padding stands on the right, where causal attention never looks."""
    longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    rows = [[*p, *r, *([pad] * (longest - len(p) - len(r)))] for p, r in zip(prompts, responses, strict=True)]
    predicts: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        first = row * longest + len(prompt) - 1
        predicts += range(first, first + len(response))
        targets += response
        owner += [row] * len(response)
    lengths = [len(response) for response in responses]
    return TokenBatch(*(onto(device, values) for values in (rows, predicts, targets, owner, lengths)))


def response_logits(policy: Policy, batch: TokenBatch) -> Tensor:
    """Logits at the response positions only, (tokens, vocabulary): no projection is spent on prompts and padding."""

    def at_responses(hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1).index_select(0, batch.predicts)[None]

    return policy.run(at_responses, input_ids=batch.input_ids, use_cache=False).logits[0].float()  # type: ignore[no-any-return]


def token_logps(logits: Tensor, batch: TokenBatch) -> Tensor:
    """log π(y_t|x, y<t) of each response token under its logits; nats, (tokens,)."""
    return -torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")


def collision_logps(logits: Tensor) -> Tensor:
    """log Σ_v π(v)² at each position, the log-probability that two draws agree; nats, no gradient, (tokens,)."""
    return (2 * logits.detach().log_softmax(-1)).logsumexp(-1)


def sum_by_sequence(values: Tensor, batch: TokenBatch) -> Tensor:
    """Values of response tokens, (tokens,), summed over each sequence, (sequences,)."""
    return torch.zeros(len(batch.lengths), device=values.device).index_add(0, batch.owner, values)


def sequence_logps(policy: Policy, batch: TokenBatch) -> Tensor:
    """log π(y|x) of each sequence: summed over its response tokens, nats, (sequences,)."""
    return sum_by_sequence(token_logps(response_logits(policy, batch), batch), batch)


def score_tokens(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = SCORED
) -> Tensor:
    """log π(y_t|x, y<t) of every response token of any number of sequences, in their order; nats, on the CPU."""
    parts: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows in batches_of(policy, prompts, responses, batch_size):
        batch = collate([prompts[i] for i in rows], [responses[i] for i in rows], policy.pad, policy.device)
        with torch.inference_mode():
            scores = token_logps(response_logits(policy, batch), batch).cpu()
        for row, part in zip(rows, scores.split(batch.lengths.tolist()), strict=True):
            parts[row] = part
    return torch.cat(parts)


def score_all(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = SCORED
) -> Tensor:
    """log π(y|x) of any number of sequences, in batches of similar length; nats, (sequences,), on the CPU."""
    scores = torch.empty(len(prompts))
    for rows in batches_of(policy, prompts, responses, batch_size):
        batch = collate([prompts[i] for i in rows], [responses[i] for i in rows], policy.pad, policy.device)
        with torch.inference_mode():
            scores[rows] = sequence_logps(policy, batch).cpu()
    return scores


def batches_of(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int
) -> list[list[int]]:
    """Indices of the sequences that are scored at once."""
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    return similar_length(lengths, batch_size, [len(response) * policy.vocabulary for response in responses])


def similar_length(lengths: Sequence[int], batch_size: int, logits: Sequence[int] | None = None) -> list[list[int]]:
    """Indices in batches of similar length, so that little padding is computed, and of at most LOGITS logits.

    Args:
        logits: how many each sequence brings; without them only `batch_size` counts.
    """
    found: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        cost = logits[index] if logits else 0
        if not found or len(found[-1]) == batch_size or cost > room:
            found.append([])
            room = LOGITS
        found[-1].append(index)
        room -= cost
    return found
