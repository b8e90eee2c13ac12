"""Sweep → Plan: an ordered tuple of trials with stable keys. Pure, and without torch: it can be printed, diffed, counted.

A grid over methods is a sum of products (SimPO has γ, DPO has not), so the plan is expanded here and Ray gets only keys.
Three nested keys name the work, each of everything that determines its numbers and of nothing else:

    key           method and version of its formula, hyperparameters, training settings, data, model, seed
    response_key  + evaluation prompts and sampling
    score_key     + judges
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from posweep import data
from posweep.errors import ConfigError
from posweep.fields import plain, range_problems, scoped, typed
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.records import TrialSpec
from posweep.settings import Configuration, TrainSettings

SCHEMA = 1
"""Of the keys and of plan.jsonl. Raised when the loop's arithmetic or a key's contents change."""

KINDS = ("grid", "list", "random", "qmc")
PRIORS = ("recommended", "published", "matched", "custom")
SHARED = {field.name for field in fields(TrainSettings)} - {"evaluate_at", "micro_batch_size", "threads"}
DETECTABLE = 2.8 * 0.35
"""z(97.5 %) + z(80 %) standard errors of a prompt's win against four SFT responses (measured spread 0.35)."""


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, in order; no key twice."""

    name: str
    trials: tuple[TrialSpec, ...]

    def __iter__(self) -> Iterator[TrialSpec]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def of(self, key: str) -> TrialSpec:
        """The trial whose key begins with `key`; ConfigError where none or several do."""
        found = [spec for spec in self if key and spec.key.startswith(key)]
        if len(found) != 1:
            some = ", ".join(spec.key for spec in (found or self.trials)[:3])
            raise ConfigError(
                f"key={key}: {len(found) or 'no'} trials of sweep {self.name} begin with it; keys look like {some}, … "
                f"(posweep plan sweep={self.name} lists them)."
            )
        return found[0]

    def to_jsonl(self) -> str:
        """One trial a line, the same bytes in every process."""
        return "".join(_canonical(spec.to_json()) + "\n" for spec in self)

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
    points = [
        (index, block, point)
        for index, block in enumerate(_blocks(configuration, problems))
        for point in _points(configuration, index, block, problems)
    ]
    if problems:
        raise ConfigError(problems)
    context = _context(configuration)
    trials = (
        _trial(configuration, context, index, block, point, seed)
        for index, block, point in points
        for seed in configuration.sweep.seeds
    )
    unique = {spec.key: spec for spec in reversed(list(trials))}
    return Plan(configuration.sweep.name, tuple(reversed(unique.values())))


def detectable_difference(prompts: int) -> float:
    """The smallest difference in win-rate that P prompts can show (5 % two-sided, power 80 %): 0.98/√P."""
    return float(DETECTABLE / prompts**0.5)


def fingerprint(content: Any) -> str:
    """A short hash of plain data, whatever the order of its keys: 64 bits of SHA-256 in hexadecimal."""
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]


def shared_fingerprints(configuration: Configuration) -> dict[str, Any]:
    """What determines each artifact all trials share: `train_data`, `evaluation_data`, `model`, `sft`, …"""
    train_data, evaluation_data = data.fingerprints(configuration.data)
    model = {"model": scoped(configuration.model, "train"), "threads": configuration.train.threads}
    sampling = {**scoped(configuration.evaluation, "response"), **scoped(configuration.sample, "response")}
    return {
        "schema": SCHEMA,
        "train_data": train_data,
        "evaluation_data": evaluation_data,
        "model": model,
        "sampling": sampling,
        "judges": {name: plain(settings) for name, settings in configuration.judges.items()},
    }


# --- blocks


def _blocks(configuration: Configuration, problems: list[str]) -> list[dict[str, Any]]:
    """The sweep's blocks for the selected methods; a method without one brings its recommended grid."""
    sweep = configuration.sweep
    blocks = []
    for index, block in enumerate(sweep.blocks):
        place = f"{sweep.source} → blocks[{index}]"
        problems += _block_problems(place, block)
        if block.get("method") in configuration.methods:
            blocks.append({**block, "place": place})
    covered = {block["method"] for block in blocks}
    for name, method in configuration.methods.items():
        if name not in covered:
            place = f"conf/method/{name}.yaml"
            blocks.append({"method": name, "grid": method.grid, "prior": "recommended", "place": place})
    return blocks if not problems else []


def _block_problems(place: str, block: Mapping[str, Any]) -> list[str]:
    known = ("method", "prior", *KINDS)
    problems = [f"{place}.{name}: no such entry; a block takes {', '.join(known)}." for name in block if name not in known]
    if block.get("method") not in OBJECTIVES:
        problems.append(f"{place}.method: {block.get('method')!r} is no method; there are {', '.join(OBJECTIVES)}.")
    if block.get("prior", "custom") not in PRIORS:
        problems.append(f"{place}.prior: {block['prior']!r} is no prior; there are {', '.join(PRIORS)}.")
    if sum(kind in block for kind in KINDS) != 1:
        problems.append(f"{place}: needs exactly one of {', '.join(KINDS)}.")
    return problems


def _points(
    configuration: Configuration, index: int, block: Mapping[str, Any], problems: list[str]
) -> list[dict[str, Any]]:
    """The points of one block, each checked against the method's hyperparameters and the shared settings."""
    kind = next(kind for kind in KINDS if kind in block)
    place, content = f"{block['place']}{'.' if '→' in block['place'] else ' → '}{kind}", block[kind]
    expand = {"grid": _grid, "list": _list, "random": _drawn, "qmc": _drawn}[kind]
    found: list[str] = []
    try:
        raw = expand(place, content, found, kind, index)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raw, found = [], [f"{place}: cannot be read ({error}); see docs/sweeps.md for the form of a block."]
    points = [_checked(place, block["method"], where, point, found) for where, point in raw]
    problems += dict.fromkeys(found)
    return points


Raw = list[tuple[dict[str, str], dict[str, Any]]]


def _grid(place: str, content: Mapping[str, Sequence[Any]], found: list[str], _kind: str, _index: int) -> Raw:
    """Every combination; each value knows its place in the file."""
    axes = []
    for name, values in content.items():
        if not isinstance(values, list | tuple) or not values:
            found.append(f"{place}.{name}: must be a list with at least one value, got {values!r}.")
        else:
            axes.append([(name, f"{place}.{name}[{i}]", value) for i, value in enumerate(values)])
    return [
        ({name: where for name, where, _ in combination}, {name: value for name, _, value in combination})
        for combination in itertools.product(*axes)
    ]


def _list(place: str, content: Sequence[Mapping[str, Any]], found: list[str], _kind: str, _index: int) -> Raw:
    if not content:
        found.append(f"{place}: must be a list of points with at least one, got {content!r}.")
    return [({name: f"{place}[{i}].{name}" for name in point}, dict(point)) for i, point in enumerate(content)]


def _drawn(place: str, content: Mapping[str, Any], found: list[str], kind: str, index: int) -> Raw:
    """Points drawn by Optuna's samplers when the plan is made: a fixed list like any other."""
    from optuna import logging, samplers, study
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    logging.set_verbosity(logging.ERROR)
    space = {
        name: CategoricalDistribution(axis["choices"])
        if "choices" in axis
        else FloatDistribution(float(axis["low"]), float(axis["high"]), log=bool(axis.get("log", False)))
        for name, axis in content["space"].items()
    }
    seed = int(content.get("seed", index))
    sampler = samplers.QMCSampler(scramble=True, seed=seed) if kind == "qmc" else samplers.RandomSampler(seed=seed)
    if kind == "qmc":
        sampler._initial_search_space = dict(space)  # QMC otherwise draws its first point independently
    draws = study.create_study(sampler=sampler)
    points = [draws.ask(space).params for _ in range(int(content["points"]))]
    if not points or not space:
        found.append(f"{place}: needs points ≥ 1 and a space with at least one axis, got {plain(content)!r}.")
    rounded = [{n: float(f"{v:.6g}") if isinstance(v, float) else v for n, v in point.items()} for point in points]
    return [({name: f"{place}.space.{name}" for name in point}, point) for point in rounded]


def _checked(
    place: str, method: str, where: Mapping[str, str], point: dict[str, Any], found: list[str]
) -> dict[str, Any]:
    """A point with its values as their declared types; every mistake a sentence in `found`."""
    objective = OBJECTIVES[method]
    own = hyperparameters(objective)
    checked: dict[str, Any] = {}
    for name, value in point.items():
        cls = objective if name in own else TrainSettings
        if name not in own and name not in SHARED:
            found.append(f"{place}: {unknown_hyperparameter(method, name)}")
            continue
        try:
            checked[name] = typed(value, get_type_hints(cls)[name])
        except ValueError as error:
            found.append(f"{where[name]}: {own[name].symbol if name in own else name} {error}.")
            continue
        parent = where[name].rpartition(name)
        found += [p.replace(f"{parent[0]}{name}:", f"{where[name]}:") for p in
                  range_problems(cls, {name: checked[name]}, parent[0].rstrip("."))]  # fmt: skip
    return checked


def unknown_hyperparameter(method: str, name: str) -> str:
    """The sentence for a name that is neither the method's hyperparameter nor a shared training setting."""
    own = ", ".join(f"{n} ({a.symbol})" for n, a in hyperparameters(OBJECTIVES[method]).items()) or "none"
    shared = ", ".join(sorted(SHARED))
    return (
        f"{OBJECTIVES[method].title} has no hyperparameter '{name}'; it takes {own}, "
        f"or a shared training setting ({shared})."
    )


# --- keys


def _context(configuration: Configuration) -> dict[str, Any]:
    shared = shared_fingerprints(configuration)
    return {
        "train": {name: shared[name] for name in ("schema", "train_data", "model")},
        "response": {
            "evaluation_data": shared["evaluation_data"],
            "sampling": shared["sampling"],
            "evaluate_at": list(configuration.train.evaluate_at),
        },
        "score": {"judges": list(shared["judges"].items())},
    }


def _trial(
    configuration: Configuration, context: Mapping[str, Any], index: int, block: Mapping[str, Any],
    point: Mapping[str, Any], seed: int,
) -> TrialSpec:  # fmt: skip
    method = block["method"]
    objective, own = OBJECTIVES[method], hyperparameters(OBJECTIVES[method])
    given = {**configuration.methods[method].hyperparameters, **{n: v for n, v in point.items() if n in own}}
    values = plain(objective(**given))
    train = {**scoped(configuration.train, "train"), **{n: v for n, v in point.items() if n not in own}}
    work = {"method": method, "version": objective.version, "hyperparameters": values, "train": train}
    configured = fingerprint({**context["train"], **work})
    key = fingerprint({"configuration": configured, "seed": seed})
    response_key = fingerprint({"key": key, **context["response"]})
    score_key = fingerprint({"response_key": response_key, **context["score"]})
    return TrialSpec(
        key=key, response_key=response_key, score_key=score_key, configuration=configured, method=method,
        hyperparameters=values, train=train, seed=seed, varied=tuple(point), block=index,
        prior=block.get("prior", "custom"),
    )  # fmt: skip


def _canonical(content: Any) -> str:
    return json.dumps(plain(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_path)


def _path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} has no place in a key")
