"""Before anything starts: names are resolved, the data is read, the model and the judges are looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from posweep import capacity, data, hub
from posweep.data import Preferences
from posweep.errors import ConfigError, PreflightError
from posweep.folder import COMMITS, folder_of, read_json
from posweep.judges import judge_problems, limits
from posweep.judges.comparison import settings_problems
from posweep.objectives import OBJECTIVES, needs, takes_unpaired
from posweep.plan import Plan, largest_batch
from posweep.records import Prompt, messages
from posweep.settings import Configuration, HubModel, LlmSettings

JUDGE_PROMPTS = 20
"""Fewer prompts than this train no reward model, and hold out too few to know."""


@dataclass(frozen=True)
class DataFacts:
    """What the page says about the data, and the sentences of a launch."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def ready(
    configuration: Configuration, plan: Plan, surroundings: Sequence[str] = ()
) -> tuple[Configuration, DataFacts]:
    """The configuration with every name resolved to a commit, and what there is to say about its data.

    Args:
        surroundings: what is known to be wrong already.

    Raises:
        PreflightError: everything that would stop the sweep later, one sentence each; nothing was started.
    """
    problems = _early_problems(configuration)
    configuration = _pinned(configuration, problems)
    loaded: Preferences | None = None
    if not problems:  # else a name that is not to be had would be said twice
        loaded = _loaded(configuration, problems)
        problems += _data_problems(configuration, plan, loaded) if loaded else []
        problems += _model_problems(configuration, loaded)
        problems += _sharing_problems(configuration, plan, loaded) if loaded else []
    problems += surroundings
    problems += capacity.problems(configuration, largest_batch(plan), len(plan))  # the model's size is known by now
    if not problems:  # what follows may take a long download, or a call that costs
        problems += _weight_problems(configuration)
        problems += judge_problems(configuration)
    if problems:
        raise PreflightError(dict.fromkeys(problems))  # two of them may stumble over the same proxy
    return configuration, DataFacts(loaded.facts, loaded.notes) if loaded else DataFacts()


def _loaded(configuration: Configuration, problems: list[str]) -> Preferences | None:
    """The data, or None and what is wrong with it."""
    try:
        return data.load(configuration.data, configuration.evaluation.sources)
    except ConfigError as error:
        problems += error.problems
        return None


def commits(configuration: Configuration) -> dict[str, dict[str, str]]:
    """The name, revision and commit of everything that comes from a hub, by its place in the configuration."""
    return {
        place: {"name": one.name, "revision": one.revision, "commit": one.commit}
        for place, one, _ in _named(configuration)
        if one.commit
    }


def commits_so_far(configuration: Configuration) -> dict[str, dict[str, str]]:
    """The same, with what earlier launches of this sweep took from a hub."""
    return {**_commits_before(configuration), **commits(configuration)}


# --- names


def _named(configuration: Configuration) -> Iterator[tuple[str, Any, hub.Kind]]:
    """Everything that is found by name: its place, its settings, and what it is."""
    if hasattr(configuration.model, "name"):
        yield "model", configuration.model, "model"
    if hasattr(configuration.data, "name"):
        yield "data", configuration.data, "dataset"
    for name, source in configuration.evaluation.sources.items():
        yield f"evaluation.sources.{name}", source, "dataset"
    for name, judge in configuration.judges.items():
        if hasattr(judge, "name"):
            yield f"judge.{name}", judge, "model"


def _early_problems(configuration: Configuration) -> list[str]:
    """What is wrong with an endpoint's settings: an address with a password in it must be written down nowhere."""
    llms = {name: judge for name, judge in configuration.judges.items() if isinstance(judge, LlmSettings)}
    return [problem for name, judge in llms.items() for problem in settings_problems(judge, f"judge.{name}")]


def _pinned(configuration: Configuration, problems: list[str]) -> Configuration:
    """The same with commits, which must be those that the sweep began with."""
    found: dict[str, Any] = {}
    before = _commits_before(configuration)
    for place, settings, kind in _named(configuration):
        try:
            commit = "" if hub.is_here(settings.name) else settings.commit or hub.commit(settings, kind, place)
            problems += _moved(place, settings, before.get(place, {}), commit)
            found[place] = dataclasses.replace(settings, commit=commit)
        except PreflightError as error:
            problems += error.problems
    return _with(configuration, found)


def _commits_before(configuration: Configuration) -> dict[str, dict[str, str]]:
    """What an earlier launch of this sweep wrote down; ConfigError where that is damaged."""
    file = folder_of(configuration) / COMMITS
    anew = "delete it to go on with the revisions as they are now"
    return read_json(file, _commits, anew) if file.is_file() else {}


def _commits(found: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {place: {name: one[name] for name in ("name", "revision", "commit")} for place, one in found.items()}


def _moved(place: str, settings: Any, before: Mapping[str, str], commit: str) -> list[str]:
    """A revision that means another commit than when the sweep began would mix two models in one sweep."""
    asked = (settings.name, settings.revision)
    if not before or (before["name"], before["revision"]) != asked or before["commit"] == commit:
        return []
    return [
        f"{place}.revision: {settings.revision!r} of {settings.name} was commit {before['commit'][:12]} when this sweep "
        f"began and is {commit[:12]} now; set +{place}.commit={before['commit']} to go on with that one, or give the sweep "
        "another name."
    ]


def _with(configuration: Configuration, found: Mapping[str, Any]) -> Configuration:
    sources = {n: found.get(f"evaluation.sources.{n}", s) for n, s in configuration.evaluation.sources.items()}
    return dataclasses.replace(
        configuration,
        model=found.get("model", configuration.model),
        data=found.get("data", configuration.data),
        evaluation=dataclasses.replace(configuration.evaluation, sources=sources),
        judges={name: found.get(f"judge.{name}", judge) for name, judge in configuration.judges.items()},
    )


# --- data, model


def _data_problems(configuration: Configuration, plan: Plan, loaded: Preferences) -> list[str]:
    """Less data than a step or a judge takes, or data that some of the methods cannot be trained on."""
    kind, pairs = configuration.data.kind, len(loaded.train)
    problems = _method_problems(configuration, loaded)
    if largest_batch(plan) > pairs:
        problems.append(
            f"train.batch_size: {largest_batch(plan)} pairs a step, but data={kind} has {pairs} pairs to train on."
        )
    prompts = len({pair.prompt for pair in loaded.judge})
    if "bradley_terry" in [judge.kind for judge in configuration.judges.values()] and prompts < JUDGE_PROMPTS:
        problems.append(
            f"data.judge_share: leaves {prompts} prompts to a judge that is trained; it needs {JUDGE_PROMPTS} or more."
        )
    return problems


def _method_problems(configuration: Configuration, loaded: Preferences) -> list[str]:
    """Methods that compare two responses to one prompt, where there are none; or that need several prompts, likewise."""
    kind, methods = configuration.data.kind, {name: OBJECTIVES[name] for name in configuration.methods}
    asking = [objective.title for objective in methods.values() if "mismatched" in needs(objective)]
    sets = {name: loaded.evaluation[name] for name in configuration.sets}
    problems = [
        f"method: {', '.join(asking)} takes responses to other prompts, but the {name} pairs of "
        f"data={kind} all have one prompt; leave it out (method=[…])."
        for name, pairs in {"training": loaded.train, **sets}.items()
        if asking and len({pair.prompt for pair in pairs}) < 2
    ]
    paired = [objective.title for objective in methods.values() if not takes_unpaired(objective)]
    if loaded.unpaired and paired:
        able = [name for name, objective in OBJECTIVES.items() if takes_unpaired(objective)]
        problems.append(
            f"method: {', '.join(paired)} compares two responses to one prompt, and data={kind} labels responses one by "
            f"one; take some of method=[{','.join(able)}]."
        )
    return problems


def _of_each_shape(loaded: Preferences) -> list[Prompt]:
    """One prompt of each order of speakers: chat templates refuse some."""
    pairs = (*loaded.train, *(pair for found in loaded.evaluation.values() for pair in found))
    shapes = {tuple(turn.role for turn in messages(pair.prompt)): pair.prompt for pair in pairs}
    return list(shapes.values())


def _device_here(configuration: Configuration) -> str:
    """What this machine is asked about: of a cluster it need not have the GPU that its nodes have."""
    return "cpu" if configuration.executor.address else configuration.device


def _with_thoughts(loaded: Preferences) -> list[str]:
    """A response of the data that seems to hold a thought, if there is one: chat templates leave some out."""
    pairs = (*loaded.train, *(pair for found in loaded.evaluation.values() for pair in found))
    responses = (response for pair in pairs for response in (pair.chosen, pair.rejected))
    return list(islice((text for text in responses if "</" in text or "[/" in text or "◁/" in text), 1000))


def _model_problems(configuration: Configuration, loaded: Preferences | None) -> list[str]:
    """A model by its name: everything but its weights."""
    model = configuration.model
    if not isinstance(model, HubModel):
        return []
    from posweep.policy import pretrained

    try:
        folder = hub.fetch(model, "model", "model", hub.SMALL)
        problems = pretrained.problems(model, folder, sum(limits(configuration)), _device_here(configuration))
        if problems or not loaded:
            return problems
        return pretrained.prompt_problems(model, folder, _of_each_shape(loaded), _with_thoughts(loaded))
    except PreflightError as error:
        return list(error.problems)


def model_notices(configuration: Configuration) -> list[str]:
    """What a user should know of a model that the preflight has looked at; a sentence each."""
    model = configuration.model
    if not isinstance(model, HubModel):
        return []
    from posweep.policy import pretrained

    return pretrained.notices(model, hub.fetch(model, "model", "model", hub.SMALL))


def _sharing_problems(configuration: Configuration, plan: Plan, loaded: Preferences) -> list[str]:
    """Prompts that are to be shared where a pair has two of them, or where the model cannot look at them together."""
    if not any(spec.train["prefix_sharing"] for spec in plan):
        return []
    problems, model, place = [], configuration.model, "train.prefix_sharing"
    if loaded.unpaired:
        problems.append(
            f"{place}: data={configuration.data.kind} labels responses one by one, so that the responses of a pair have no "
            f"prompt in common; set {place}=false."
        )
    if isinstance(model, HubModel) and model.attention != "sdpa":
        problems.append(
            f"{place}: model.attention={model.attention} cannot look at responses that share a prompt; set "
            f"model.attention=sdpa, or {place}=false."
        )
    elif isinstance(model, HubModel):
        from posweep.policy import pretrained

        with suppress(PreflightError, OSError, ValueError):  # said already
            folder = hub.fetch(model, "model", "model", hub.SMALL)
            problems += pretrained.sharing_problems(model, folder, place)
    return problems


def _weight_problems(configuration: Configuration) -> list[str]:
    """The weights of a model by its name, fetched where they are not here."""
    model = configuration.model
    if not isinstance(model, HubModel):
        return []
    from posweep.policy import pretrained

    try:
        return pretrained.weight_problems(model, hub.fetch(model, "model", "model"))
    except PreflightError as error:
        return list(error.problems)
