"""Preferences by their name: a data set of the hub, or one in a folder that is laid out like it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from posweep import hub
from posweep.data import rows
from posweep.data.rows import Asked, Row
from posweep.data.sets import READING, Source
from posweep.errors import DataError
from posweep.settings import EvaluationSource, HubData


def fingerprints(settings: HubData) -> tuple[dict[str, Any], dict[str, Any]]:
    """The name, the revision as written and the split; of a folder its content. No network."""
    content = hub.identity(settings)
    kept = {name: value for name, value in content.items() if name not in ("train", "evaluation", "shared_prompts")}
    kept["reading"] = READING
    return {**kept, "train": settings.train}, {**kept, "evaluation": dict(settings.evaluation)}


def identity(source: EvaluationSource) -> dict[str, Any]:
    """What determines an evaluation set of its own; what distribution it is said to be of changes no number."""
    kept = {name: value for name, value in hub.identity(source).items() if name != "distribution"}
    return {**kept, "reading": READING}


def sources(settings: HubData) -> tuple[Source, Mapping[str, Source]]:
    """What to train on, and the evaluation sets."""
    names = {name: f"data.evaluation.{name}" for name in settings.evaluation}
    sets = {name: _split(settings, split, names[name]) for name, split in settings.evaluation.items()}
    return _split(settings, settings.train, "data.train"), sets


def _split(settings: HubData, split: str, split_setting: str) -> Source:
    asked = Asked(
        "data", settings.name, split, split_setting, settings.subset, settings.folder, hub.is_here(settings.name)
    )
    opened = partial(_of_data, settings, asked)
    return Source("data", f"{settings.name}[{split}]", settings.columns, opened, settings.seed)


def evaluation_set(source: EvaluationSource, name: str) -> Source:
    """An evaluation set that is not the data's own."""
    place = f"evaluation.sources.{name}"
    is_folder = hub.is_here(source.name)
    asked = Asked(place, source.name, source.split, f"{place}.split", source.subset, source.folder, is_folder)
    return Source(place, _shown(source), source.columns, partial(_of_source, source, asked))


def _shown(source: EvaluationSource) -> str:
    is_file = hub.is_here(source.name) and hub.local(source.name).is_file()
    return source.name if is_file else f"{source.name}[{source.split}]"


def _of_data(settings: HubData, asked: Asked) -> Iterable[Row]:
    path = hub.fetch(settings, "dataset", asked.place)
    if not path.is_dir():
        raise DataError(
            f"data.name: {settings.name} is no folder; data=local reads files, or name a data set of the hub."
        )
    return rows.of_folder(path, asked)


def _of_source(source: EvaluationSource, asked: Asked) -> Iterable[Row]:
    path = hub.fetch(source, "dataset", asked.place)
    return rows.of_folder(path, asked) if path.is_dir() else rows.of_file(path)
