"""Plain data → Configuration: types, names, ranges and what must fit together; every mistake a sentence, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.blocks import unknown_hyperparameter
from posweep.fields import build
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.records import JUDGED, MEASURES
from posweep.settings import (
    DATA,
    JUDGES,
    MODELS,
    PAIRWISE,
    Configuration,
    EvaluationSettings,
    ExecutorSettings,
    MethodSettings,
    ModelSettings,
    SampleSettings,
    ScratchModel,
    SearchSettings,
    SweepSettings,
    TrackingSettings,
    TrainSettings,
)

SECTIONS: dict[str, type] = {
    "evaluation": EvaluationSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "executor": ExecutorSettings,
    "tracking": TrackingSettings,
    "search": SearchSettings,
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def checked(composed: Mapping[str, Any], source: str, problems: list[str]) -> Configuration:
    """The configuration of a sweep whose file is `source`; sentences for all that is wrong with it go into `problems`."""
    sweep = build(SweepSettings, {**(composed.get("sweep") or {}), "source": source}, "sweep", problems)
    model = _of_kind(MODELS, composed.get("model"), "model", problems)
    sections = {name: build(cls, composed.get(name) or {}, name, problems) for name, cls in SECTIONS.items()}
    data = _of_kind(DATA, composed.get("data"), "data", problems)
    if getattr(data, "path", ""):  # workers stand in other folders
        data = dataclasses.replace(data, path=str(Path(data.path).expanduser().absolute()))
    sections["executor"] = _executor(sections["executor"], composed.get("method") or {}, problems)
    judges = {n: _of_kind(JUDGES, s, f"judge.{n}", problems) for n, s in (composed.get("judge") or {}).items()}
    methods = _methods(composed.get("method") or {}, problems)
    output_dir = composed.get("output_dir", "outputs")
    if not isinstance(output_dir, str) or not output_dir:
        problems.append(f"output_dir: must be text that is not empty, got {output_dir!r}.")
    known = {"sweep", "method", "model", "judge", "data", "output_dir", *SECTIONS}
    problems += [f"{name}: no such setting; there are {', '.join(sorted(known))}." for name in set(composed) - known]
    problems += _identity_problems(sweep)
    configuration = Configuration(
        sweep=sweep, methods=methods, model=_rooted(model), data=_rooted(data), output_dir=str(output_dir),
        judges={name: _rooted(judge) for name, judge in judges.items()}, **sections,
    )  # fmt: skip
    evaluation = configuration.evaluation
    rooted = {name: _rooted(one) for name, one in evaluation.sources.items()}
    configuration = dataclasses.replace(configuration, evaluation=dataclasses.replace(evaluation, sources=rooted))
    if not problems:
        problems += _name_problems(configuration)
        problems += _sweep_problems(configuration)
        problems += _model_problems(model)
        problems += _length_problems(data, model, sections["sample"], sections["train"])
    return configuration


def _rooted(settings: Any) -> Any:
    """A folder by its absolute name: workers stand in other folders."""
    name = getattr(settings, "name", "")
    return dataclasses.replace(settings, name=str(hub.local(name))) if name and hub.is_here(name) else settings


def _name_problems(configuration: Configuration) -> list[str]:
    """Everything that is found by name must name something; a folder must be there."""
    evaluation = {f"evaluation.sources.{name}": one for name, one in configuration.evaluation.sources.items()}
    judges = {f"judge.{name}": one for name, one in configuration.judges.items()}
    places = {"model": configuration.model, "data": configuration.data, **evaluation, **judges}
    return [problem for place, one in places.items() if hasattr(one, "name") for problem in hub.missing(one, place)]


def _executor(settings: ExecutorSettings, methods: Iterable[str], problems: list[str]) -> ExecutorSettings:
    """Requests of methods that this sweep has not are left out: they may stand in a file that several sweeps share."""
    place = "executor.method_resources"
    problems += [
        f"{place}.{name}: no such method; there are {', '.join(OBJECTIVES)}.{nearest(name, list(OBJECTIVES))}"
        for name in settings.method_resources
        if name not in OBJECTIVES
    ]
    own = {name: asked for name, asked in settings.method_resources.items() if name in methods}
    all_of_them = settings.trial_resources
    problems += [
        f"{place}.{name}.gpu: asks for {asked.gpu:g} GPU, and executor.trial_resources.gpu for {all_of_them.gpu:g}; trials "
        "of one sweep compute all on a GPU or all without, for that changes rounding: set both > 0, or both to 0."
        for name, asked in own.items()
        if (asked.gpu > 0) != (all_of_them.gpu > 0)
    ]
    problems += [
        f"{request}.gpu: a trial computes on one GPU, so that the others would idle; set it to 1 or less, got {asked.gpu:g}."
        for request, asked in settings.requests.items()
        if asked.gpu > 1
    ]
    if settings.storage is not None:
        from posweep.storage import setting_problems

        problems += setting_problems(settings.storage)
    return dataclasses.replace(settings, method_resources=own)


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


def _sweep_problems(configuration: Configuration) -> list[str]:
    """What only the whole can show: names that must fit one another."""
    sweep, data, judges = configuration.sweep, configuration.data, configuration.judges
    place, problems = sweep.source, []
    if not configuration.methods:
        problems.append(f"method: none selected; add method=[…] with some of {', '.join(OBJECTIVES)}.")
    if not judges:
        problems.append(f"judge: none selected; add judge=[…] with some of {', '.join(JUDGES)}.")
    chosen, there = configuration.sets, (*data.sets, *configuration.evaluation.sources)
    problems += [
        f"evaluation.sets: data={data.kind} has no set {name!r}; there are {', '.join(there)}."
        for name in chosen
        if name not in there
    ]
    problems += [
        f"evaluation.sources.{name}: data={data.kind} has a set of that name; give this one another."
        for name in configuration.evaluation.sources
        if name in data.sets
    ]
    if sweep.primary_set not in chosen:
        problems.append(f"{place} → sweep.primary_metric: no set {sweep.primary_set!r}; there are {', '.join(chosen)}.")
    measure, measures = sweep.primary_metric.partition("/")[2], _measures(judges)
    if measure not in measures:
        problems.append(f"{place} → sweep.primary_metric: no measure {measure!r}; there are {', '.join(measures)}.")
    for name, judge in judges.items():
        if judge.kind in ("gold", "proxy") and data.kind != "demo":
            problems.append(
                f"judge.{name}: judges the demo world only; with data={data.kind} take judge=[bradley_terry], "
                "judge=[reward_model] or judge=[llm]."
            )
        if judge.kind == "bradley_terry" and data.judge_share == 0:
            problems.append(f"judge.{name}: trains on prompts no trial sees; set data.judge_share > 0, got 0.")
        problems += _opponent_problems(name, judge, configuration.evaluation)
    return problems


def _measures(judges: Mapping[str, Any]) -> list[str]:
    """What the judges measure, the first without a prefix; a judge that only compares gives no mean score."""
    kinds = [(name, judge.kind in PAIRWISE) for name, judge in judges.items()]
    first = [m for m in MEASURES if not (kinds and kinds[0][1] and m == "mean_score")]
    rest = [f"{name}/{m}" for name, pairwise in kinds[1:] for m in JUDGED if not (pairwise and m == "mean_score")]
    return [*first, *rest]


def _opponent_problems(name: str, judge: Any, evaluation: EvaluationSettings) -> list[str]:
    opponents, there = getattr(judge, "opponents", 1), evaluation.baseline_responses
    if opponents <= there:
        return []
    return [
        f"judge.{name}.opponents: compares with {opponents} responses of the SFT model, and there are {there}; set it to "
        f"{there} or less, or evaluation.baseline_responses={opponents}."
    ]


def _model_problems(model: ModelSettings) -> list[str]:
    """Every head takes an even part of the width: rotary positions turn pairs of numbers."""
    if not isinstance(model, ScratchModel) or model.hidden_size % (2 * model.heads) == 0:
        return []
    return [f"model.heads: {model.heads} heads must share model.hidden_size in even parts, got {model.hidden_size}."]


def _length_problems(data: Any, model: ModelSettings, sample: SampleSettings, train: TrainSettings) -> list[str]:
    """Sequences longer than the context, and a training that is not measured at its end."""
    problems = []
    longest = data.max_prompt_tokens + max(data.max_response_tokens, sample.max_new_tokens)
    context = model.context if isinstance(model, ScratchModel) else model.size.context
    if context and longest > context:
        place = "model.context" if isinstance(model, ScratchModel) else "model.size.context"
        more = f"set model.context={longest}, or " if isinstance(model, ScratchModel) else ""
        problems.append(
            f"{place}: {context} tokens, but prompts and responses may take {longest}; "
            f"{more}lower data.max_prompt_tokens, data.max_response_tokens or sample.max_new_tokens."
        )
    if not train.evaluate_at or train.evaluate_at[-1] != 1.0:
        problems.append(f"train.evaluate_at: must end with 1.0, got {list(train.evaluate_at)}.")
    return problems


def nearest(name: str, known: Iterable[Any]) -> str:
    """` Did you mean …?`, where something known is near."""
    by_lower = {str(one).lower(): str(one) for one in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[found[0]]}?" if found else ""
