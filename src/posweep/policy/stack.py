"""K policies of one making as one: trained weights lie on top of one another, frozen ones are shared.

The tokens of a pass are those of the first policy, then equally many of the second, and so on: one product of matrices for
all of them. A policy's own weights are views of the stack, so that optimizer, clipping and checkpoints are those of a
policy alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from posweep.policy.base import Policy
from posweep.policy.packed import Rows
from posweep.policy.score import TokenBatch, collate, pack
from posweep.policy.stacked import StackedEmbedding, StackedLinear, learning, stacked_form


def obstacle(policy: Policy) -> str:
    """Why policies of this making cannot be stacked, as part of a sentence; empty where they can."""
    kinds = {type(module).__name__ for _, module in learning(policy.model) if stacked_form(module) is None}
    if kinds:
        return f"its {', '.join(sorted(kinds))} cannot be stacked"
    try:
        if policy.model not in _TRIED:
            _TRIED[policy.model] = _two_are_two(policy)
    except torch.OutOfMemoryError:
        return "there is no room for two of it"
    return "" if _TRIED[policy.model] else "two of it in one pass do not give what each gives alone"


_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""What models were found to do by `_two_are_two`."""


def _two_are_two(policy: Policy) -> bool:
    """Whether two policies make in one pass what each makes alone: asked of the model itself, on eleven tokens.

    A layer that is not given the tokens of one policy after those of another would take them for each other's.

    Raises:
        torch.OutOfMemoryError: there is no room for two, which says nothing of their layers.
    """
    bare = replace(policy, autocast=None)
    vocabulary = policy.model.config.get_text_config().vocab_size
    ids = [token % vocabulary for token in range(1, 12)]
    prompts, responses = [ids[:4], ids[4:5]], [ids[5:7], ids[7:]]
    batches = [collate(prompts, responses, 0, policy.device)]
    if policy.packs:
        batches.append(pack(prompts, responses, policy.device))
    try:
        stack = _shaken(Stack.untried(bare, 2))
        return all(_same(bare, stack, batch) for batch in batches)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of whatever origin: a layer need not take what we hand it
        return False


def _shaken(stack: Stack) -> Stack:
    """Every weight of every policy moved by noise of its own, of about the size that weights have."""
    noise = torch.Generator(stack.policy.device).manual_seed(0)
    with torch.no_grad():
        for weight in (weight for weights in stack.weights for weight in weights.values()):
            size = 0.3 * (weight.abs().mean() + weight.shape[-1] ** -0.5)
            weight.add_(torch.empty_like(weight).normal_(generator=noise) * size)
    return stack


@torch.no_grad()
def _same(policy: Policy, stack: Stack, batch: TokenBatch) -> bool:
    """Whether a stack's logits are those of the policy with the weights of each."""
    found = stack.logits(lambda hidden: hidden, batch.inputs)
    with policy.opened(lambda hidden: hidden) as model:
        alone = [functional_call(model, weights, kwargs=batch.inputs).logits for weights in stack.weights]
    expected = torch.stack(alone)
    precision = 1e-4 if expected.dtype == torch.float32 else 3e-2
    return bool((found - expected).abs().max() <= precision * expected.abs().max())


@dataclass(frozen=True)
class Stack:
    """K policies as one.

    Attributes:
        policy: reads K · n tokens, n for each policy; what it makes of them comes in the same order.
        weights: each policy's own trained weights by name, views of the stacked ones.
    """

    policy: Policy
    weights: tuple[dict[str, nn.Parameter], ...]
    _stacked: Mapping[str, nn.Parameter]
    _passes: _Passes = field(default_factory=lambda: _Passes())

    @classmethod
    def of(cls, policy: Policy, count: int) -> Stack:
        """`count` copies of a policy; its own weights are left as they are.

        Raises:
            ValueError: it cannot be stacked (`obstacle`).
        """
        if why := obstacle(policy):
            raise ValueError(f"model.name: {why}")
        return cls.untried(policy, count)

    @classmethod
    def untried(cls, policy: Policy, count: int) -> Stack:
        """The same of a policy of which nobody knows whether it can be stacked."""
        model = copy.deepcopy(policy.model, {id(weight): weight for weight in policy.model.parameters()})
        stacked = {
            id(weight): nn.Parameter(weight.detach().expand(count, *weight.shape).clone())
            for weight in model.parameters()
            if weight.requires_grad
        }
        for name, module in learning(model):
            own = {one: stacked.get(id(weight), weight) for one, weight in module.named_parameters(recurse=False)}
            above, _, last = name.rpartition(".")
            model.get_submodule(above)._modules[last] = stacked_form(module)(module, own)
        found = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        weights = tuple({name: nn.Parameter(whole.detach()[k]) for name, whole in found.items()} for k in range(count))
        return cls(replace(policy, model=model), weights, found)

    def __len__(self) -> int:
        return len(self.weights)

    def members(self) -> tuple[Member, ...]:
        """The policies as each is trained; what they read in a step is read once for all (`together`)."""
        common = {one.name: getattr(self.policy, one.name) for one in fields(Policy)}
        return tuple(Member(**common, stack=self, place=place) for place in range(len(self)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """All members read the same here, each in turn: the first to ask has the pass made, the others find it made."""
        self._passes.begin(len(self))
        try:
            yield
        finally:
            self._passes.begin(0)

    def logits(self, wanted: Callable[[Tensor], Tensor], inputs: Mapping[str, Any]) -> Tensor:
        """What every policy makes of the same inputs, projected where `wanted` says: (policies, …, vocabulary)."""
        each = self._each(inputs)
        found = self.policy.run(
            lambda hidden: torch.cat([wanted(one) for one in each(hidden)]), **self._for_all(inputs)
        )
        return found.logits.unflatten(0, (len(self), -1))  # type: ignore[no-any-return]

    def hidden(self, inputs: Mapping[str, Any]) -> Tensor:
        """The last hidden states of every policy on the same inputs, (policies, sequences, longest, size)."""
        return self._each(inputs)(self.policy.hidden(**self._for_all(inputs)))

    def _each(self, inputs: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
        shape = inputs["input_ids"].shape
        return lambda hidden: hidden.view(len(self), *shape, -1)

    def _for_all(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of one policy for each of them: packed ones in the same row, others in rows of their own."""
        count, packed = len(self), inputs.get("rows") is not None
        times = (1, count) if packed else (count, 1)
        positions = {} if packed or not self._looks_positions_up else _positions(inputs["input_ids"])
        return {
            name: value.repeat(*times) if isinstance(value, Tensor) else _repeated(value, count)
            for name, value in {**positions, **inputs}.items()
        }

    @cached_property
    def _looks_positions_up(self) -> bool:
        """Whether there are tables of the policies' own beside that of the tokens."""
        tokens, modules = self.policy.model.get_input_embeddings(), self.policy.model.modules()
        return any(isinstance(module, StackedEmbedding) and module is not tokens for module in modules)

    @contextmanager
    def head_of(self, place: int) -> Iterator[None]:
        """Hidden states that are given to the output layer inside are those of one policy."""
        head = self.policy.model.get_output_embeddings()
        stacked = [module for module in head.modules() if isinstance(module, StackedLinear)]
        for module in stacked:
            module.only = place
        try:
            yield
        finally:
            for module in stacked:
                module.only = None

    def share_gradients(self) -> None:
        """Give each policy its part of the gradient of all."""
        for name, whole in self._stacked.items():
            for place, weights in enumerate(self.weights):
                weights[name].grad = None if whole.grad is None else whole.grad[place]

    def forget_gradients(self) -> None:
        """Nothing is left of a step, nor with a policy that has ended: its part would keep the whole."""
        for weights in (self._stacked, *self.weights):
            for weight in weights.values():
                weight.grad = None


class _Passes:
    """What one pass made for all members, by how manyeth pass of the step it is."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, count: int) -> None:
        self.asked, self.made = [0] * count, list[tuple[Tensor, ...]]()

    def of(self, place: int, make: Callable[[], Tensor]) -> Tensor:
        nth = self.asked[place]
        self.asked[place] += 1
        if nth == len(self.made):
            self.made.append(make().unbind(0))  # at once, for its gradient to be put together at once
        return self.made[nth][place]


@dataclass(frozen=True)
class Member(Policy):
    """One policy of a stack. What it reads, all of the stack read."""

    stack: Stack = field(kw_only=True)
    place: int = field(kw_only=True)

    def run(self, wanted: Callable[[Tensor], Tensor], **inputs: Any) -> Any:
        """Its own logits out of the pass of all."""
        return SimpleNamespace(logits=self._own(lambda: self.stack.logits(wanted, inputs)))

    def hidden(self, **inputs: Any) -> Tensor:
        """Its own hidden states out of the pass of all."""
        return self._own(lambda: self.stack.hidden(inputs))

    def logits(self, hidden: Tensor) -> Tensor:
        """What its own output layer makes of some hidden states."""
        with self.stack.head_of(self.place):
            return super().logits(hidden)

    def _own(self, make: Callable[[], Tensor]) -> Tensor:
        return self.stack._passes.of(self.place, make)


def _positions(ids: Tensor) -> dict[str, Tensor]:
    """Of every token of padded rows. A model that is not told takes one row of them for all, which is of no policy."""
    return {"position_ids": torch.arange(ids.shape[1], device=ids.device).expand_as(ids)}


def _repeated(value: Any, count: int) -> Any:
    """What is no tensor: where tokens stand in rows, for each policy."""
    return value.repeated(count) if isinstance(value, Rows) else value
