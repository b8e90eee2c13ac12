"""Sweep → Plan: an ordered tuple of trials with stable keys. Pure, and without torch: it can be printed, diffed, counted.

A grid over methods is a sum of products (SimPO has γ, DPO has not), so the plan is expanded here and Ray gets only keys.
Three nested keys name the work, each of everything that determines its numbers and of nothing else:

    key           method and version of its formula, hyperparameters, training settings, data, model, seed
    response_key  + evaluation prompts and sampling
    score_key     + judges
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from posweep import data, hub
from posweep.blocks import blocks, design, expand
from posweep.errors import ConfigError
from posweep.fields import canonical, fingerprint, fingerprint_beside, plain, scoped
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.records import TrialSpec
from posweep.settings import Configuration

SCHEMA = 3
"""Of the keys and of plan.jsonl. Raised when the loop's arithmetic or a key's contents change."""

DETECTABLE = 2.8 * 0.35
"""z(97.5 %) + z(80 %) standard errors of a prompt's win against four SFT responses (measured spread 0.35)."""


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, in order; no key twice. Those that a search chose by scores it saw come last."""

    name: str
    trials: tuple[TrialSpec, ...]

    def __iter__(self) -> Iterator[TrialSpec]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def of(self, key: str, listing: str = "") -> TrialSpec:
        """The trial whose key begins with `key`; ConfigError where none or several do, with the command that lists all."""
        found = [spec for spec in self if key and spec.key.startswith(key)]
        if len(found) != 1:
            some = ", ".join(spec.key for spec in (found or self.trials)[:3])
            raise ConfigError(
                f"key={key}: {len(found) or 'no'} trials of sweep {self.name} begin with it; keys look like {some}, …"
                f"{f' ({listing} lists them)' if listing else ''}."
            )
        return found[0]

    @property
    def adaptive(self) -> tuple[TrialSpec, ...]:
        """The trials of a search: they are no part of the grid, and enter no distribution."""
        return tuple(spec for spec in self if spec.design == "adaptive")

    def extended(self, trials: Iterable[TrialSpec]) -> Plan:
        """The same with trials appended; one that it holds already stays as it is."""
        held = {spec.key: spec for spec in self}
        for spec in trials:
            held.setdefault(spec.key, spec)
        return Plan(self.name, tuple(held.values()))

    def to_jsonl(self) -> str:
        """One trial a line, the same bytes in every process."""
        return "".join(canonical(spec.to_json()) + "\n" for spec in self)

    @classmethod
    def from_jsonl(cls, name: str, text: str) -> Plan:
        """The plan that `to_jsonl` wrote."""
        return cls(name, tuple(TrialSpec.from_json(json.loads(line)) for line in text.splitlines()))


def make_plan(configuration: Configuration) -> Plan:
    """Expand the blocks of a sweep into trials.

    Raises:
        ConfigError: every mistake in the blocks, one sentence each.
    """
    problems: list[str] = []
    points = [(block, point) for block in blocks(configuration, problems) for point in expand(block, problems)]
    if problems:
        raise ConfigError(problems)
    planner = Planner(configuration)
    trials = (planner.trial(block, point, seed) for block, point in points for seed in configuration.sweep.seeds)
    unique = {spec.key: spec for spec in reversed(list(trials))}
    return Plan(configuration.sweep.name, tuple(reversed(unique.values())))


def largest_batch(plan: Plan) -> int:
    """The most pairs that a step of any trial takes."""
    return max(int(spec.train["batch_size"]) for spec in plan)


def detectable_difference(prompts: int) -> float:
    """The smallest difference in win-rate that P prompts can show (5 % two-sided, power 80 %): 0.98/√P."""
    return float(DETECTABLE / prompts**0.5)


def shared_fingerprints(configuration: Configuration) -> dict[str, Any]:
    """What determines what all trials share, by part; `sampling` without the choice of sets."""
    train_data, evaluation_data = data.fingerprints(configuration.data, configuration.evaluation.sources)
    model = {"model": hub.identity(configuration.model), "threads": configuration.train.threads}
    evaluation = {name: v for name, v in scoped(configuration.evaluation, "response").items() if name != "sets"}
    sampling = {**evaluation, **scoped(configuration.sample, "response")}
    return {
        "schema": SCHEMA,
        "train_data": train_data,
        "evaluation_data": evaluation_data,
        "model": model,
        "sampling": sampling,
        "judges": {name: hub.identity(settings) for name, settings in configuration.judges.items()},
    }


# --- keys


class Planner:
    """Makes trials with their keys. What all keys of a sweep have in common (content of files too) is read once.

    Attributes:
        context: what enters the keys besides a trial's own values, by the key that it enters: train, response, score.
    """

    def __init__(self, configuration: Configuration):
        self.methods, self.settings = configuration.methods, scoped(configuration.train, "train")
        self.context = _context(configuration)
        self._response_key = fingerprint_beside("key", self.context["response"])
        self._score_key = fingerprint_beside("response_key", self.context["score"])

    def trial(self, block: Mapping[str, Any], point: Mapping[str, Any], seed: int, adaptive: bool = False) -> TrialSpec:
        """The trial of a point with a seed.

        Args:
            block: as `blocks.blocks` gives it: `method`, `index`, how it chooses its points and, if said, `prior`.
            point: values as their declared types, as `blocks.expand` gives them.
            adaptive: whether a search that saw scores chose the point.
        """
        method, objective, own = (
            block["method"],
            OBJECTIVES[block["method"]],
            hyperparameters(OBJECTIVES[block["method"]]),
        )
        given = {**self.methods[method].hyperparameters, **{n: v for n, v in point.items() if n in own}}
        values = plain(objective(**given))
        train = {**self.settings, **{n: v for n, v in point.items() if n not in own}}
        work = {"method": method, "version": objective.version, "hyperparameters": values, "train": train}
        configured = fingerprint({**self.context["train"], **work})
        key = fingerprint({"configuration": configured, "seed": seed})
        response_key = self._response_key(key)
        score_key = self._score_key(response_key)
        return TrialSpec(
            key=key, response_key=response_key, score_key=score_key, configuration=configured, method=method,
            hyperparameters=values, train=train, seed=seed, varied=tuple(point), block=block["index"],
            prior=block.get("prior", "custom"), design="adaptive" if adaptive else design(block),
        )  # fmt: skip


def _context(configuration: Configuration) -> dict[str, Any]:
    shared = shared_fingerprints(configuration)
    return {
        "train": {name: shared[name] for name in ("schema", "train_data", "model")},
        "response": {
            "evaluation_data": shared["evaluation_data"],
            "sampling": shared["sampling"],
            "sets": list(configuration.sets),
            "evaluate_at": list(configuration.train.evaluate_at),
        },
        "score": {"judges": list(shared["judges"].items())},
    }
