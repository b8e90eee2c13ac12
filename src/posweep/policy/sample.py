"""y ~ π(·|x): responses drawn with noise that is given, so that trials can share it and batches cannot change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posweep.errors import NotFinite
from posweep.policy.base import Policy, onto

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Tokens between looks at whether every response has ended: on a GPU each look waits for it."""


class Sampled(NamedTuple):
    """One response in tokens, end token included; `truncated` where none came within the limit."""

    tokens: list[int]
    truncated: bool


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    noise: np.ndarray,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 256,
) -> list[Sampled]:
    """One response per prompt, of at most `noise.shape[1]` tokens.

    Token t of response i is the inverse of the cumulative distribution at `noise[i, t]` in [0, 1), so a response depends on
    its prompt, the policy and its own row of noise, and not on its neighbours in the batch.

    Raises:
        NotFinite: the policy gives no probabilities.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    drawn: dict[int, Sampled] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        uniforms = onto(policy.device, noise[rows])
        with policy.products():
            tokens = _sample_batch(policy, [prompts[i] for i in rows], uniforms, temperature, top_p)
        drawn |= {row: _until_end(ids, policy.texts.ends) for row, ids in zip(rows, tokens.tolist(), strict=True)}
    return [drawn[i] for i in range(len(prompts))]


@torch.no_grad()  # under inference_mode autocast would cast all weights anew for every token
def _sample_batch(
    policy: Policy, prompts: list[Sequence[int]], uniforms: Tensor, temperature: float, top_p: float
) -> Tensor:
    """Tokens (prompts, steps); rows that ended early are padded."""
    ids, mask = _left_padded(prompts, policy.pad, policy.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=policy.device)
    sound = torch.ones((), dtype=torch.bool, device=policy.device)
    ends = onto(policy.device, list(policy.texts.ends))
    cache, steps = None, []
    for step in range(uniforms.shape[1]):
        out = policy.run(
            _last, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        token, mass = _draw(out.logits[:, -1].float() / temperature, uniforms[:, step], top_p)
        sound &= mass.isfinite().all()
        steps.append(token.masked_fill(ended, policy.pad))
        ended |= torch.isin(token, ends)
        if step % LOOK_EVERY[policy.device.type] == 0 and ended.all():
            break
        ids, positions = steps[-1][:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    if not sound:  # looked at once: on a GPU each look waits for it
        raise NotFinite("probability of the next token")
    return torch.stack(steps, dim=1)


def _last(hidden: Tensor) -> Tensor:
    return hidden[:, -1:]


def _draw(logits: Tensor, uniform: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The token at which the cumulative distribution passes `uniform`, and how much probability there was, (rows,)."""
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    cumulative = probabilities.double().cumsum(-1)
    wanted = uniform.double() * cumulative[:, -1]
    token = torch.searchsorted(cumulative, wanted[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return token, cumulative[:, -1]


def _left_padded(prompts: list[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(p)) + list(p) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return onto(device, ids), onto(device, mask)


def _until_end(tokens: list[int], ends: Sequence[int]) -> Sampled:
    """A response is over at the first end token; padding, which may be the same token, stands behind it."""
    at = next((place for place, token in enumerate(tokens) if token in ends), None)
    return Sampled(tokens, True) if at is None else Sampled(tokens[: at + 1], False)
