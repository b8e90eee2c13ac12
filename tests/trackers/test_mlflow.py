"""What MLflow holds after a sweep is what people look for there, and what comes back is what went in."""

import dataclasses
import json
import socket
from pathlib import Path

import pytest

from posweep.config import configure
from posweep.errors import ConfigError, TrackerUnavailable
from posweep.plan import make_plan
from posweep.records import HeldOutPair, Outcome, Response, SweepHeader, TrialFailure, TrialResult, TrialSpec
from posweep.settings import TrackingSettings
from posweep.trackers import NullTracker, open_tracker
from posweep.trackers.mlflow import MlflowTracker

pytestmark = pytest.mark.xdist_group("mlflow")


@pytest.fixture(scope="module")
def specs() -> tuple[TrialSpec, ...]:
    return make_plan(configure(["sweep=smoke"])).trials[:3]


def outcome(spec: TrialSpec, win: float = 0.75) -> Outcome:
    """A trial that was never run, with everything a tracker can be asked to keep."""
    result = TrialResult(
        key=spec.key, response_key=spec.response_key, score_key=spec.score_key, status="finished",
        measures={"ood/win_rate_vs_sft": win, "ood/win_rate_vs_sft_se": 0.1},
        along=({"at": 0.5, "measures": {"ood/win_rate_vs_sft": 0.6}},),
        curves={"loss": [[1, 0.7], [2, 0.6]], "rewards/accuracies": [[1, 0.5], [2, 0.8]]},
        seconds={"train": 1.5, "total": 2.0}, started_at=1_700_000_000.0,
    )  # fmt: skip
    rows = (Response("ood", 0, "name two fish", "cod eel", 3, False, 0.25, 3, {"gold": 1.0}, {"vs_sft": 0.75}),)
    return Outcome(result, rows, (HeldOutPair("ood", 0, 0.1, -0.1, 0.2, -0.3),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, specs: tuple[TrialSpec, ...]) -> MlflowTracker:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.chdir(folder)
        tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")
        tracker.open("smoke", specs)
        for spec in specs[:2]:
            tracker.write(spec, outcome(spec))
        tracker.describe(
            SweepHeader(
                "smoke", "ood/win_rate_vs_sft", {"ood/win_rate_vs_sft": 0.5}, {"commit": "abc", "data": "demo"}
            ),
            [],
        )
        tracker.close("finished")
    return tracker


def test_a_sweep_is_a_parent_with_children(store: MlflowTracker, specs: tuple[TrialSpec, ...]) -> None:
    client = store.client
    runs = client.search_runs([store._experiment])
    parents = [run for run in runs if run.data.tags["kind"] == "sweep"]
    children = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert [run.info.run_name for run in parents] == ["smoke"]
    assert len(children) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert parents[0].data.metrics == {"sft/ood/win_rate_vs_sft": 0.5}
    assert {"plan.jsonl", "sweep.json"} <= {f.path for f in client.list_artifacts(parents[0].info.run_id)}


def test_a_child_has_params_tags_metrics_curves_and_artifacts(
    store: MlflowTracker, specs: tuple[TrialSpec, ...]
) -> None:
    client, spec = store.client, specs[0]
    run = next(iter(store._children(f"tags.key = '{spec.key}'")))
    assert {"sweep", "method", "key", "seed", "status"} <= run.data.tags.keys()
    assert run.data.params["beta"] == "0.1"
    assert run.data.params["learning_rate"] == "0.0003"
    assert run.data.metrics["ood/win_rate_vs_sft_se"] == 0.1
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.7), (2, 0.6)]
    along = client.get_metric_history(run.info.run_id, "ood/win_rate_vs_sft")
    assert [(point.step, point.value) for point in along] == [(50, 0.6), (100, 0.75)]
    table = json.loads(store._artifact(run.info.artifact_uri, "per_prompt.json"))
    assert table["columns"][:3] == ["set", "prompt", "text"]
    assert table["data"][0][:3] == ["ood", "name two fish", "cod eel"]


def test_what_comes_back_is_what_went_in(store: MlflowTracker, specs: tuple[TrialSpec, ...]) -> None:
    assert store.fetch(specs[0].key) == outcome(specs[0])
    assert store.fetch(specs[2].key) is None
    assert store.held() == {spec.key: spec.score_key for spec in specs[:2]}
    record = MlflowTracker(store.uri).read("smoke")
    assert record is not None
    assert record.plan == specs
    assert record.results[specs[1].key] == outcome(specs[1]).result
    assert record.responses[specs[1].key] == outcome(specs[1]).responses
    assert record.baseline == {"ood/win_rate_vs_sft": 0.5}


def test_writing_twice_is_writing_once_and_trials_of_another_plan_are_counted(
    tmp_path: Path, specs: tuple[TrialSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker("sqlite:///mlflow.db")
    tracker.open("smoke", specs)
    tracker.write(specs[0], outcome(specs[0], win=0.25))
    tracker.write(specs[0], outcome(specs[0]))
    tracker.write(specs[1], outcome(specs[1]))
    tracker.open("smoke", specs[:1])
    tracker.describe(SweepHeader("smoke", "ood/win_rate_vs_sft"), [])
    record = tracker.read("smoke")
    assert record is not None
    assert len(list(tracker._children())) == 2
    assert record.others == 1
    assert record.results[specs[0].key].measures["ood/win_rate_vs_sft"] == 0.75


def test_a_plan_of_a_newer_posweep_is_a_sentence(
    tmp_path: Path, specs: tuple[TrialSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker("sqlite:///mlflow.db")
    tracker.open("smoke", specs)
    newer = json.dumps({**specs[0].to_json(), "weather": "fine"})
    tracker.client.log_text(tracker._parent, newer, "plan.jsonl")
    with pytest.raises(ConfigError, match=r"MLflow holds a plan of a newer posweep.*'weather'.*; update posweep, or"):
        tracker.read("smoke")


def test_a_half_written_child_is_not_held_and_other_judges_are_not_read(
    tmp_path: Path, specs: tuple[TrialSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker("sqlite:///mlflow.db")
    tracker.open("smoke", specs)
    tracker._child(specs[0])
    assert tracker.held() == {}
    tracker.write(specs[0], outcome(specs[0]))
    rejudged = dataclasses.replace(specs[0], score_key="other")
    tracker.open("smoke", [rejudged])
    tracker.describe(SweepHeader("smoke", "ood/win_rate_vs_sft"), [])
    record = tracker.read("smoke")
    assert record is not None
    assert record.results == {}


def test_a_failed_trial_is_a_failed_run_until_it_finishes(store: MlflowTracker, specs: tuple[TrialSpec, ...]) -> None:
    spec, failure = specs[2], TrialFailure(specs[2].key, "OSError", "disk on fire", "logs/x.log", "bug")
    for _ in range(2):  # a second time is the same as once
        store.fail(spec, failure, "the whole story")
    (run,) = store._children(f"tags.key = '{spec.key}'")
    assert run.info.status == "FAILED"
    assert {"status": "failed", "error": "OSError: disk on fire", "failure": "bug"}.items() <= run.data.tags.items()
    assert run.data.params["beta"]
    assert store._artifact(run.info.artifact_uri, "trial.log") == "the whole story"
    again = MlflowTracker(store.uri)
    again.open("smoke", specs)
    assert spec.key not in again.held()
    assert again.failed() == {spec.key: failure.said}

    finished = outcome(spec)
    noted = dataclasses.replace(finished.result, notes={"resumed_at": 40, "micro_batch_size": 8})
    again.write(spec, dataclasses.replace(finished, result=noted))
    again.fail(spec, failure, "a result stays a result")
    (now,) = again._children(f"tags.key = '{spec.key}'")
    assert now.info.run_id == run.info.run_id
    assert now.info.status == "FINISHED"
    assert {"status": "finished", "resumed_at": "40", "micro_batch_size": "8"}.items() <= now.data.tags.items()
    assert not {"error", "failure"} & now.data.tags.keys()
    assert "trial.log" not in {file.path for file in again.client.list_artifacts(now.info.run_id)}
    assert spec.key in again.held()
    again.client.delete_run(now.info.run_id)


def test_a_request_whose_answer_was_lost_makes_no_second_run(
    tmp_path: Path, specs: tuple[TrialSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracker.open("smoke", specs)
    create, batch = tracker.client.create_run, tracker.client.log_batch

    def lost(real):
        def asked(*arguments, **named):
            real(*arguments, **named)
            raise ConnectionResetError(104, "Connection reset by peer")

        return asked

    for name, real in {"create_run": create, "log_batch": batch}.items():
        monkeypatch.setattr(tracker.client, name, lost(real))
        with pytest.raises(TrackerUnavailable, match=r"^Connection reset by peer$"):
            tracker.write(specs[0], outcome(specs[0]))
        monkeypatch.setattr(tracker.client, name, real)
    assert tracker.held() == {}
    tracker.write(specs[0], outcome(specs[0]))
    assert len(list(tracker._children())) == 1
    assert tracker.fetch(specs[0].key) == outcome(specs[0])
    rows = Path(tracker._known[specs[0].key].artifacts.removeprefix("file://")) / "rows.json"
    rows.write_text("{")  # damaged by whatever: it is not held to be there
    assert tracker.fetch(specs[0].key) is None
    rows.unlink()
    assert tracker.fetch(specs[0].key) is None


def test_a_deleted_run_is_written_anew(store: MlflowTracker, specs: tuple[TrialSpec, ...]) -> None:
    tracker = MlflowTracker(store.uri)
    tracker.open("smoke", specs)
    tracker.fail(specs[2], TrialFailure(specs[2].key, "OSError", "x"), "")
    tracker.client.delete_run(tracker._known[specs[2].key].id)
    with pytest.raises(TrackerUnavailable):
        tracker.write(specs[2], outcome(specs[2]))
    tracker.write(specs[2], outcome(specs[2]))
    (run,) = tracker._children(f"tags.key = '{specs[2].key}'")
    assert run.info.status == "FINISHED"
    tracker.client.delete_run(run.info.run_id)


def test_preflight_says_what_is_wrong_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "does not answer" in MlflowTracker(f"http://127.0.0.1:{port}").preflight()[0]
    assert "must be sqlite:///FILE" in MlflowTracker("file:///tmp/x").preflight()[0]
    assert "no folder that can be written" in MlflowTracker(f"sqlite:///{tmp_path}/none/mlflow.db").preflight()[0]
    assert MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db").preflight() == []
    assert list(tmp_path.iterdir()) == []


def test_reading_a_sweep_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MlflowTracker("sqlite:///mlflow.db").read("smoke") is None
    assert isinstance(open_tracker(TrackingSettings(kind="none", uri="")), NullTracker)
