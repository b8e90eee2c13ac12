"""Trials that are trained and measured in one pass: they see the same batches and prompts, and each has its own weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from posweep.artifacts.shared import Shared
from posweep.errors import NotFinite
from posweep.policy.base import Policy
from posweep.policy.checkpoint import Door
from posweep.policy.load import trained
from posweep.policy.sample import Sampled
from posweep.policy.stack import Stack
from posweep.policy.train import Curves, reset
from posweep.records import TrialSpec
from posweep.trial.course import Course
from posweep.trial.evaluate import Respond
from posweep.trial.generate import Draw, draw, generate


@dataclass
class Trial:
    """A trial under way.

    Attributes:
        curves: of a training that was done to its last step.
        end: why it ended before it was trained and measured; None where it was.
        put: brings its weights into the policy that trials share.
    """

    spec: TrialSpec
    course: Course
    door: Door
    curves: Curves = field(default_factory=dict)
    end: Exception | None = None
    put: Callable[[], None] = lambda: None


class Cohort:
    """Trials at the SFT weights: several in a stack, or one in the policy that trials share.

    Attributes:
        policy: what computes.
        stack: the policies of several; None of one.
        weights: each trial's own.
    """

    def __init__(self, trials: Sequence[Trial], shared: Shared):
        self.trials, self.shared = trials, shared
        reset(trained(shared.policy), shared.weights)
        self.stack = Stack.of(shared.policy, len(trials)) if len(trials) > 1 else None
        self.policy = self.stack.policy if self.stack else shared.policy
        self.weights: Sequence[Mapping[str, Tensor]] = self.stack.weights if self.stack else [trained(shared.policy)]
        for trial, weights in zip(trials, self.weights, strict=True) if self.stack else ():
            trial.put = partial(reset, trained(shared.policy), weights)

    def seen_by(self, place: int) -> Shared:
        """What a trial finds, with the policy that it trains."""
        policies: Sequence[Policy] = self.stack.members() if self.stack else [self.policy]
        return dataclasses.replace(self.shared, policy=policies[place])

    def responding(self, going: Sequence[int]) -> Iterator[tuple[int, Respond | None]]:
        """The trials that go on, each with its weights in the policy that trials share, and how it is to respond."""
        if self.stack is None:
            yield 0, None
            return
        for place in set(range(len(self.trials))) - set(going):
            reset(self.weights[place], self.shared.weights)  # of whose numbers nobody knows what they are
        draws = _Draws(self.stack)
        self.policy.model.eval()
        for place in going:
            self.trials[place].put()
            yield place, partial(generate, draw=draws.of(place))
        self.policy.model.train()


class _Draws:
    """Responses of all policies of a stack, drawn in one pass as soon as one of them is asked for."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.drawn: dict[str, list[list[Sampled]] | None] = {}

    def of(self, place: int) -> Draw:
        """How a trial draws."""

        def own(spec: TrialSpec, shared: Shared, name: str, temperature: float, top_p: float) -> list[Sampled]:
            if name not in self.drawn:
                self.drawn[name] = self._all(spec, shared, name, temperature, top_p)
            found = self.drawn[name]
            return draw(spec, shared, name, temperature, top_p) if found is None else found[place]

        return own

    def _all(
        self, spec: TrialSpec, shared: Shared, name: str, temperature: float, top_p: float
    ) -> list[list[Sampled]] | None:
        """Those of each policy; None where some policy gives no probabilities: asked alone, it will say so itself."""
        stacked, count = dataclasses.replace(shared, policy=self.stack.policy), len(self.stack)
        try:
            drawn = draw(spec, stacked, name, temperature, top_p, groups=count)
        except NotFinite:
            return None
        each = len(drawn) // count
        return [drawn[first : first + each] for first in range(0, len(drawn), each)]
