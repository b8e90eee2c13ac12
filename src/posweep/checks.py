"""Plain data → Configuration: types, names, ranges and what must fit together; every mistake a sentence, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posweep.blocks import unknown_hyperparameter
from posweep.fields import build
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.records import JUDGED, MEASURES
from posweep.settings import (
    DATA,
    JUDGES,
    Configuration,
    EvaluationSettings,
    ExecutorSettings,
    MethodSettings,
    ModelSettings,
    SampleSettings,
    SweepSettings,
    TrackingSettings,
    TrainSettings,
)

SECTIONS: dict[str, type] = {
    "model": ModelSettings,
    "evaluation": EvaluationSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "executor": ExecutorSettings,
    "tracking": TrackingSettings,
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def checked(composed: Mapping[str, Any], source: str, problems: list[str]) -> Configuration:
    """The configuration of a sweep whose file is `source`; sentences for all that is wrong with it go into `problems`."""
    sweep = build(SweepSettings, {**(composed.get("sweep") or {}), "source": source}, "sweep", problems)
    sections = {name: build(cls, composed.get(name) or {}, name, problems) for name, cls in SECTIONS.items()}
    data = _of_kind(DATA, composed.get("data"), "data", problems)
    if getattr(data, "path", ""):  # workers stand in other folders
        data = dataclasses.replace(data, path=str(Path(data.path).expanduser().absolute()))
    judges = {n: _of_kind(JUDGES, s, f"judge.{n}", problems) for n, s in (composed.get("judge") or {}).items()}
    methods = _methods(composed.get("method") or {}, problems)
    output_dir = composed.get("output_dir", "outputs")
    if not isinstance(output_dir, str) or not output_dir:
        problems.append(f"output_dir: must be text that is not empty, got {output_dir!r}.")
    known = {"sweep", "method", "judge", "data", "output_dir", *SECTIONS}
    problems += [f"{name}: no such setting; there are {', '.join(sorted(known))}." for name in set(composed) - known]
    problems += _identity_problems(sweep)
    if not problems:
        problems += _sweep_problems(sweep, methods, judges, data, sections["evaluation"])
        problems += _model_problems(sections["model"])
        problems += _length_problems(data, **{name: sections[name] for name in ("model", "sample", "train")})
    return Configuration(
        sweep=sweep, methods=methods, data=data, judges=judges, output_dir=str(composed.get("output_dir", "outputs")),
        **sections,
    )  # fmt: skip


def _of_kind(kinds: Mapping[str, type], values: Any, place: str, problems: list[str]) -> Any:
    kind = str(values.get("kind")) if isinstance(values, Mapping) else ""
    if kind not in kinds:
        problems.append(f"{place}.kind: must be one of {', '.join(kinds)}, got {kind!r}.")
        return next(iter(kinds.values()))()
    return build(kinds[kind], values, place, problems)


def _methods(composed: Mapping[str, Any], problems: list[str]) -> dict[str, MethodSettings]:
    methods = {}
    for name, values in composed.items():
        place = f"method.{name}"
        if name not in OBJECTIVES:
            problems.append(
                f"{place}: no such method; there are {', '.join(OBJECTIVES)}.{nearest(name, list(OBJECTIVES))}"
            )
            continue
        if isinstance(values, Mapping) and not {"hyperparameters", "grid"} <= set(values):
            problems.append(
                f"{place}: something is set for a method that is not selected; add {name} to method=[…] "
                "(a method's own file has both hyperparameters and grid)."
            )
        settings = build(MethodSettings, values, place, problems)
        given, own = settings.hyperparameters, hyperparameters(OBJECTIVES[name])
        problems += [f"{place}.hyperparameters: {unknown_hyperparameter(name, n)}" for n in given if n not in own]
        checked = build(
            OBJECTIVES[name], {n: v for n, v in given.items() if n in own}, f"{place}.hyperparameters", problems
        )
        methods[name] = MethodSettings({n: getattr(checked, n) for n in own}, settings.grid)
    return methods


def _identity_problems(sweep: SweepSettings) -> list[str]:
    """A sweep's name is a folder and an experiment; its seeds tell trials apart."""
    place, problems = sweep.source, []
    if not NAME.fullmatch(sweep.name):
        problems.append(f"{place} → sweep.name: must be letters, digits, '.', '_' and '-', got {sweep.name!r}.")
    if not sweep.seeds or len(set(sweep.seeds)) != len(sweep.seeds) or min(sweep.seeds) < 0:
        problems.append(
            f"{place} → sweep.seeds: must be different whole numbers ≥ 0, at least one, got {list(sweep.seeds)}."
        )
    if not sweep.learning_rates or len(set(sweep.learning_rates)) != len(sweep.learning_rates):
        problems.append(
            f"sweep.learning_rates: must be different numbers > 0, at least one, got {list(sweep.learning_rates)}."
        )
    return problems


def _sweep_problems(
    sweep: SweepSettings,
    methods: Mapping[str, Any],
    judges: Mapping[str, Any],
    data: Any,
    evaluation: EvaluationSettings,
) -> list[str]:
    """What only the whole can show: names that must fit one another."""
    place, problems = sweep.source, []
    if not methods:
        problems.append(f"method: none selected; add method=[…] with some of {', '.join(OBJECTIVES)}.")
    if not judges:
        problems.append(f"judge: none selected; add judge=[…] with some of {', '.join(JUDGES)}.")
    chosen = evaluation.sets or data.sets
    problems += [
        f"evaluation.sets: data={data.kind} has no set {name!r}; it has {', '.join(data.sets)}."
        for name in chosen
        if name not in data.sets
    ]
    if sweep.primary_set not in chosen:
        problems.append(f"{place} → sweep.primary_metric: no set {sweep.primary_set!r}; there are {', '.join(chosen)}.")
    measure = sweep.primary_metric.partition("/")[2]
    measures = [*MEASURES, *(f"{name}/{m}" for name in list(judges)[1:] for m in JUDGED)]
    if measure not in measures:
        problems.append(f"{place} → sweep.primary_metric: no measure {measure!r}; there are {', '.join(measures)}.")
    for name, judge in judges.items():
        if judge.kind in ("gold", "proxy") and data.kind != "demo":
            problems.append(
                f"judge.{name}: judges the demo world only; with data={data.kind} take judge=[bradley_terry]."
            )
        if judge.kind == "bradley_terry" and data.judge_share == 0:
            problems.append(f"judge.{name}: trains on prompts no trial sees; set data.judge_share > 0, got 0.")
    return problems


def _model_problems(model: ModelSettings) -> list[str]:
    """Every head takes an even part of the width: rotary positions turn pairs of numbers."""
    if model.hidden_size % (2 * model.heads) == 0:
        return []
    return [f"model.heads: {model.heads} heads must share model.hidden_size in even parts, got {model.hidden_size}."]


def _length_problems(data: Any, model: ModelSettings, sample: SampleSettings, train: TrainSettings) -> list[str]:
    """Sequences longer than the context, and a training that is not measured at its end."""
    problems = []
    longest = data.max_prompt_tokens + max(data.max_response_tokens, sample.max_new_tokens)
    if longest > model.context:
        problems.append(
            f"model.context: {model.context} tokens, but prompts and responses may take {longest}; "
            f"set model.context={longest}, or lower data.max_response_tokens or sample.max_new_tokens."
        )
    if not train.evaluate_at or train.evaluate_at[-1] != 1.0:
        problems.append(f"train.evaluate_at: must end with 1.0, got {list(train.evaluate_at)}.")
    return problems


def nearest(name: str, known: Iterable[Any]) -> str:
    """` Did you mean …?`, where something known is near."""
    by_lower = {str(one).lower(): str(one) for one in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]}?" if found else ""
