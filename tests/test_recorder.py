"""Nothing waits for a tracker and nothing fails with it: what it lacks arrives when it answers again, once each."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from posweep import recorder as module
from posweep.errors import ConfigError, PreflightError, TrackerUnavailable
from posweep.folder import CONFIG, HEADER, PLAN
from posweep.ledger import Ledger, write_atomically
from posweep.plan import Plan
from posweep.recorder import Recorder, given_up
from posweep.records import Outcome, SweepHeader, TrialFailure, TrialResult, TrialSpec
from posweep.sync import sync
from posweep.trackers import NullTracker

from .tiny import configured


class Absent(NullTracker):
    """A tracker that may be away, slow, or go away in the middle of a write; remembers what arrived, in order."""

    def __init__(self, held: dict[str, str] | None = None):
        vars(self).update(away=False, seconds=0.0, breaks=0, arrived=[], results=dict(held or {}), lost={}, opened=0)

    def _ask(self) -> None:
        time.sleep(self.seconds)
        if self.away:
            raise TrackerUnavailable("Connection refused")

    def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
        self._ask()
        vars(self)["opened"] += 1

    def held(self) -> dict[str, str]:
        self._ask()
        return dict(self.results)

    def failed(self) -> dict[str, str]:
        return dict(self.lost)

    def write(self, spec: TrialSpec, outcome: Outcome) -> None:
        self._ask()
        if self.breaks:
            vars(self)["breaks"] -= 1
            raise TrackerUnavailable("Connection reset by peer")
        self.results[spec.key] = outcome.result.score_key
        self.arrived.append(spec.key)

    def fail(self, spec: TrialSpec, failure: TrialFailure, story: str) -> None:
        self._ask()
        self.lost[spec.key] = failure.said
        self.arrived.append(f"failure {spec.key}: {story}")

    def describe(self, header: SweepHeader, files: Sequence[Path]) -> None:
        self._ask()
        self.arrived.append(f"header and {[file.name for file in files]}")

    def fetch(self, key: str) -> Outcome | None:
        self._ask()
        return None

    def close(self, status: str) -> None:
        self._ask()
        self.arrived.append(status)


def spec(key: str) -> TrialSpec:
    return TrialSpec(key, key, f"score {key}", key, "dpo", {}, {}, 0)


PLANNED = Plan("demo", tuple(map(spec, "abcdef")))


def is_a_trial(arrived: str) -> bool:
    return arrived in "abcdef" or arrived.startswith("failure ")


def finish_trial(folder: Path, key: str) -> None:
    Ledger(folder).write(Outcome(TrialResult(key, key, f"score {key}", "finished", {"ood/x": 1.0})))


def fail_trial(folder: Path, key: str) -> None:
    Ledger(folder).fail(TrialFailure(key, "OSError", "disk on fire"), "the whole story")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"PAUSE": 0.01, "LONGEST": 0.05, "FLUSH": 0.3, "HURRY": 0.2, "PATIENCE": 0.3}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "demo"
    write_atomically(folder / HEADER, SweepHeader("demo", "ood/x").to_json())
    (folder / PLAN).write_text(PLANNED.to_jsonl())
    (folder / CONFIG).write_text("")
    return folder


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


def test_everything_arrives_and_the_end_comes_last(folder: Path) -> None:
    tracker = Absent()
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.held() == {}
        for key in "ab":
            finish_trial(folder, key)
            recorder.send(key)
        fail_trial(folder, "c")
        recorder.send("c")
        assert recorder.finish("failed") == ""
    files = [CONFIG]
    assert tracker.arrived == ["a", "b", "failure c: the whole story", f"header and {files}", "failed"]


def test_a_tracker_that_was_away_gets_everything_once_it_is_back(folder: Path) -> None:
    tracker = Absent()
    with Recorder(tracker, PLANNED, folder) as recorder:
        recorder.held()
        vars(tracker)["away"] = True
        for key in "abc":
            finish_trial(folder, key)
            began = time.monotonic()
            recorder.send(key)
            assert time.monotonic() - began < 2
        until(lambda: recorder.trouble)
        assert recorder.left() == 3
        vars(tracker)["away"] = False
        until(lambda: len(tracker.results) == 3)  # by itself
        assert recorder.finish("finished") == ""
    assert sorted(tracker.arrived[:3]) == ["a", "b", "c"]
    assert tracker.opened > 1  # a server that comes back may have forgotten the sweep


def test_a_write_that_broke_off_is_repeated_and_does_not_hold_up_the_others(folder: Path) -> None:
    tracker = Absent()
    vars(tracker)["breaks"] = 2
    with Recorder(tracker, PLANNED, folder) as recorder:
        for key in "abc":
            finish_trial(folder, key)
            recorder.send(key)
        assert recorder.finish("finished") == ""
    assert sorted(filter(is_a_trial, tracker.arrived)) == ["a", "b", "c"]
    assert tracker.arrived[-1] == "finished"


def test_what_an_earlier_driver_left_unsent_is_found_by_comparing(folder: Path) -> None:
    for key in "abc":
        finish_trial(folder, key)
    fail_trial(folder, "d")
    fail_trial(folder, "e")
    tracker = Absent({"a": "score a", "b": "of other judges"})
    tracker.lost["d"] = "OSError: disk on fire"
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.finish("failed") == ""
    assert sorted(filter(is_a_trial, tracker.arrived)) == ["b", "c", "failure e: the whole story"]
    assert tracker.arrived[-1] == "failed"


def test_a_failure_that_was_made_good_before_it_was_sent_is_not_sent(folder: Path) -> None:
    tracker = Absent()
    with Recorder(tracker, PLANNED, folder) as recorder:
        recorder.held()
        vars(tracker)["away"] = True
        fail_trial(folder, "a")
        recorder.send("a")
        until(lambda: recorder.trouble)
        finish_trial(folder, "a")
        recorder.send("a")
        vars(tracker)["away"] = False
        recorder.finish("finished")
    assert tracker.arrived.count("a") == 1
    assert tracker.lost == {}


def test_who_is_away_at_the_end_costs_seconds_and_a_reason(folder: Path) -> None:
    tracker = Absent()
    vars(tracker)["away"] = True
    finish_trial(folder, "a")
    began = time.monotonic()
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.held() is None
        assert recorder.fetch("b") is None
        assert recorder.fetch("c") is None  # the patience for both together is over
        recorder.send("a")
        assert recorder.finish("finished") == "Connection refused"
        assert recorder.left() == 1
        finish_trial(folder, "f")
        assert recorder.left() == 2
    assert time.monotonic() - began < 10


def test_who_is_slow_is_waited_for_while_something_arrives(folder: Path) -> None:
    tracker = Absent()
    vars(tracker)["seconds"] = 0.1
    for key in "abcdef":
        finish_trial(folder, key)
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.finish("finished") == ""  # longer than FLUSH in all
    assert len(tracker.arrived) == 8


def test_an_interrupted_sweep_is_closed_first_and_in_a_hurry(folder: Path) -> None:
    tracker = Absent()
    recorder = Recorder(tracker, PLANNED, folder).__enter__()
    recorder.held()
    vars(tracker)["away"] = True
    for key in "abcdef":
        finish_trial(folder, key)
        recorder.send(key)
    until(lambda: recorder.trouble)
    vars(tracker).update(away=False, seconds=0.06)
    began = time.monotonic()
    recorder.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert time.monotonic() - began < 5
    assert "killed" in tracker.arrived[:2]  # one may have been on its way
    assert len(tracker.arrived) < 8


def test_a_tracker_that_says_no_for_good_stops_the_launch(folder: Path) -> None:
    class Refusing(Absent):
        def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
            raise PreflightError("sweep.name: the MLflow experiment 'demo' was deleted; restore it.")

    with pytest.raises(PreflightError, match="was deleted"), Recorder(Refusing(), PLANNED, folder) as recorder:
        recorder.held()


def test_rows_that_cannot_be_read_are_said_and_hold_nothing_up(folder: Path) -> None:
    finish_trial(folder, "a")
    finish_trial(folder, "b")
    (folder / "responses" / "a.json").write_text("{")
    tracker = Absent()
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.finish("finished") == ""
    assert given_up(recorder) == [
        "MLflow lacks trial a: its rows cannot be read; remove ledger/a.json to run it again."
    ]
    assert "b" in tracker.arrived
    assert tracker.arrived[-1] == "finished"


def test_a_mistake_of_ours_is_said_once_and_holds_nothing_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_trial(folder, "a")
    finish_trial(folder, "b")
    tracker, real = Absent(), Absent.write

    def write(self: Absent, spec: TrialSpec, outcome: Outcome) -> None:
        if spec.key == "a":
            raise KeyError("gold")
        real(self, spec, outcome)

    monkeypatch.setattr(Absent, "write", write)
    with Recorder(tracker, PLANNED, folder) as recorder:
        assert recorder.finish("finished") == ""
    assert given_up(recorder) == ["MLflow lacks trial a: KeyError: 'gold'."]
    assert ("b" in tracker.arrived, tracker.arrived[-1], tracker.opened) == (True, "finished", 1)


def test_a_launch_that_was_refused_elsewhere_does_not_look_as_if_it_ran(folder: Path) -> None:
    """The nodes of a cluster are asked after the tracker was opened."""
    tracker = Absent()

    def refused(recorder: Recorder) -> None:
        recorder.held()
        raise PreflightError("executor.storage: cannot be used on node a")

    with pytest.raises(PreflightError), Recorder(tracker, PLANNED, folder) as recorder:
        refused(recorder)
    assert "killed" in tracker.arrived


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Absent:
    tracker = Absent()
    monkeypatch.setattr("posweep.sync.open_tracker", lambda _: tracker)
    return tracker


@pytest.fixture
def said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder.parent.parent)
    return []


def test_sync_says_what_it_sent_and_what_is_there(folder: Path, tracker: Absent, said: list[str]) -> None:
    configuration = configured(["sweep=smoke", "sweep.name=demo"])
    for key in "abcde":
        finish_trial(folder, key)
    fail_trial(folder, "f")
    tracker.results["a"] = "score a"
    sync(configuration, said.append)
    finish_trial(folder, "f")
    sync(configuration, said.append)
    sync(configuration, said.append)
    assert said == [
        "Sent 4 trials and 1 failure; MLflow holds 5 of 6 trials of sweep demo.",
        "Sent 1 trial; MLflow holds all 6 trials of sweep demo.",
        "Sent 0 trials; MLflow holds all 6 trials of sweep demo.",
    ]
    assert [what for what in tracker.arrived if what in ("finished", "failed", "killed")] == [
        "failed",
        "finished",
        "finished",
    ]


def test_sync_without_a_tracker_a_sweep_or_an_answer(folder: Path, tracker: Absent, said: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^sweep=other: .* holds no sweep; launch it first, or set output_dir"):
        sync(configured(["sweep=smoke", "sweep.name=other"]), said.append)
    with pytest.raises(ConfigError, match=r"^tracking: none is nowhere to send to"):
        sync(configured(["sweep=smoke", "sweep.name=demo", "tracking=none"]), said.append)
    vars(tracker)["away"] = True
    finish_trial(folder, "a")
    command = "posweep sync sweep=smoke sweep.name=demo tracking.uri=http://there:1$"
    with pytest.raises(TrackerUnavailable, match=rf"^MLflow lacks 1 of 6 trials \(Connection refused\); .*{command}"):
        sync(configured(["sweep=smoke", "sweep.name=demo", "tracking.uri=http://there:1"]), said.append)
    assert said == []
    assert threading.active_count() < 20
