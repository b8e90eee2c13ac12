"""What the trials of a plan are still to cost, from trials that have finished, else from a probe: time, GPU-hours, disk."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posweep import capacity
from posweep.fields import fingerprint
from posweep.folder import existing, folder_of, policy_folder
from posweep.identity import Identity
from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.records import JsonRecord, TrialResult, TrialSpec
from posweep.settings import Configuration, LoraSettings, steps_of
from posweep.size import adapter_parameters, shape_of

PROBE = "probe.json"
SEARCH = -1
"""In place of a block: the trials of a search."""
ENOUGH = 100
"""Finished trials whose files are weighed: those of a sweep are about alike."""
Finished = Mapping[str, TrialResult]
Shape = tuple[Any, ...]
"""What a trial's duration mostly depends on: its method, batch size and epochs."""


@dataclass(frozen=True)
class Probed(JsonRecord):
    """What one short trial of a method took.

    Attributes:
        step: seconds of a step of training.
        batch_size: pairs of that step.
        pairs: pairs there are to train on.
        evaluation: seconds of generating, judging and measuring once.
        other: seconds of the rest.
        bytes: of its records.
        peak: bytes of a GPU that its tensors took at most; 0 without a GPU.
    """

    step: float
    batch_size: int
    pairs: int
    evaluation: float
    other: float
    bytes: int
    peak: int = 0

    def seconds(self, spec: TrialSpec, evaluations: int) -> float:
        """Of a whole trial; a step's time is taken to grow with its pairs."""
        batch = int(spec.train["batch_size"])
        steps = steps_of(self.pairs, batch, spec.train["epochs"])
        return self.other + steps * self.step * batch / self.batch_size + evaluations * self.evaluation


Probes = Mapping[str, Probed]
"""What was probed, by method."""


@dataclass(frozen=True)
class Cost:
    """What trials are still to cost; None is unknown. `seconds` one after another, `records` and `policies` in bytes."""

    seconds: float | None
    gpu_hours: float | None
    records: float | None
    policies: float | None

    @property
    def disk(self) -> float | None:
        """Bytes that stay."""
        return _sum([self.records, self.policies])


def cost_of(
    configuration: Configuration, plan: Plan, finished: Finished, probes: Probes, searched: Sequence[TrialSpec] = ()
) -> dict[int, Cost]:
    """What each block's trials that are left will cost; under `SEARCH` those that `searched` stands for."""
    known, records = seconds_by_shape(plan, finished), _record_bytes(configuration, finished, probes)
    policy, costs = _policy_bytes(configuration, finished), dict[int, Cost]()
    best = configuration.train.keep == "best"
    held = {spec.method for spec in plan if spec.key in finished} if best else set[str]()
    for block, specs in {**_left_by_block(plan, finished), **({SEARCH: searched} if searched else {})}.items():
        seconds = [_seconds(configuration, spec, known, probes) for spec in specs]
        hours = [
            0.0 if not gpu else each and each * gpu / 3600
            for each, gpu in zip(seconds, (configuration.executor.request(s.method).gpu for s in specs), strict=True)
        ]
        kept = len({spec.method for spec in specs} - held) if best else len(specs)
        held |= {spec.method for spec in specs} if best else set()
        costs[block] = Cost(_sum(seconds), _sum(hours), _times(len(specs), records), _times(kept, policy))
    return costs


def whole(costs: Mapping[int, Cost]) -> Cost:
    """What all blocks cost together, and the search."""
    each = costs.values()
    return Cost(
        _sum([cost.seconds for cost in each]), _sum([cost.gpu_hours for cost in each]),
        _sum([cost.records for cost in each]), _sum([cost.policies for cost in each]),
    )  # fmt: skip


def checkpoint_bytes(configuration: Configuration, trials: int) -> float | None:
    """What checkpoints of the trials that run at once take: weights and both moments of Adam, in float32, and as much
    again while one is replaced."""
    trained = _trained_parameters(configuration)
    return trained and float(2 * 3 * 4 * trained * capacity.trials_at_once(configuration, trials))


def free_bytes(folder: Path) -> float:
    """What the disk of a folder has left."""
    return float(shutil.disk_usage(existing(folder)).free)


# --- time


def seconds_by_shape(plan: Plan, finished: Finished) -> dict[Shape, float]:
    """Mean seconds of finished trials of each method, batch size and number of epochs; diverged ones ended too soon."""
    seconds: dict[Shape, list[float]] = defaultdict(list)
    for spec in plan:
        if spec.key in finished and finished[spec.key].status == "finished":
            seconds[_shape(spec)].append(finished[spec.key].seconds["total"])
    return {shape: sum(found) / len(found) for shape, found in seconds.items()}


def _seconds(
    configuration: Configuration, spec: TrialSpec, known: Mapping[Shape, float], probes: Probes
) -> float | None:
    """Of one trial; None where nothing like it has finished and its method was not probed."""
    if (found := known.get(_shape(spec))) is not None:
        return found
    probed = probes.get(spec.method)
    return probed.seconds(spec, len(configuration.train.evaluate_at)) if probed else None


def _shape(spec: TrialSpec) -> Shape:
    return spec.method, spec.train["batch_size"], spec.train["epochs"]


def _left_by_block(plan: Plan, finished: Finished) -> dict[int, Sequence[TrialSpec]]:
    """The trials that are left; a block without any stands there too."""
    blocks: dict[int, list[TrialSpec]] = {spec.block: [] for spec in plan}
    for spec in plan:
        if spec.key not in finished:
            blocks[spec.block].append(spec)
    return {**blocks}


# --- disk


def _record_bytes(configuration: Configuration, finished: Finished, probes: Probes) -> float | None:
    """What a trial's result and responses take: the mean of finished ones, else of probes."""
    ledger = Ledger(folder_of(configuration))
    sizes = [ledger.size(key) for key in [*finished][:ENOUGH]] or [probed.bytes for probed in probes.values()]
    return sum(sizes) / len(sizes) if sizes else None


def _policy_bytes(configuration: Configuration, finished: Finished) -> float | None:
    """What stays of a trained policy, as `train.keep` says: the mean of those that are there, else 4 bytes a parameter."""
    adapted = _lora(configuration).rank > 0
    if configuration.train.keep == "nothing" or (configuration.train.keep == "adapters" and not adapted):
        return 0.0
    folders = (policy_folder(folder_of(configuration), key) for key in [*finished][:ENOUGH])
    if sizes := [size for folder in folders if (size := _size(folder))]:
        return sum(sizes) / len(sizes)
    trained = _trained_parameters(configuration)
    return trained and 4.0 * trained


def _trained_parameters(configuration: Configuration) -> int | None:
    """Parameters that training changes; None where the model's size is not known."""
    shape, lora = shape_of(configuration.model), _lora(configuration)
    if shape is None:
        return None
    return adapter_parameters(shape, lora) if lora.rank else shape.parameters


def _lora(configuration: Configuration) -> LoraSettings:
    return getattr(configuration.model, "lora", LoraSettings())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


# --- probes


def read_probes(folder: Path, configuration: Configuration, identity: Identity) -> Probes:
    """What was probed under these settings; nothing where that was never done, or under others."""
    try:
        written = json.loads((folder / PROBE).read_text(encoding="utf-8"))
        found = {method: Probed.from_json(row) for method, row in written["methods"].items()}
        return found if written["settings"] == probed_settings(configuration, identity) else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def probed_settings(configuration: Configuration, identity: Identity) -> str:
    """What a probe's numbers depend on."""
    train, requests = configuration.train, configuration.executor.requests
    return fingerprint([
        identity.train, identity.response, identity.score, train.micro_batch_size, train.threads,
        configuration.sample.batch_size, configuration.device, requests,
    ])  # fmt: skip


def _sum(parts: Sequence[float | None]) -> float | None:
    """None where a part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _times(count: int, size: float | None) -> float | None:
    return 0.0 if not count else size and count * size
