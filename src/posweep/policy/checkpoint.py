"""Where a training stands, on disk: what was interrupted goes on from there, to the numbers it would have had."""

from __future__ import annotations

import os
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posweep.errors import Stopped, first_line
from posweep.settings import TrainSettings

FORMAT = 1
"""Raised when what a checkpoint holds changes; others are not read."""
LOOK_EVERY = 1.0
"""Seconds between looks for the request to stop."""
WORTH = 10.0
"""Seconds of training that are not to be lost while the policy is measured."""


@dataclass(frozen=True)
class State:
    """What the rest of a training depends on after `step` steps; the order of the data needs nothing but that number.

    Attributes:
        charts: what was charted so far, name → (steps,).
        generators: states of torch's own generators, by device, for models that draw at random.
        about: what the one who trains wants to find again.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    charts: Mapping[str, Tensor]
    rates: list[float]
    generators: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)


class Door:
    """How a training is left and entered again. This one is shut: the training is run in one piece.

    Attributes:
        begun: where the training goes on, until it does.
        about: asked what the one who trains wants to find again.
        trouble: why the last checkpoint could not be written; training goes on without it.
    """

    def __init__(self) -> None:
        self.begun: State | None = None
        self.about: Callable[[], Mapping[str, Any]] = dict
        self.trouble = ""

    def enter(self) -> State | None:
        """Hand over where the training goes on: it is large, and nobody else needs it. None where it begins."""
        begun, self.begun = self.begun, None
        return begun

    def forget(self) -> None:
        """Begin from the beginning: the state is not the one to go on from."""
        self.begun = None

    def due(self, step: int, looks: bool) -> bool:
        """Whether to take the state after a step; `looks`: the policy is about to be measured."""
        return False

    def leave(self, state: State) -> None:
        """Take the state.

        Raises:
            Stopped: the training is to end here.
        """


@dataclass(frozen=True)
class CheckpointFile:
    """One state under the key it belongs to: replaced whole or not at all, and read only if it is whole."""

    path: Path
    key: str

    def write(self, state: State) -> None:
        """Replace what lies there.

        Raises:
            OSError, RuntimeError: it could not be written; what lay there lies there still.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as stream:
                torch.save({"format": FORMAT, "key": self.key, "state": vars(state)}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self) -> State | None:
        """The state, on the CPU; None where there is none, or it is damaged, or another's."""
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch writes checksums and does not look at them
                if archive.testzip() is not None:
                    return None
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            return State(**found["state"]) if (found["format"], found["key"]) == (FORMAT, self.key) else None
        except Exception:  # damage comes in every form
            return None

    def tidy(self) -> None:
        """Remove what writers left that were killed."""
        for left in self.path.parent.glob(f".{self.path.name}-*"):
            left.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove all there is."""
        self.path.unlink(missing_ok=True)
        self.tidy()


class Checkpoints(Door):
    """The door to a file: taken by the clock, by steps, before long measurements, and when the sweep was asked to stop."""

    def __init__(self, file: CheckpointFile, settings: TrainSettings, asked_to_stop: Callable[[], bool]):
        super().__init__()
        self.file, self.settings = file, settings
        file.tidy()
        self.begun = file.read()
        self._asked_to_stop, self._stops, self._looked = asked_to_stop, False, 0.0
        self._written, self._since = self.begun is not None, time.monotonic()

    def forget(self) -> None:
        """Begin from the beginning; the file goes."""
        super().forget()
        self._written, self._since = False, time.monotonic()
        self.file.discard()

    def due(self, step: int, looks: bool) -> bool:
        """Whether it is time, or the sweep was asked to stop."""
        return self._asked() or self._is_time(step, looks)

    def leave(self, state: State) -> None:
        """Write the state; a disk that is full costs the checkpoint, not the trial.

        Raises:
            Stopped: the sweep was asked to stop.
        """
        try:
            self.file.write(replace(state, about=self.about()))
            self._written, self.trouble = True, ""
        except (OSError, RuntimeError, MemoryError) as error:
            # torch wraps what the system said into a sentence about its own position in the file
            self.trouble = first_line(error.__context__ if isinstance(error.__context__, OSError) else error)
        self._since = time.monotonic()
        if self._stops:
            raise Stopped(f"asked to stop after step {state.step}")

    def _asked(self) -> bool:
        """Whether to stop; looked for once a second, since the folder may be on a network."""
        if not self._stops and time.monotonic() - self._looked >= LOOK_EVERY:
            self._stops, self._looked = self._asked_to_stop(), time.monotonic()
        return self._stops

    def _is_time(self, step: int, looks: bool) -> bool:
        minutes, steps = self.settings.checkpoint_minutes, self.settings.checkpoint_steps
        spent = time.monotonic() - self._since
        if (steps and step % steps == 0) or (minutes and spent >= 60 * minutes):
            return True
        return looks and bool(minutes or steps) and (self._written or spent >= WORTH)
