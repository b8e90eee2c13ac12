"""What every executor does: run trials somewhere and say what becomes of each. The laptop is a cluster of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from posweep.records import Opponents, TrialSpec
from posweep.settings import Configuration


@dataclass(frozen=True)
class Work:
    """What a worker needs to know besides a key: the configuration, the trials by key, the sweep's folder.

    `fingerprints` are those of what trials share (`plan.shared_fingerprints`): a worker elsewhere may lack the files to
    compute them from. `driver` names the launch; workers of one that another has taken over give up (`folder.taken_over`).
    """

    configuration: Configuration
    folder: Path
    specs: dict[str, TrialSpec]
    fingerprints: Mapping[str, Any] | None = None
    driver: str = ""


@dataclass(frozen=True)
class Event:
    """Something happened to a trial; the result itself is in the ledger.

    `stopped`: it gave up its place, since the sweep stops. `lost`: its worker or node went away; executors may take that
    for `failed`, for a failure is in the ledger. `unwritten`: what it came to could not be written. `beside`: it shared its
    passes with a trial that was named before.
    """

    kind: Literal["started", "finished", "diverged", "failed", "stopped", "lost", "unwritten"]
    key: str
    beside: bool = False


@dataclass(frozen=True)
class ArtifactSummary:
    """What the driver needs to know of the artifacts, as plain data.

    `obstacle`: why trials cannot share passes; empty where they can, or are not to. `artifacts`: names of the folders,
    as `artifacts/KIND/FINGERPRINT`.
    """

    parameters: int
    baseline: Mapping[str, float]
    opponents: Sequence[Opponents]
    facts: Mapping[str, Any]
    obstacle: str = ""
    artifacts: Sequence[str] = ()


Listener = Callable[[Event], None]


class Executor(Protocol):
    """Runs trials; results go into the ledger, events to the listener."""

    def preflight(self) -> list[str]:
        """What stands in the way, a sentence each; takes at most 5 seconds and starts nothing."""
        ...

    def open(self, configuration: Configuration, folder: Path, say: Callable[[str], None]) -> None:
        """Take what trials run on, once for all runs, before anything is made.

        Args:
            configuration: of the sweep.
            folder: the sweep's output folder.
            say: takes what a user should know while this waits.

        Raises:
            PreflightError: what it is or reaches is not what the sweep needs; nothing is left open.
        """
        ...

    def close(self) -> None:
        """Give it back."""
        ...

    def make_artifacts(self, work: Work, say: Callable[[str], None]) -> ArtifactSummary:
        """Make what all trials share, on what a trial would run on; what has to be made is said when it begins."""
        ...

    def run(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        """Run the trials; returns when each has ended or was lost, or the sweep was asked to stop and none runs any more."""
        ...


def gpus_here() -> int:
    """GPUs this machine has."""
    import torch

    return torch.cuda.device_count()


def gpu_problem(asked: float, found: float, where: str, place: str = "executor.trial_resources") -> list[str]:
    """The sentence for a GPU asked for where there is none."""
    if asked <= found:
        return []
    return [
        f"{place}.gpu: each trial asks for {asked:g} GPU and {where} has {found:g}. Set {place}.gpu=0, or "
        "executor.address=<a cluster with GPUs>."
    ]


def core_problem(asked: float, found: float, place: str) -> list[str]:
    """The sentence for cores asked for where there are fewer."""
    if asked <= found:
        return []
    return [
        f"{place}.cpu: each trial asks for {asked:g} cores and this machine has {found:g}. Set {place}.cpu={found:g} "
        "or less."
    ]
