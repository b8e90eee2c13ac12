"""What a value may be: one declaration carries symbol, range, axis scale, unit and source.

Settings and objectives declare their fields with `number` and `choice`; from that one place come the range check and its
message, the schema of the YAML files, the plot axes and the table of methods.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1
"""Seeds and counts are 64-bit integers with a sign in torch, numpy and tables."""

Scope = Literal["train", "response", "none"]


@dataclass(frozen=True)
class About:
    """What is known of a field: how to write it, what it may be, where its default comes from, which key it enters."""

    symbol: str = ""
    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    choices: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    source: str = ""
    scope: Scope = "train"
    found: bool = False  # by us, though a user may say otherwise
    optional: bool = False  # enters a key only where it is not its default: it came after keys were made

    def rule(self) -> str:
        """The valid range in words, such as `> 0 and < 1`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bounds = ((">", self.above), (">=", self.at_least), ("<", self.below), ("<=", self.at_most))
        return " and ".join(
            f"{sign} {bound if isinstance(bound, int) else format(bound, 'g')}"
            for sign, bound in bounds
            if math.isfinite(bound)
        )

    def allows(self, value: Any) -> bool:
        """Whether `value` lies in the range; None and non-numbers are the schema's business."""
        if isinstance(value, list | tuple):
            return all(self.allows(item) for item in value)
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        if isinstance(value, int) and abs(value) > LARGEST:
            return False
        return math.isfinite(value) and self.above < value < self.below and self.at_least <= value <= self.at_most


def number(default: Any, **about: Any) -> Any:
    """A numeric dataclass field with its range, symbol and source."""
    return dataclasses.field(default=default, metadata={"about": About(**about)})


def choice(default: str, *choices: str, **about: Any) -> Any:
    """A dataclass field that takes one of a few words."""
    return dataclasses.field(default=default, metadata={"about": About(choices=choices, **about)})


def setting(default: Any, **about: Any) -> Any:
    """A dataclass field of any other kind, with the key it enters."""
    return dataclasses.field(default=default, metadata={"about": About(**about)})


def nested(factory: Any, **about: Any) -> Any:
    """A dataclass field that holds settings of its own, made by `factory`."""
    return dataclasses.field(default_factory=factory, metadata={"about": About(**about)})


def about(field: dataclasses.Field[Any]) -> About:
    """The declaration of a dataclass field; an empty one where nothing was declared."""
    found: About = field.metadata.get("about", About())
    return found


def range_problems(cls: type, values: Mapping[str, Any], place: str) -> list[str]:
    """One sentence per value outside the range its field declares: `<place>.<name>: β must be > 0, got 0.0.`"""
    known = {field.name: field for field in dataclasses.fields(cls)}
    return [
        f"{place}.{name}: {about(known[name]).symbol or name} must be {about(known[name]).rule() or 'finite'}, "
        f"got {plain(value)!r}."
        for name, value in values.items()
        if name in known and not about(known[name]).allows(value)
    ]


def scoped(settings: Any, *scopes: Scope) -> dict[str, Any]:
    """The values of a settings dataclass whose fields enter the given keys."""
    return {
        field.name: plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if about(field).scope in scopes and not (about(field).optional and is_default(settings, field))
    }


def is_default(settings: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a settings dataclass holds its default."""
    made = field.default_factory() if callable(field.default_factory) else field.default
    return bool(getattr(settings, field.name) == made)


def plain(value: Any) -> Any:
    """Dataclasses and tuples as the dictionaries and lists JSON knows."""
    if value is None or isinstance(value, str | int | float):
        return value  # nearly everything, so it comes first
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def canonical(content: Any) -> str:
    """Plain data as JSON, the same text whatever the order of its keys."""
    return _ENCODER.encode(content)


def fingerprint(content: Any) -> str:
    """A short hash of plain data, whatever the order of its keys: 64 bits of SHA-256 in hexadecimal."""
    return _digest(canonical(content))


def fingerprint_beside(name: str, context: Mapping[str, Any]) -> Callable[[Any], str]:
    """`fingerprint({**context, name: value})` as a function of the value: the text of the context is made once."""
    before, after = canonical({**context, name: "\0"}).split(canonical("\0"))
    return lambda value: _digest(f"{before}{canonical(value)}{after}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    """What JSON does not know by itself."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        return plain(value)
    raise TypeError(f"{value!r} has no place in a key")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_jsonable)


def typed(value: Any, annotation: Any) -> Any:
    """`value` as the annotated type (2 is a good float, 2.0 a good int), or ValueError with what was expected."""
    if annotation is Any:
        return value
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        if type(value) in arguments:
            return value
        return None if value is None else typed(value, next(a for a in arguments if a is not NoneType))
    if origin is tuple:
        return tuple(typed(item, arguments[0]) for item in _expected(value, list | tuple, "a list"))
    if origin is Mapping:
        items = _expected(value, Mapping, "a mapping").items()
        return {str(key): typed(item, arguments[1]) for key, item in items}
    if annotation in (float, int) and isinstance(value, int) and abs(value) > LARGEST:
        bound = f"up to {LARGEST}" if value > 0 else f"from {-LARGEST} on"
        raise ValueError(f"must be a whole number {bound}, got {shortened(value)}")
    if annotation is float:
        return float(_expected(value, int | float, "a number", forbidden=bool))
    if annotation is int:
        number = _expected(value, int | float, "a whole number", forbidden=bool)
        if float(number).is_integer() and abs(number) <= LARGEST:
            return int(number)
        return _expected(
            value,
            NoneType,
            f"a whole number up to {LARGEST}" if math.isfinite(number) and abs(number) > 1e18 else "a whole number",
        )
    names = {str: "text", bool: "true or false", Mapping: "a mapping"}
    return _expected(value, annotation, names.get(annotation, str(annotation)))


def shortened(value: int) -> str:
    """A whole number in digits, or how many it has."""
    return str(value) if abs(value) < 10**40 else "a number of more than 40 digits"


def _expected(value: Any, kind: Any, words: str, forbidden: Any = ()) -> Any:
    if not isinstance(value, kind) or isinstance(value, forbidden):
        raise ValueError(f"must be {words}, got {value!r}")
    return value


def _settings_by_name(annotation: Any) -> type | None:
    """The dataclass of `Mapping[str, dataclass]`; None for any other annotation."""
    last = (get_args(annotation) or (None,))[-1]
    return last if dataclasses.is_dataclass(last) and isinstance(last, type) else None


def _build_each(cls: type, values: Any, place: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        problems.append(f"{place}: must be a mapping of names to settings, got {values!r}.")
        return {}
    return {name: build(cls, value, f"{place}.{name}", problems) for name, value in values.items()}


def build(cls: type, values: Any, place: str, problems: list[str]) -> Any:
    """A settings dataclass from plain values; every mistake becomes a sentence in `problems` and keeps the default."""
    if not isinstance(values, Mapping):
        problems.append(f"{place}: must be a mapping of settings, got {values!r}.")
        return cls()
    hints, fields = get_type_hints(cls), {field.name: about(field) for field in dataclasses.fields(cls)}
    good: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            shown = ", ".join(known for known, found in fields.items() if not found.found)
            problems.append(f"{place}.{name}: no such setting; {place} takes {shown}.")
        elif dataclasses.is_dataclass(hints[name]):
            good[name] = build(hints[name], value, f"{place}.{name}", problems)  # type: ignore[arg-type]
        elif each := _settings_by_name(hints[name]):
            good[name] = _build_each(each, value, f"{place}.{name}", problems)
        else:
            try:
                good[name] = typed(value, hints[name])
            except ValueError as error:
                problems.append(f"{place}.{name}: {error}.")
    problems += range_problems(cls, good, place)
    return cls(**{name: value for name, value in good.items() if fields[name].allows(value)})
