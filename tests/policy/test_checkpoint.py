"""A training that was interrupted goes on to the numbers it would have had; what it cannot go on from is not read."""

import dataclasses
import itertools
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from posweep.errors import Diverged, Stopped
from posweep.policy import checkpoint as module
from posweep.policy.batch import Losses, PerItem, batches
from posweep.policy.checkpoint import CheckpointFile, Checkpoints, State
from posweep.policy.reproducible import seeded
from posweep.policy.train import optimise
from posweep.settings import TrainSettings

from .test_train import Regression, Spread

SETTINGS = TrainSettings(
    learning_rate=0.05, warmup_ratio=0.2, schedule="cosine", weight_decay=0.1, checkpoint_minutes=None
)
STEPS = 20


class Dropping(Regression):
    """A model that draws at random."""

    def loss(self, items):
        x = torch.nn.functional.dropout(self.x[items], 0.5)
        return Losses((self.layer(x)[:, 0] - self.y[items]) ** 2, {})


class Killed(BaseException):
    """No code of ours sees a SIGKILL."""


@pytest.fixture
def file(tmp_path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints" / "k.pt", "k")


def door_to(file: CheckpointFile, asked=lambda: False, **settings) -> Checkpoints:
    return Checkpoints(file, dataclasses.replace(SETTINGS, **settings), asked)


def train(model, door=None, killed_at=None, settings=SETTINGS, at=None):
    """Curves and weights; the process dies before the step after `killed_at`."""
    loss = model if isinstance(model, Spread) else PerItem(model.loss)
    plan = batches(np.ones(32), 8, STEPS)
    if killed_at is not None:
        forward, seen = loss.forward, itertools.count(door.begun.step if door and door.begun else 0)

        def dying(batch):
            if next(seen) == killed_at:
                raise Killed
            return forward(batch)

        loss = _With(loss, dying)
    with seeded(7):
        curves = optimise(model, plan, loss, settings, at, door)
    return curves, {name: value.tolist() for name, value in model.state_dict().items()}


class _With:
    def __init__(self, loss, forward):
        self.separable, self.losses, self.forward = loss.separable, loss.losses, forward


# --- the same numbers


@pytest.mark.parametrize("kind", [Regression, Spread, Dropping])
@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize(("every", "killed"), [(1, 1), (4, 11), (7, 19), (1, 16)])
def test_a_training_that_was_killed_goes_on_to_the_same_numbers(file, kind, micro, every, killed):
    settings = dataclasses.replace(SETTINGS, micro_batch_size=micro)
    expected = train(kind(), settings=settings)
    passes = 2 if micro and kind is Spread else 1
    parts = -(-8 // micro) * passes if micro else 1
    with pytest.raises(Killed):
        train(kind(), door_to(file, checkpoint_steps=every), killed * parts, settings)
    again = door_to(file, checkpoint_steps=every)
    assert again.begun.step == killed // every * every
    assert train(kind(), again, settings=settings) == expected


def test_killed_again_and_again(file):
    expected, model = train(Regression()), Regression()
    for killed in range(1, STEPS):
        with pytest.raises(Killed):
            train(Regression(), door_to(file, checkpoint_steps=1), killed)
    assert train(model, door_to(file, checkpoint_steps=1)) == expected


def test_a_checkpoint_changes_nothing_for_the_one_who_writes_it(file):
    assert train(Regression(), door_to(file, checkpoint_steps=3)) == train(Regression())


def test_what_was_interrupted_while_it_was_measured_is_measured_again_and_not_trained(file):
    seen: list[str] = []

    def die():
        seen.append("interrupted")
        raise Killed

    door = door_to(file, checkpoint_steps=1)
    with pytest.raises(Killed):
        train(Regression(), door, at={STEPS: die})
    curves, _ = train(Regression(), door_to(file), killed_at=STEPS, at={STEPS: lambda: seen.append("measured")})
    assert seen == ["interrupted", "measured"]
    assert curves == train(Regression())[0]


def test_a_loss_that_was_lost_before_the_checkpoint_is_named_by_its_own_step(file):
    """And no checkpoint is written of weights that are lost."""
    model, calls = Regression(), []
    good = model.loss

    def bad(items):
        calls.append(items)
        losses, charts = good(items)
        return Losses(losses * float("nan") if len(calls) >= 5 else losses, charts)

    model.loss = bad
    with pytest.raises(Diverged, match="step 5"):
        train(model, door_to(file, checkpoint_steps=3))
    assert file.read().step == 3


# --- when


def state(step: int = 1) -> State:
    return State(step, {"w": torch.arange(3.0)}, {}, {}, {"loss": torch.zeros(step)}, [0.1] * step, {}, {})


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def test_by_the_clock(file, clock):
    door = door_to(file, checkpoint_minutes=10.0)
    clock.now += 599
    assert not door.due(5, False)
    clock.now += 1
    assert door.due(6, False)
    door.leave(state())
    assert not door.due(7, False)
    clock.now += 600
    assert door.due(8, False)


def test_before_a_long_measurement_where_much_would_be_lost(file, clock):
    door = door_to(file, checkpoint_minutes=10.0)
    clock.now += module.WORTH - 1
    assert not door.due(5, True)
    clock.now += 1
    assert not door.due(5, False)
    assert door.due(5, True)


def test_a_trial_with_a_checkpoint_gets_another_at_its_end(file, clock):
    door_to(file, checkpoint_steps=4).leave(state())
    assert door_to(file, checkpoint_steps=4).due(5, True)
    assert not door_to(file, checkpoint_steps=4).due(5, False)


def test_no_checkpoints_are_written_where_none_are_wanted(file, clock):
    door = door_to(file)
    clock.now += 10**6
    assert not door.due(5, True)


def test_whoever_is_asked_to_stop_writes_and_stops_at_once(file):
    asked: list[int] = []

    def stop():
        asked.append(1)
        return len(asked) == 1

    with pytest.raises(Stopped, match="after step 1"):
        train(Regression(), door_to(file, stop))
    assert file.read().step == 1


def test_the_request_is_looked_for_once_a_second(file, clock):
    asked: list[float] = []
    door = door_to(file, lambda: asked.append(clock.now) or False)
    for step in range(100):
        clock.now += 0.25
        door.due(step, False)
    assert len(asked) == 25


# --- what lies there


def test_what_is_read_is_what_was_written(file):
    door = door_to(file)
    door.about = lambda: {"along": {0.5: {"ood/win_rate_vs_sft": 0.1 + 0.2}}, "notes": {}}
    door.leave(state(3))
    found = file.read()
    assert (found.step, found.about["along"]) == (3, {0.5: {"ood/win_rate_vs_sft": 0.1 + 0.2}})
    assert found.weights["w"].tolist() == [0, 1, 2]
    assert list(file.path.parent.iterdir()) == [file.path]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def payload(path: Path) -> int:
    """Where the weights lie in the file."""
    return path.read_bytes().index(np.arange(3, dtype="float32").tobytes())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_text("not a checkpoint"),
        lambda path: flip(path, payload(path) + 6),
        lambda path: torch.save({"format": module.FORMAT}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"format": module.FORMAT, "key": "k", "state": {"step": 1}}, path),
        lambda path: torch.save({"format": module.FORMAT, "key": "k", "state": os.system}, path),
        lambda path: torch.save({"format": module.FORMAT + 1, "key": "k", "state": vars(state())}, path),
        lambda path: torch.save({"format": module.FORMAT, "key": "other", "state": vars(state())}, path),
    ],
)
def test_what_is_damaged_or_another_s_is_as_if_it_were_not_there(file, damage):
    file.write(state())
    assert file.read() is not None
    damage(file.path)
    assert file.read() is None
    assert train(Regression(), door_to(file, checkpoint_steps=5)) == train(Regression())


def test_half_a_file_replaces_nothing_and_is_cleared_away(file):
    file.write(state(1))
    (file.path.parent / ".k.pt-killed").write_bytes(b"half")
    (file.path.parent / ".kk.pt-other").write_bytes(b"half")
    assert door_to(file).begun.step == 1
    assert sorted(one.name for one in file.path.parent.iterdir()) == [".kk.pt-other", "k.pt"]
    file.discard()
    file.discard()
    assert [one.name for one in file.path.parent.iterdir()] == [".kk.pt-other"]


@pytest.fixture
def full_disk():
    """No file of more than a kilobyte can be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(file, full_disk):
    file.write(state(1))
    door, before = door_to(file, checkpoint_steps=2), file.path.read_bytes()
    door.forget()
    file.path.write_bytes(before)
    full_disk()
    found = train(Regression(), door)
    assert door.trouble == "[Errno 27] File too large"
    assert file.path.read_bytes() == before
    assert list(file.path.parent.iterdir()) == [file.path]
    assert found == train(Regression())
