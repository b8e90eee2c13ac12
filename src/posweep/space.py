"""Plan → where a search may look: each method's axes over all values that its planned trials take. Pure, and without Ray.

The search for a peak stays where the grid was, so that its peak and the grid's best are of one space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from posweep.blocks import blocks, design
from posweep.errors import ConfigError
from posweep.fields import About, about, range_problems, typed
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.plan import Plan
from posweep.records import TrialSpec
from posweep.settings import Configuration, TrainSettings

DIGITS = 6
"""Significant digits of a proposed value, as of points that are drawn when the plan is made."""


@dataclass(frozen=True)
class Axis:
    """The values of one hyperparameter or training setting: from the lowest to the highest, or one of some words.

    Attributes:
        values: every value that the planned trials take, and the ends of spaces they were drawn from; none twice.
        whole: whether only whole numbers will do.
        log: whether equal factors, not equal steps, are equally far.
    """

    values: tuple[Any, ...]
    whole: bool = False
    log: bool = False

    @property
    def ends(self) -> tuple[Any, Any] | None:
        """The lowest and the highest value; None where values are words, switches or absent."""
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return (min(numbers), max(numbers)) if len(numbers) == len(self.values) else None

    def rounded(self, value: Any) -> Any:
        """A proposed value as it is written down; rounding does not leave the axis."""
        if self.ends is None or self.whole:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.ends[0]), self.ends[1])


@dataclass(frozen=True)
class Space:
    """Where one method is searched.

    Attributes:
        method: its name.
        axes: what varies, by name.
        fixed: what its blocks say and does not vary.
        index: of its first block.
    """

    method: str
    axes: Mapping[str, Axis]
    fixed: Mapping[str, Any]
    index: int

    def point(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """A proposal as the values of a trial."""
        return {**self.fixed, **{name: axis.rounded(proposed[name]) for name, axis in self.axes.items()}}

    def place(self, spec: TrialSpec) -> dict[str, Any]:
        """Where a planned trial lies on the axes."""
        return {name: _value(spec, name) for name in self.axes}


def spaces(configuration: Configuration, plan: Plan) -> dict[str, Space]:
    """The space of every method of which something varies.

    Args:
        plan: the planned trials.

    Raises:
        ConfigError: nothing varies at all, or an end of a space is no value its name may take; all such mistakes.
    """
    problems: list[str] = []
    found = [_space(configuration, plan, method, problems) for method in configuration.methods]
    if not any(space.axes for space in found):
        problems.append(
            "search: no selected method has anything that varies; give a block of one at least two points, or leave "
            "search=tpe out."
        )
    if problems:
        raise ConfigError(problems)
    return {space.method: space for space in found if space.axes}


def _space(configuration: Configuration, plan: Plan, method: str, problems: list[str]) -> Space:
    specs = [spec for spec in plan if spec.method == method and spec.design != "adaptive"]
    names = list(dict.fromkeys(name for spec in specs for name in spec.varied))
    values = {name: [_value(spec, name) for spec in specs] for name in names}
    logs: set[str] = set()
    for block in blocks(configuration, []):
        if block["method"] == method and design(block) in ("random", "qmc"):
            logs |= _drawn(block, values, problems)
    axes = {name: _axis(method, name, values[name], name in logs) for name in names}
    fixed = {name: axis.values[0] for name, axis in axes.items() if len(axis.values) == 1}
    varied = {name: axis for name, axis in axes.items() if name not in fixed}
    return Space(method, varied, fixed, specs[0].block)


def _drawn(block: Mapping[str, Any], values: dict[str, list[Any]], problems: list[str]) -> set[str]:
    """Add the ends of a space that points were drawn from; the names of its log axes."""
    method, kind, logs = block["method"], design(block), set()
    for name, axis in block[kind]["space"].items():
        if "choices" in axis:
            continue
        cls = OBJECTIVES[method] if name in hyperparameters(OBJECTIVES[method]) else TrainSettings
        ends = {end: typed(axis[end], get_type_hints(cls)[name]) for end in ("low", "high")}
        for end, value in ends.items():
            place = f"{block['place']}{kind}.space"
            wrong = range_problems(cls, {name: value}, place)
            problems += [problem.replace(f"{name}:", f"{name}.{end}:", 1) for problem in wrong]
            values[name].append(value)
        logs |= {name} if axis.get("log") else set()
    return logs


def _axis(method: str, name: str, values: Iterable[Any], log: bool) -> Axis:
    own = name in hyperparameters(OBJECTIVES[method])
    hint = get_type_hints(OBJECTIVES[method] if own else TrainSettings)[name]
    axis = Axis(tuple(dict.fromkeys(values)), whole=hint is int or hint == int | None)
    log = (log or _about(method, name).scale == "log") and axis.ends is not None and axis.ends[0] > 0
    return Axis(axis.values, axis.whole, log)


def _about(method: str, name: str) -> About:
    known = {field.name: about(field) for field in fields(TrainSettings)}
    return hyperparameters(OBJECTIVES[method]).get(name) or known[name]


def _value(spec: TrialSpec, name: str) -> Any:
    return spec.hyperparameters[name] if name in spec.hyperparameters else spec.train[name]
