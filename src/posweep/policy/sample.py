"""y ~ π(·|x): responses drawn with noise that is given, so that trials can share it and batches cannot change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posweep.errors import NotFinite
from posweep.policy.base import Policy, onto
from posweep.policy.cache import make_room

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Tokens between looks at which responses have ended: on a GPU each look waits for it."""
OVER = 0.25
"""Share of a batch that has to be over before the rest goes on as a smaller one: to move keys and values costs, too."""


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
    groups: int = 1,
) -> list[Sampled]:
    """One response per prompt, of at most `noise.shape[1]` tokens.

    Token t of response i is the inverse of the cumulative distribution at `noise[i, t]` in [0, 1), so a response depends on
    its prompt, the policy and its own row of noise, and not on its neighbours in the batch.

    Args:
        groups: of how many policies the model is a stack. Each answers every prompt: `noise` and the responses have
            groups · prompts rows, all of the first policy, then all of the second. The model is always given equally
            many rows for each, in this order; a prompt leaves the batch when all policies have answered it.
        batch_size: rows the model is given at once, at most, but one for each group.

    Raises:
        NotFinite: a policy gives no probabilities.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    at_once = max(1, batch_size // groups)
    drawn: dict[int, Sampled] = {}
    for start in range(0, len(order), at_once):
        rows = [group * len(prompts) + i for group in range(groups) for i in order[start : start + at_once]]
        uniforms = onto(policy.device, noise[rows])
        tokens = _sample_batch(policy, [prompts[i % len(prompts)] for i in rows], uniforms, temperature, top_p, groups)
        drawn |= {row: _until_end(ids, policy.texts.ends) for row, ids in zip(rows, tokens.tolist(), strict=True)}
    return [drawn[i] for i in range(groups * len(prompts))]


@torch.no_grad()  # under inference_mode autocast would cast all weights anew for every token
def _sample_batch(
    policy: Policy, prompts: list[Sequence[int]], uniforms: Tensor, temperature: float, top_p: float, groups: int
) -> Tensor:
    """Tokens (prompts, steps); rows that ended early are padded."""
    batch = _Batch(policy, prompts, uniforms, groups)
    with policy.opened(_last) as model:
        for step in range(uniforms.shape[1]):
            logits = batch.forward(model).float() / temperature
            batch.take(*_draw(logits, batch.uniforms[:, step], top_p), step)
            if step % LOOK_EVERY[policy.device.type] == 0 and not batch.goes_on():
                break
    return batch.finished()


class _Batch:
    """Responses that are drawn together, between two tokens. Those that have ended leave, many at a time.

    Attributes:
        asked: the group and the prompt of each response.
        tokens: (responses, longest) what was drawn.
        place: (rows,) the response that each row of the batch is; rows become fewer.
        mask: (rows, tokens) which tokens are real, those to come included; None where no prompt is padded, so that attention
            needs none.
    """

    def __init__(self, policy: Policy, prompts: list[Sequence[int]], uniforms: Tensor, groups: int):
        rows, limit = uniforms.shape
        self.groups, self.limit, self.pad, self.uniforms = groups, limit, policy.pad, uniforms
        self.ids, mask = _left_padded(prompts, policy.pad, policy.device)
        self.positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.mask = torch.cat([mask, mask.new_ones(rows, limit)], dim=1) if _padded(prompts) else None
        self.seen = mask.shape[1]
        self.asked = [(row * groups // rows, tuple(prompt)) for row, prompt in enumerate(prompts)]
        self.cache: Any = None
        self.ends = onto(policy.device, list(policy.texts.ends))
        self.tokens = self.ids.new_full((rows, limit), policy.pad)
        self.place = torch.arange(rows, device=policy.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=policy.device)
        self.mass = torch.zeros((), dtype=torch.float64, device=policy.device)

    def forward(self, model: Any) -> Tensor:
        """Logits of the next token, (rows, vocabulary)."""
        if self.cache is None:
            return self._begin(model)
        mask = None if self.mask is None else self.mask[:, : self.seen]
        return self._pass(model, self.ids, mask, self.positions)

    def _begin(self, model: Any) -> Tensor:
        """The same for the first token. A prompt that stands in several rows is read once."""
        first = list(dict.fromkeys(self.asked))
        rows = onto(self.ids.device, [self.asked.index(prompt) for prompt in first])
        mask = None if self.mask is None else self.mask[rows, : self.seen]
        logits = self._pass(model, self.ids[rows], mask, self.positions[rows])
        if len(first) < len(self.asked):
            place = {prompt: row for row, prompt in enumerate(first)}
            again = onto(self.ids.device, [place[prompt] for prompt in self.asked])
            self.cache.reorder_cache(again)
            logits = logits[again]
        make_room(self.cache)
        return logits

    def _pass(self, model: Any, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        self.cache = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def take(self, token: Tensor, mass: Tensor, step: int) -> None:
        """The next token of every row that has not ended, and how much probability there was to draw it from."""
        self.tokens[self.place, step] = token = token.masked_fill(self.ended, self.pad)
        self.ended |= torch.isin(token, self.ends)
        self.mass += mass.sum()
        self.ids, self.positions, self.seen = token[:, None], self.positions[:, -1:] + 1, self.seen + 1

    def goes_on(self) -> bool:
        """Whether any response has not ended. If many have, the others go on without them."""
        over = self.ended.view(self.groups, -1).all(0)
        left = len(over) - int(over.sum())
        if 0 < left <= (1 - OVER) * len(over):
            self._keep(_filled_up(over, left))
        return left > 0

    def _keep(self, prompts: Tensor) -> None:
        """Go on with some of the prompts, in every group."""
        first = torch.arange(self.groups, device=prompts.device) * (len(self.place) // self.groups)
        rows = (first[:, None] + prompts).flatten()
        self.cache.reorder_cache(rows)
        for name in ("ids", "positions", "uniforms", "place", "ended"):
            setattr(self, name, getattr(self, name)[rows])
        self.mask = None if self.mask is None else self.mask[rows]

    def finished(self) -> Tensor:
        """What was drawn; whether there were probabilities is looked at once, for on a GPU each look waits for it."""
        if not self.mass.isfinite():
            raise NotFinite("probability of the next token")
        return self.tokens


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


def _filled_up(over: Tensor, left: int) -> Tensor:
    """The prompts that are not over, (left,): those behind the first `left` take the places of those over among them."""
    kept = torch.arange(left, device=over.device)
    kept[over[:left]] = left + (~over[left:]).nonzero()[:, 0]
    return kept


def _padded(prompts: list[Sequence[int]]) -> bool:
    """Whether padding is needed for prompts to be equally long."""
    return len(set(map(len, prompts))) > 1


def _left_padded(prompts: list[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(p)) + list(p) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return onto(device, ids), onto(device, mask)


def _until_end(tokens: list[int], ends: Sequence[int]) -> Sampled:
    """A response is over at the first end token; padding, which may be the same token, stands behind it."""
    at = next((place for place, token in enumerate(tokens) if token in ends), None)
    return Sampled(tokens, True) if at is None else Sampled(tokens[: at + 1], False)
