"""A plan beside the one that was launched last: which trials are the same, new or gone, and which settings changed keys.

Trials are paired by what tells them apart within a sweep: method, the values that their block varies, seed. A pair with
different keys was changed by a setting; a trial without a partner came or went with the grid.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posweep.errors import ConfigError
from posweep.folder import PLAN
from posweep.identity import Identity, read_identity, read_plan
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES
from posweep.plan import Plan
from posweep.records import TrialSpec

Level = Literal["key", "response_key", "score_key"]
LEVELS: tuple[Level, ...] = ("key", "response_key", "score_key")
Settings = Mapping[str, Any]
"""Values by their place in the configuration."""

PLACES = {
    "schema": "posweep's arithmetic (schema)",
    "train_data.without_prompts_of": "data",
    "train_data": "data",
    "model.model": "model",
    "model.threads": "train.threads",
    "evaluation_data.sources": "evaluation.sources",
    "evaluation_data": "data",
    "sampling.prompts": "evaluation.prompts",
    "sampling.baseline_responses": "evaluation.baseline_responses",
    "sampling": "sample",
    "sets": "evaluation.sets",
    "evaluate_at": "train.evaluate_at",
}
"""Where in the configuration a part of the identity comes from; the first that fits."""
FEW = 4
"""Values that a sentence lists."""
UNKNOWN = "something that the last launch did not write down"


@dataclass(frozen=True)
class Change:
    """One setting that gave trials other keys: which (`train.weight_decay 0.0 → 0.1`), of what level, of how many trials.

    `lost` are those of them whose result is not used any more; `along` says that they are measured along training.
    """

    what: str
    level: Level
    trials: int
    lost: int
    along: bool = False

    def __str__(self) -> str:
        many = f"{self.trials} trial{'s' * (self.trials != 1)}"
        lost = f" ({self.lost} of them had finished)" if self.lost else ""
        if self.level == "key":
            return f"{self.what} changes the key of {many}: they will be trained again{lost}."
        if self.level == "response_key":
            return (
                f"{self.what} changes what {many} are measured on: they will be trained again to draw responses{lost}."
            )
        if self.along:
            return (
                f"{self.what} changes the judging of {many}, measured along training: they will be trained again{lost}."
            )
        return f"{self.what}: the scores of {many} will be computed again, nothing is trained{lost}."


@dataclass(frozen=True)
class Difference:
    """What became of the plan that was launched last."""

    same: int
    changed: int
    changes: tuple[Change, ...]
    new: tuple[TrialSpec, ...]
    gone: tuple[TrialSpec, ...]
    adaptive: int
    new_are: str = ""
    gone_were: str = ""

    def __str__(self) -> str:
        parts = [f"{self.same} trial{'s' * (self.same != 1)} the same"]
        parts += [f"{self.changed} with other keys"] if self.changed else []
        parts += [f"{len(self.new)} new{self.new_are}"] if self.new else []
        parts += [f"{len(self.gone)} gone{self.gone_were}"] if self.gone else []
        adaptive = f" (+ {self.adaptive} adaptive)" if self.adaptive else ""
        return f"Since the last launch: {', '.join(parts)}{adaptive}."


def compare(
    before: Plan, plan: Plan, was: Identity | None, now: Identity, recorded: Collection[str] = ()
) -> Difference:
    """What sets a plan apart from the one launched before.

    Args:
        was: what the keys of that one were made of; None where it is not known.
        recorded: keys that have a result.
    """
    old, new = ([spec for spec in one if spec.design != "adaptive"] for one in (before, plan))
    held = {spec.score_key for spec in old}
    kept = [spec for spec in new if spec.score_key in held]
    gone = {_coordinates(spec): spec for spec in _without(old, kept)}
    pairs, come = list[tuple[TrialSpec, TrialSpec]](), list[TrialSpec]()
    for spec in _without(new, kept):
        partner = gone.pop(_coordinates(spec), None)
        if partner:
            pairs.append((partner, spec))
        else:
            come.append(spec)
    went = tuple(gone.values())
    return Difference(
        len(kept), len(pairs), _changes(pairs, was, now, recorded), tuple(come), went, len(before.adaptive),
        _described(come, old), _described(went, new),
    )  # fmt: skip


def since_last_launch(folder: Path, plan: Plan, now: Identity) -> Difference | None:
    """What sets a plan apart from the one that was launched last in this folder; None where there was none.

    Raises:
        ConfigError: plan.jsonl is damaged.
    """
    if not (folder / PLAN).is_file():
        return None
    return compare(read_plan(folder, plan.name), plan, read_identity(folder), now, Ledger(folder).recorded())


def changed_since(folder: Path, plan: Plan, now: Identity) -> list[str]:
    """What a launch says before it writes its own plan: the settings that changed keys, so that nothing silently repeats."""
    try:
        difference = since_last_launch(folder, plan, now)
    except ConfigError as error:
        return list(error.problems)
    return [str(change) for change in difference.changes] if difference else []


def _without(specs: Sequence[TrialSpec], kept: Sequence[TrialSpec]) -> list[TrialSpec]:
    held = {spec.score_key for spec in kept}
    return [spec for spec in specs if spec.score_key not in held]


def _coordinates(spec: TrialSpec) -> tuple[Any, ...]:
    """What tells a trial from the others of its sweep, whatever the settings they share."""
    point = spec.point
    return spec.method, tuple(sorted((name, str(point[name])) for name in spec.varied)), spec.seed


# --- what changed


def _changes(
    pairs: Sequence[tuple[TrialSpec, TrialSpec]], was: Identity | None, now: Identity, recorded: Collection[str]
) -> tuple[Change, ...]:
    """Every setting that differs, with the trials it gave other keys."""
    shared = {level: list(_shared(level, was, now)) if was else [] for level in LEVELS}
    trials, lost = Counter[tuple[Level, str]](), Counter[tuple[Level, str]]()
    for old, new in pairs:
        level = next(one for one in LEVELS if getattr(old, one) != getattr(new, one))
        own = list(_own(old, new, was, now)) if level == "key" else []
        for what in dict.fromkeys([*own, *shared[level]] or [UNKNOWN]):
            trials[level, what] += 1
            lost[level, what] += old.key in recorded
    along = len(now.response.get("evaluate_at", ())) > 1
    return tuple(
        Change(what, level, count, lost[level, what], along)
        for level in LEVELS
        for (of, what), count in trials.items()
        if of == level
    )


def _own(old: TrialSpec, new: TrialSpec, was: Identity | None, now: Identity) -> Iterator[str]:
    """What differs between the trials of a pair themselves."""
    yield from _differing(
        {f"train.{n}": v for n, v in old.train.items()}, {f"train.{n}": v for n, v in new.train.items()}
    )
    place = f"method.{new.method}.hyperparameters"
    yield from _differing(
        {f"{place}.{n}": v for n, v in old.hyperparameters.items()},
        {f"{place}.{n}": v for n, v in new.hyperparameters.items()},
    )
    formula = f"the formula of {OBJECTIVES[new.method].title} (version)"
    versions = [{formula: one.methods[new.method]} for one in (was, now) if one and new.method in one.methods]
    if len(versions) == 2:
        yield from _differing(*versions)


def _shared(level: Level, was: Identity, now: Identity) -> Iterator[str]:
    """What differs in what all keys of a level have in common."""
    if level == "score_key":
        yield from _judges(was, now)
        return
    before, after = ((one.train if level == "key" else one.response) for one in (was, now))
    yield from _differing(_placed(before), _placed(after))


def _judges(was: Identity, now: Identity) -> Iterator[str]:
    before, after = (dict(one.score.get("judges", ())) for one in (was, now))
    if list(before) != list(after):
        yield f"judge=[{','.join(before)}] → [{','.join(after)}]"
    both = [name for name in before if name in after]
    placed = ({f"judge.{n}.{p}": v for n in both for p, v in _leaves(one[n])} for one in (before, after))
    yield from _differing(*placed)


def _differing(before: Settings, after: Settings) -> Iterator[str]:
    """`place old → new` of every value that differs; of a thing of another kind, the kind alone."""
    places = [place for place in {**before, **after} if before.get(place) != after.get(place)]
    kinds = [place.removesuffix("kind") for place in places if place.endswith(".kind")]
    for place in places:
        of_kind = next((kind for kind in kinds if place.startswith(kind)), None)
        if of_kind is None or place == f"{of_kind}kind":
            yield _sentence(place, before, after)


def _sentence(place: str, before: Settings, after: Settings) -> str:
    if place in before and place in after and _is_content(place, after):
        return f"the content of {place.removesuffix('.content')}"
    return f"{place} {_written(before.get(place))} → {_written(after.get(place))}"


def _is_content(place: str, settings: Settings) -> bool:
    """Whether a value is a hash of files, which says nothing to anybody."""
    files = settings.get("data.kind") == "local" and place.startswith(("data.train", "data.evaluation."))
    return files or place.endswith(".content")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _placed(part: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a part of the identity by their place in the configuration."""
    return {_place(name): value for name, value in _leaves(part)}


def _place(name: str) -> str:
    return next(
        (f"{to}{name[len(start) :]}" for start, to in PLACES.items() if f"{name}.".startswith(f"{start}.")), name
    )


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{place}.{name}" if place else str(name))
    else:
        yield place, list(node) if isinstance(node, tuple) else node


# --- what came or went


def _described(trials: Iterable[TrialSpec], others: Sequence[TrialSpec]) -> str:
    """What sets trials apart from others: methods, seeds, values that those have not."""
    methods, seeds, known = {spec.method for spec in others}, {spec.seed for spec in others}, _values(others)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for spec in trials:
        if spec.method not in methods:
            found["method"][OBJECTIVES[spec.method].title if spec.method in OBJECTIVES else spec.method] = None
        elif spec.seed not in seeds:
            found["seeds"][str(spec.seed)] = None
        else:
            unlike = {n: v for n, v in _point(spec).items() if n in spec.varied and v not in known[spec.method, n]}
            for name, value in unlike.items():
                found[name][value] = None
    listed = [f"{name} {', '.join([*values][:FEW] + ['…'] * (len(values) > FEW))}" for name, values in found.items()]
    return f" ({'; '.join(listed)})" if listed else ""


def _values(specs: Iterable[TrialSpec]) -> Mapping[tuple[str, str], set[str]]:
    """The values that each method's trials have, by method and name."""
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for spec in specs:
        for name, value in _point(spec).items():
            known[spec.method, name].add(value)
    return known


def _point(spec: TrialSpec) -> dict[str, str]:
    return {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in spec.point.items()}
