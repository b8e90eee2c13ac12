"""One short trial per method, here and now, to know what a sweep will take before it runs. Nothing of it is recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from posweep.alone import check_device, store_of
from posweep.cost import PROBE, Probed, Probes, probed_settings
from posweep.folder import folder_of
from posweep.identity import identity_of
from posweep.ledger import write_atomically
from posweep.objectives import OBJECTIVES
from posweep.plan import Plan, make_plan
from posweep.preflight import ready
from posweep.records import TrialSpec
from posweep.settings import Configuration, LlmSettings, steps_of

STEPS = 8
"""Steps of training that are timed, after one that is not."""
EVALUATION = ("generate", "kl", "judge", "measure")
"""Stages of an evaluation; the others but `train` count as the rest."""


def probe(configuration: Configuration, say: Callable[[str], None]) -> Probes:
    """Train a few steps of one trial per method and evaluate it; what it took goes into probe.json.

    Judges behind an endpoint are not asked: a plan costs nothing. Artifacts that are missing are made, and stay.

    Raises:
        PreflightError: something the trials need is not there.
    """
    from posweep.artifacts.shared import prepare

    check_device(configuration)
    plan, folder = make_plan(configuration), folder_of(configuration)
    asked = {name: one for name, one in configuration.judges.items() if not isinstance(one, LlmSettings)}
    for name in configuration.judges.keys() - asked:
        say(f"judge {name} is not asked; the time it takes is not counted")
    once = dataclasses.replace(configuration.train, evaluate_at=(1.0,))
    probed, _ = ready(dataclasses.replace(configuration, judges=asked, train=once), plan)
    shared = prepare(probed, store_of(configuration, say), configuration.device)
    found = {method: _probe(spec, shared, say) for method, spec in _first_of_each(plan).items()}
    write_atomically(
        folder / PROBE,
        {
            "settings": probed_settings(configuration, identity_of(configuration)),
            "methods": {method: row.to_json() for method, row in found.items()},
        },
    )
    return found


def _first_of_each(plan: Plan) -> dict[str, TrialSpec]:
    first = {spec.method: spec for spec in reversed(plan.trials)}
    return {spec.method: first[spec.method] for spec in plan}


def _probe(spec: TrialSpec, shared: Any, say: Callable[[str], None]) -> Probed:
    """One step to warm up, then a short trial with its evaluation."""
    from posweep.policy.reproducible import threads
    from posweep.trial import Course, run_trial, settings_of, train

    batch, pairs = int(spec.train["batch_size"]), len(shared.pairs)
    say(f"probing {OBJECTIVES[spec.method].title} …")
    _gpu_peak()
    with threads(settings_of(spec, shared).threads):
        train(_short(spec, 1, pairs), shared, Course(), measured=False)
    steps = min(STEPS, steps_of(pairs, batch, spec.train["epochs"]))
    outcome = run_trial(_short(spec, steps, pairs), shared)
    seconds = outcome.result.seconds
    evaluation = sum(seconds.get(stage, 0.0) for stage in EVALUATION)
    trained = seconds.get("train", 0.0)
    other = max(0.0, seconds["total"] - trained - evaluation)
    return Probed(trained / steps, batch, pairs, evaluation, other, len(json.dumps(outcome.to_json())), _gpu_peak())


def _gpu_peak() -> int:
    """Bytes that torch took of the GPU at most since this was last asked; 0 without a GPU."""
    import torch

    from posweep.artifacts.shared import release

    if not torch.cuda.is_initialized():
        return 0
    peak = torch.cuda.max_memory_reserved()
    release()  # what is kept for later tensors is no part of the next peak
    torch.cuda.reset_peak_memory_stats()
    return peak


def _short(spec: TrialSpec, steps: int, pairs: int) -> TrialSpec:
    """The same trial with so many steps."""
    epochs = steps / (pairs // int(spec.train["batch_size"]))
    return dataclasses.replace(spec, train={**spec.train, "epochs": epochs})
