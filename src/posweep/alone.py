"""One trial in this process, with the sweep's artifacts: to repeat it, or to export the policy it trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posweep import capacity
from posweep.errors import ConfigError, PreflightError
from posweep.executors import open_executor
from posweep.folder import folder_of, policy_folder
from posweep.plan import largest_batch, make_plan
from posweep.preflight import ready
from posweep.records import TrialResult, TrialSpec
from posweep.settings import Configuration

Say = Callable[[str], None]


def check_device(configuration: Configuration) -> None:
    """A trial in this process needs its GPU and its memory on this machine; PreflightError where they are not there."""
    here = dataclasses.replace(configuration, executor=dataclasses.replace(configuration.executor, kind="local"))
    problems = open_executor(here.executor).preflight()
    if problems := problems or capacity.problems(here, largest_batch(make_plan(here)), 1):
        raise PreflightError(problems)


def run_alone(configuration: Configuration, spec: TrialSpec, say: Say) -> TrialResult:
    """Train and measure one trial; nothing is recorded."""
    from posweep.artifacts.shared import prepare
    from posweep.trial import run_trial

    configuration, _ = ready(configuration, make_plan(configuration))
    return run_trial(spec, prepare(configuration, store_of(configuration, say), configuration.device)).result


def export(configuration: Configuration, spec: TrialSpec, to: Path, merged: bool, say: Say) -> None:
    """Write the policy of a trial as a Hugging Face folder: what was kept of it, or else trained again.

    Raises:
        ConfigError: adapters are asked for and the model was trained whole.
    """
    from posweep.artifacts.shared import prepare
    from posweep.policy.load import export_policy, put_back

    if not merged and getattr(getattr(configuration.model, "lora", None), "rank", 0) == 0:
        raise ConfigError("merged: false writes adapters, but this model is trained whole; leave it out.")
    configuration = dataclasses.replace(configuration, judges={})  # nothing is judged: none needs to answer
    configuration, _ = ready(configuration, make_plan(configuration))
    shared = prepare(configuration, store_of(configuration, say), configuration.device, measured=False)
    kept = policy_folder(folder_of(configuration), spec.key)
    if kept.is_dir():
        put_back(shared.policy, kept)
    else:
        say("the policy was not kept (train.keep); training it again, to the same numbers")
        _train(spec, shared)
    export_policy(shared.policy, to, merged)


def _train(spec: TrialSpec, shared: Any) -> None:
    from posweep.policy.reproducible import threads
    from posweep.trial import Course, train

    with threads(spec.train.get("threads", shared.configuration.train.threads)):
        train(spec, shared, Course(), measured=False)


def store_of(configuration: Configuration, say: Say) -> Any:
    """The sweep's artifacts; what has to be made first is said."""
    from posweep.artifacts.store import MADE, Store

    return Store(folder_of(configuration) / "artifacts", lambda kind: say(f"making {MADE[kind]} …"))
