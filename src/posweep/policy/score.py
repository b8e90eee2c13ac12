"""log π(y|x): what a policy thinks of responses that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from posweep.policy.base import Policy, onto
from posweep.policy.packed import Ragged, Rows, spans

LOGITS = 2**28
"""Logits that a batch may hold when nothing is trained: a gigabyte in float32, and KL holds several of that size."""

TRAINED_LOGITS = 2**26
"""Logits of a forward pass that is trained: 0.5 GB with their log-softmax, whose place their gradient takes."""

SCORED = 128
"""Sequences scored at once."""


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with their responses, and where the response tokens are.

    Attributes:
        input_ids: (sequences, longest), right-padded; (1, tokens) of a packed batch.
        predicts: (tokens,) flat positions in `input_ids` whose hidden state predicts a response token.
        targets: (tokens,) the response tokens.
        owner: (tokens,) the sequence each response token belongs to.
        lengths: (sequences,) response tokens.
        positions: (1, tokens) of a packed batch: how many tokens of its sequence stand before each.
        rows: of a packed batch: where its tokens stand in sequences.
    """

    input_ids: Tensor
    predicts: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor
    positions: Tensor | None = None
    rows: Rows | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        packed = {} if self.rows is None else {"position_ids": self.positions, "rows": self.rows}
        return {"input_ids": self.input_ids, "use_cache": False, **packed}


Tokens = Ragged | Sequence[Sequence[int]]
"""Sequences of tokens, in one array or as lists."""


def lay_out(policy: Policy, prompts: Tokens, responses: Tokens) -> TokenBatch:
    """Prompts and responses with least work for the policy: packed, or padded where it cannot take packed ones."""
    if policy.packs:
        return pack(prompts, responses, policy.device)
    return collate(prompts, responses, policy.pad, policy.device)


def collate(prompts: Tokens, responses: Tokens, pad: int, device: torch.device) -> TokenBatch:
    """Lay prompts and responses side by side. Padding stands on the right, where causal attention never looks."""
    left, right = _ragged(prompts), _ragged(responses)
    whole = left.lengths + right.lengths
    starts = np.arange(len(whole)) * whole.max()
    ids = np.full((len(whole), whole.max()), pad)
    ids.ravel()[spans(starts, left.lengths)] = left.flat
    ids.ravel()[spans(starts + left.lengths, right.lengths)] = right.flat
    predicts = spans(starts + left.lengths - 1, right.lengths)
    return TokenBatch(onto(device, ids), onto(device, predicts), *_answers(right, device))


def pack(prompts: Tokens, responses: Tokens, device: torch.device) -> TokenBatch:
    """All prompts and then all responses in one row, without padding.

    There may be several responses to a prompt: sequence i is prompt i, modulo their number, with response i.
    """
    left, right = _ragged(prompts), _ragged(responses)
    asked = np.arange(len(right)) % len(left)
    before, whole = left.lengths[asked], left.lengths[asked] + right.lengths
    prompt = (left.lengths.cumsum() - left.lengths)[asked]
    response = left.lengths.sum() + right.lengths.cumsum() - right.lengths
    place = np.minimum(np.arange(whole.max()), whole[:, None] - 1)
    tokens = place + np.where(place < before[:, None], prompt[:, None], (response - before)[:, None])
    starts = np.arange(len(whole)) * whole.max()
    places = np.concatenate([spans(starts[: len(left)], left.lengths), spans(starts + before, right.lengths)])
    predicts = tokens.ravel()[spans(starts + before - 1, right.lengths)]
    return TokenBatch(
        onto(device, np.concatenate([left.flat, right.flat])[None]), onto(device, predicts), *_answers(right, device),
        positions=onto(device, (places % whole.max())[None]),
        rows=Rows(onto(device, tokens), onto(device, places)),
    )  # fmt: skip


def _ragged(rows: Tokens) -> Ragged:
    return rows if isinstance(rows, Ragged) else Ragged.of(rows)


def _answers(responses: Ragged, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What is predicted: the tokens, whose they are, and how many each response has."""
    owner = np.repeat(np.arange(len(responses)), responses.lengths)
    return onto(device, responses.flat), onto(device, owner), onto(device, responses.lengths)


def response_logits(policy: Policy, batch: TokenBatch) -> Tensor:
    """Logits at the response positions only, (tokens, vocabulary): no projection is spent on prompts and padding."""

    def at_responses(hidden: Tensor) -> Tensor:
        return _at_responses(hidden, batch)[None]

    return policy.run(at_responses, **batch.inputs).logits[0].float()  # type: ignore[no-any-return]


def _at_responses(hidden: Tensor, batch: TokenBatch) -> Tensor:
    return hidden.flatten(0, 1).index_select(0, batch.predicts)


Values = Callable[[Tensor, Tensor], Tensor]
"""A function of logits, (tokens, vocabulary), and of the tokens that followed, (tokens,): one value each."""


def response_values(policy: Policy, batch: TokenBatch, *asked: Values) -> list[Tensor]:
    """Functions of the logits at the response positions, (tokens,) each; at most TRAINED_LOGITS logits are held at once.

    Where there are more, the body runs once, and logits are computed part by part, and again for the backward pass.
    """
    at_once = max(1, TRAINED_LOGITS // policy.vocabulary)
    if len(batch.targets) <= at_once:
        logits = response_logits(policy, batch)
        return [values(logits, batch.targets) for values in asked]

    def of_part(hidden: Tensor, targets: Tensor) -> list[Tensor]:
        logits = policy.logits(hidden).float()
        return [values(logits, targets) for values in asked]

    hidden = _at_responses(policy.hidden(**batch.inputs), batch).split(at_once)
    parts = [
        checkpoint(of_part, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(hidden, batch.targets.split(at_once), strict=True)
    ]
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log π(y_t|x, y<t) of each response token under its logits; nats, (tokens,)."""
    return _TokenLogps.apply(logits, targets)  # type: ignore[no-any-return]


class _TokenLogps(torch.autograd.Function):
    """log softmax(z)_y, whose gradient (1[v = y] − π_v) g is made where the distribution lay.

    Values are cross-entropy's to the bit, the gradient is up to rounding. Cross-entropy fills two arrays more of the logits'
    size: one with zeros, one with the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """(tokens,) of (tokens, vocabulary)."""
        logps = logits.log_softmax(-1)
        ctx.save_for_backward(logps, targets)
        return logps.gather(1, targets[:, None])[:, 0]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        """Can be asked for once: the distribution is gone then, and autograd says so."""
        logps, targets = ctx.saved_tensors
        gradient = logps.exp_().mul_(-slopes[:, None])
        return gradient.scatter_add_(1, targets[:, None], slopes[:, None]), None


def collision_logps(logits: Tensor, _: Tensor) -> Tensor:
    """log Σ_v π(v)² at each position, the log-probability that two draws agree; nats, no gradient, (tokens,).

    It is `logsumexp` of 2 log π to the bit, in one array of the logits' size; `logsumexp` takes one of its own.
    """
    doubled = logits.detach().log_softmax(-1).mul_(2)
    largest = doubled.amax(-1, keepdim=True)
    return doubled.sub_(largest).exp_().sum(-1).log_().add_(largest[:, 0])


def sum_by_sequence(values: Tensor, batch: TokenBatch) -> Tensor:
    """Values of response tokens, (tokens,), summed over each sequence, (sequences,)."""
    return torch.zeros(len(batch.lengths), device=values.device).index_add(0, batch.owner, values)


def sequence_logps(policy: Policy, batch: TokenBatch) -> Tensor:
    """log π(y|x) of each sequence: summed over its response tokens, nats, (sequences,)."""
    return sum_by_sequence(response_values(policy, batch, token_logps)[0], batch)


def score_tokens(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = SCORED
) -> Tensor:
    """log π(y_t|x, y<t) of every response token of any number of sequences, in their order; nats, on the CPU."""
    parts: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows in batches_of(policy, prompts, responses, batch_size):
        batch = lay_out(policy, [prompts[i] for i in rows], [responses[i] for i in rows])
        with torch.inference_mode():
            scores = response_values(policy, batch, token_logps)[0].cpu()
        for row, part in zip(rows, scores.split(batch.lengths.tolist()), strict=True):
            parts[row] = part
    return torch.cat(parts)


def score_all(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = SCORED
) -> Tensor:
    """log π(y|x) of any number of sequences, in batches of similar length; nats, (sequences,), on the CPU."""
    scores = torch.empty(len(prompts))
    for rows in batches_of(policy, prompts, responses, batch_size):
        batch = lay_out(policy, [prompts[i] for i in rows], [responses[i] for i in rows])
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
