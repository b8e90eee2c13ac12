"""Preference pairs in JSON lines on this machine: `prompt`, `chosen`, `rejected`, one pair a line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from posweep.data.base import Preferences, split_by_prompt
from posweep.errors import DataError
from posweep.fields import scoped
from posweep.records import Example, PreferencePair
from posweep.settings import LocalData

COLUMNS = ("prompt", "chosen", "rejected")
SHOWN = 5
"""Malformed lines named per file; more are counted."""


def fingerprints(settings: LocalData) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of the files, not their place: moving a folder changes no key."""
    _check_files(settings)
    kept = {
        name: value for name, value in scoped(settings, "train").items() if name not in ("path", "train", "evaluation")
    }
    train = {**kept, "train": _hash(_file(settings, settings.train))}
    return train, {**kept, "evaluation": {name: _hash(_file(settings, f)) for name, f in settings.evaluation.items()}}


def load(settings: LocalData) -> Preferences:
    """Pairs to train on, one pair per prompt in each evaluation set, and the judge's share of the prompts.

    Raises:
        DataError: a file is missing, a line is malformed, or a prompt stands both in training and in an evaluation set.
    """
    _check_files(settings)
    problems: list[str] = []
    pairs = _read(_file(settings, settings.train), problems)
    sets = {name: _one_per_prompt(_read(_file(settings, file), problems)) for name, file in settings.evaluation.items()}
    problems += _leaks(settings, pairs, sets)
    if problems:
        raise DataError(problems)
    train, judge = split_by_prompt(pairs, settings.judge_share, settings.seed)
    sft = tuple(dict.fromkeys(Example(pair.prompt, pair.chosen) for pair in train))
    return Preferences(train=train, sft=sft, judge=judge, evaluation=sets)


def _file(settings: LocalData, name: str) -> Path:
    return Path(settings.path).expanduser() / name


def _check_files(settings: LocalData) -> None:
    if not settings.path:
        raise DataError(
            "data.path: names no folder; set data.path=FOLDER, a folder with " + ", ".join(_names(settings)) + "."
        )
    missing = [name for name in _names(settings) if not _file(settings, name).is_file()]
    if missing:
        raise DataError(
            f"data.path: {settings.path} has no {', '.join(missing)}; it must hold {', '.join(_names(settings))} "
            "(data.train and data.evaluation name them)."
        )


def _names(settings: LocalData) -> list[str]:
    return [settings.train, *settings.evaluation.values()]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _read(path: Path, problems: list[str]) -> list[PreferencePair]:
    """The pairs of one file, exact duplicates collapsed; malformed lines go into `problems` by line number."""
    found: list[str] = []
    pairs: dict[PreferencePair, None] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8.")
        return []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pair = _parse(line)
            if isinstance(pair, str):
                found.append(f"{path}:{number}: {pair}")
            else:
                pairs[pair] = None
    if not pairs and not found:
        found.append(f"{path}: holds no pairs; it needs one JSON object with {', '.join(COLUMNS)} a line.")
    problems += found[:SHOWN]
    if len(found) > SHOWN:
        problems.append(f"{path}: {len(found) - SHOWN} more malformed lines.")
    return list(pairs)


def _parse(line: str) -> PreferencePair | str:
    """The pair of one line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is no JSON object ({error.msg} at column {error.colno}); every line must be one."
    if not isinstance(row, dict) or any(column not in row for column in COLUMNS):
        has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        return f"must have {', '.join(COLUMNS)}; it has {has}."
    for column in COLUMNS:
        if not isinstance(row[column], str) or not row[column].strip() or not _encodes(row[column]):
            return f"{column} must be text that is not empty, got {row[column]!r}."
    return PreferencePair(row["prompt"], row["chosen"], row["rejected"])


def _encodes(text: str) -> bool:
    """Whether the text can be written at all; JSON can name half a character."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _one_per_prompt(pairs: list[PreferencePair]) -> tuple[PreferencePair, ...]:
    first: dict[str, PreferencePair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair)
    return tuple(first.values())


def _leaks(settings: LocalData, train: list[PreferencePair], sets: dict[str, tuple[PreferencePair, ...]]) -> list[str]:
    """A prompt that is trained on cannot measure generalisation."""
    trained = {pair.prompt for pair in train}
    return [
        f"{_file(settings, settings.evaluation[name])}: {len(shared)} prompts also stand in {settings.train}, "
        f"such as {shared[0][:60]!r}; remove them from one of the two."
        for name, pairs in sets.items()
        if (shared := [pair.prompt for pair in pairs if pair.prompt in trained])
    ]
