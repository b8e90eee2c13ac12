"""A block of a sweep → its points: a grid, an explicit list, or draws by Optuna's samplers, made when the plan is made."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from posweep.fields import about, plain, range_problems, typed
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.settings import Configuration, TrainSettings

PRIORS = ("recommended", "published", "matched", "custom")
SHARED = {field.name for field in fields(TrainSettings) if about(field).scope == "train"} - {"threads"}
"""Training settings that a block may vary beside a method's hyperparameters."""

Raw = list[tuple[dict[str, str], dict[str, Any]]]
"""Points as written: where each value stands in the file, and the value."""
Checked = dict[tuple[str, str, str], list[Any]]
"""Values that were checked before, by name, place and what is written there: as their declared type, or nothing."""


def blocks(configuration: Configuration, problems: list[str]) -> list[dict[str, Any]]:
    """The sweep's blocks for the selected methods; a method without one brings its recommended grid."""
    sweep, methods = configuration.sweep, configuration.methods
    found: list[dict[str, Any]] = []
    for index, block in enumerate(sweep.blocks):
        place = f"{sweep.source} → blocks[{index}]"
        problems += _block_problems(place, block)
        if block.get("method") in tuple(methods):
            found.append({**block, "place": f"{place}.", "index": index})
    missing = [name for name in methods if name not in {block["method"] for block in found}]
    for index, name in enumerate(missing, start=len(sweep.blocks)):
        grid = methods[name].grid
        grid = {**grid, "learning_rate": grid.get("learning_rate", sweep.learning_rates)}
        place = f"conf/method/{name}.yaml → "
        found.append({"method": name, "grid": grid, "prior": "recommended", "place": place, "index": index})
    return found if not problems else []


def _block_problems(place: str, block: Mapping[str, Any]) -> list[str]:
    known = ("method", "prior", *KINDS)
    problems = [
        f"{place}.{name}: no such entry; a block takes {', '.join(known)}." for name in block if name not in known
    ]
    if block.get("method") not in tuple(OBJECTIVES):
        problems.append(f"{place}.method: {block.get('method')!r} is no method; there are {', '.join(OBJECTIVES)}.")
    if block.get("prior", "custom") not in PRIORS:
        problems.append(f"{place}.prior: {block['prior']!r} is no prior; there are {', '.join(PRIORS)}.")
    if sum(kind in block for kind in KINDS) != 1:
        problems.append(f"{place}: needs exactly one of {', '.join(KINDS)}.")
    return problems


def design(block: Mapping[str, Any]) -> str:
    """How a block chooses its points."""
    return next(kind for kind in KINDS if kind in block)


def expand(block: Mapping[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """The points of one block, each checked against the method's hyperparameters and the shared settings."""
    kind = design(block)
    place, content = f"{block['place']}{kind}", block[kind]
    found: list[str] = []
    try:
        raw = KINDS[kind](place, content, found, kind, block["index"])
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raw, found = [], [f"{place}: cannot be read ({error}); docs/sweeps.md shows the form of a block."]
    values: Checked = {}
    points = [_checked(place, block["method"], where, point, found, values) for where, point in raw]
    problems += dict.fromkeys(found)
    return points


def _grid(place: str, content: Mapping[str, Sequence[Any]], found: list[str], _kind: str, _index: int) -> Raw:
    """Every combination; each value knows its place in the file."""
    axes = []
    if not content:
        found.append(f"{place}: must vary something, got {plain(content)!r}.")
    for name, values in content.items():
        if not isinstance(values, list | tuple) or not values:
            found.append(f"{place}.{name}: must be a list with at least one value, got {plain(values)!r}.")
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
    import warnings

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # QMCSampler calls itself experimental
        sampler = samplers.QMCSampler(scramble=True, seed=seed) if kind == "qmc" else samplers.RandomSampler(seed=seed)
    draws = study.create_study(sampler=sampler)
    if kind == "qmc" and space:
        draws.tell(draws.ask(space), 0.0)  # QMC learns its space from a finished trial, which it draws independently
    points = [draws.ask(space).params for _ in range(int(content["points"]))]
    if not points or not space:
        found.append(f"{place}: needs points ≥ 1 and a space with at least one axis, got {plain(content)!r}.")
    rounded = [{n: float(f"{v:.6g}") if isinstance(v, float) else v for n, v in point.items()} for point in points]
    return [({name: f"{place}.space.{name}" for name in point}, point) for point in rounded]


def _checked(
    place: str, method: str, where: Mapping[str, str], point: Mapping[str, Any], found: list[str], values: Checked
) -> dict[str, Any]:
    """A point with its values as their declared types; every mistake a sentence in `found`, once."""
    checked: dict[str, Any] = {}
    for name, value in point.items():
        known = (name, where[name], repr(value))
        if known not in values:
            values[known] = _checked_value(place, method, where[name], name, value, found)
        for right in values[known]:
            checked[name] = right
    return checked


def _checked_value(place: str, method: str, where: str, name: str, value: Any, found: list[str]) -> list[Any]:
    """A list of the value as its declared type, or of nothing where it has none."""
    objective = OBJECTIVES[method]
    own = hyperparameters(objective)
    cls = objective if name in own else TrainSettings
    if name not in own and name not in SHARED:
        found.append(f"{place}: {unknown_hyperparameter(method, name, in_block=True)}")
        return []
    try:
        right = typed(value, _hints(cls)[name])
    except ValueError as error:
        found.append(f"{where}: {own[name].symbol if name in own else name} {error}.")
        return []
    parent = where.rpartition(name)[0]
    problems = range_problems(cls, {name: right}, parent.rstrip("."))
    found += [problem.replace(f"{parent}{name}:", f"{where}:") for problem in problems]
    return [right]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def unknown_hyperparameter(method: str, name: str, in_block: bool = False) -> str:
    """The sentence for a name that is no hyperparameter of the method nor, in a block, a shared training setting."""
    title, own = OBJECTIVES[method].title, hyperparameters(OBJECTIVES[method])
    takes = "it takes " + ", ".join(f"{n} ({a.symbol})" for n, a in own.items()) if own else "it has none"
    if in_block:
        takes += f"; a block may also vary a shared training setting ({', '.join(sorted(SHARED))})"
    elif name in SHARED:
        takes += f"; {name} is set for all methods, by train.{name}"
    return f"{title} has no hyperparameter '{name}'; {takes}."


KINDS: dict[str, Callable[..., Raw]] = {"grid": _grid, "list": _list, "random": _drawn, "qmc": _drawn}
