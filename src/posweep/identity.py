"""Whose a sweep's folder is, and what its keys were made of: `identity.json` and `plan.jsonl`, written at every launch.

A key is a hash and cannot be read back. With what it was made of beside it, a later plan can say which setting gave trials
other keys, a folder knows its sweep, and a posweep that is too old for it can say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from posweep import __version__
from posweep.errors import ConfigError
from posweep.folder import HEADER, IDENTITY, PLAN
from posweep.ledger import write_atomically, write_text_atomically
from posweep.objectives import OBJECTIVES
from posweep.plan import SCHEMA, Plan, Planner
from posweep.records import JsonRecord, TrialSpec
from posweep.settings import Configuration


@dataclass(frozen=True)
class Identity(JsonRecord):
    """Who wrote a plan, and what its keys have in common; what differs between trials stands in the plan itself.

    Attributes:
        name: of the sweep.
        version: of posweep.
        schema: of the keys and of plan.jsonl.
        methods: the version of each method's formula.
        train: what enters a trial's key besides its own values: data, model.
        response: what enters its response key besides: evaluation data, sampling.
        score: what enters its score key besides: judges.
    """

    name: str
    version: str
    schema: int
    methods: Mapping[str, int] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)


def identity_of(configuration: Configuration) -> Identity:
    """What the keys of this configuration are made of."""
    methods = {name: OBJECTIVES[name].version for name in configuration.methods}
    return Identity(configuration.sweep.name, __version__, SCHEMA, methods, **Planner(configuration).context)


def write_plan(folder: Path, plan: Plan, identity: Identity) -> None:
    """Write down what is launched; a reader finds the old files or the new ones."""
    write_text_atomically(folder / PLAN, plan.to_jsonl())
    write_atomically(folder / IDENTITY, identity.to_json(), indent=1)


def read_plan(folder: Path, name: str) -> Plan:
    """The plan of the last launch.

    Raises:
        ConfigError: there is none, it is damaged, or it is that of another sweep or of a newer posweep.
    """
    if problems := ownership_problems(folder, name):
        raise ConfigError(problems)
    file = folder / PLAN
    try:
        return Plan.from_jsonl(name, file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ConfigError(f"{file}: {reason}; the next launch writes it anew.") from None


def read_identity(folder: Path) -> Identity | None:
    """What the keys of the last launch were made of; None where that was not written, or is damaged."""
    try:
        return Identity.from_json(_object(folder / IDENTITY))
    except TypeError:  # fields are missing, or are newer
        return None


def ownership_problems(folder: Path, name: str) -> list[str]:
    """A folder of another sweep, or one that a newer posweep wrote: a sentence."""
    written = _object(folder / IDENTITY)
    owner = written.get("name") or _object(folder / HEADER).get("name")
    if owner and owner != name:
        return [
            f"sweep.name: {folder} holds sweep {owner}, and this is sweep {name}; set output_dir to another folder, or "
            f"delete {IDENTITY} and {HEADER} there to take over what it holds."
        ]
    schema, by = written.get("schema", SCHEMA), written.get("version", "(a newer one)")
    if (isinstance(schema, int) and schema > SCHEMA) or _unknown_fields(folder, written):
        return [
            f"sweep.name: {folder} was written by posweep {by} (plans of schema {schema}), which is newer than this posweep "
            f"{__version__} (schema {SCHEMA}); update posweep, or give this sweep another name."
        ]
    return []


def _unknown_fields(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether what lies there holds more than we know of."""
    with_identity = set(identity) - {one.name for one in fields(Identity)}
    return bool(with_identity or set(_first_trial(folder / PLAN)) - {one.name for one in fields(TrialSpec)})


def _first_trial(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            found = json.loads(stream.readline())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file, or it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
