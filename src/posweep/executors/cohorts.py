"""Which trials may share their passes: those that see the same batches and prompts, and ask the same of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posweep.capacity import fused_fit, trials_at_once
from posweep.executors.base import Work
from posweep.fields import canonical
from posweep.objectives import OBJECTIVES, needs
from posweep.records import TrialSpec
from posweep.settings import Configuration

OWN = ("learning_rate", "warmup_ratio", "schedule", "weight_decay", "adam_beta2", "max_grad_norm")
"""Settings of training that trials of one pass may differ in: each takes its own steps along its own gradient."""


def cohorts(work: Work, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys in their order, but that trials which share their passes stand beside the first of them."""
    at_most, found = fused(work.configuration, [work.specs[key] for key in keys]), list[list[str]]()
    open_ones: dict[str, list[str]] = {}
    for key in keys:
        alike = _alike(work.specs[key], work.configuration)
        if alike not in open_ones or len(open_ones[alike]) == at_most:
            found.append([])
            open_ones[alike] = found[-1]
        open_ones[alike].append(key)
    return [tuple(cohort) for cohort in found]


def fused(configuration: Configuration, specs: Sequence[TrialSpec]) -> int:
    """How many trials share a pass at most: what the settings say or, where they leave it open, as many as fit.

    Those that fit are spread over all workers, so that none of them waits while another has several.
    """
    if configuration.executor.fused is not None:
        return configuration.executor.fused
    largest = max((_training(spec, configuration)["batch_size"] for spec in specs), default=1)
    workers = trials_at_once(configuration, len(specs))
    return max(1, min(fused_fit(configuration, largest, len(specs)), -(-len(specs) // workers)))


def _alike(spec: TrialSpec, configuration: Configuration) -> str:
    """What must be the same in trials that share their passes.

    KTO asks for a pass of its own in each step, over responses to other prompts; those who do not need it would wait.
    """
    own = {name: value for name, value in _training(spec, configuration).items() if name not in OWN}
    passes = "mismatched" in needs(OBJECTIVES[spec.method])
    return canonical([spec.seed, own, passes, configuration.executor.request(spec.method)])


def _training(spec: TrialSpec, configuration: Configuration) -> dict[str, Any]:
    return {**vars(configuration.train), **spec.train}
