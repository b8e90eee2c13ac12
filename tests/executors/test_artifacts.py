"""Artifacts made for a driver: lines as they happen, then a summary, or the error that a user should see."""

import dataclasses
import errno
import pickle

import pytest

from posweep.config import configure
from posweep.errors import JudgeUnavailable, NoRoom
from posweep.executors import Work, artifacts
from posweep.executors.artifacts import Failed, artifact_stream, offer_copies, take_copies
from posweep.executors.base import ArtifactSummary
from posweep.executors.ray import RayExecutor
from posweep.executors.summary import record_summary, recorded_summary
from posweep.mirror import Mirror, NoMirror
from posweep.records import Opponents
from posweep.storage import Storage

SUMMARY = ArtifactSummary(1, {}, (), {})


@pytest.fixture(scope="module")
def configuration():
    return configure(["sweep=smoke"])


def stream_of(monkeypatch, work, does):
    def make(work, mirror, say, preferences):
        say("making something …")
        return does()

    monkeypatch.setattr(artifacts, "make_artifacts", make)
    return artifact_stream(work, None)


def raises(error):
    def run():
        raise error

    return run


def test_lines_come_before_the_summary(monkeypatch, tmp_path, configuration):
    stream = stream_of(monkeypatch, Work(configuration, tmp_path, {}), lambda: SUMMARY)
    assert list(stream) == ["making something …", SUMMARY]


def test_an_error_with_a_sentence_keeps_its_class_and_a_bug_its_traceback(monkeypatch, tmp_path, configuration):
    work = Work(configuration, tmp_path, {})
    *_, failed = stream_of(monkeypatch, work, raises(JudgeUnavailable("the judge is away")))
    error = pickle.loads(pickle.dumps(failed)).error
    assert (type(error), str(error)) == (JudgeUnavailable, "the judge is away")
    with pytest.raises(ZeroDivisionError):
        list(stream_of(monkeypatch, work, raises(ZeroDivisionError())))


def test_a_full_disk_names_the_folder_that_is_on_it(monkeypatch, tmp_path, configuration):
    full = OSError(errno.ENOSPC, "No space left on device")
    *_, failed = stream_of(monkeypatch, Work(configuration, tmp_path, {}), raises(full))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NoRoom)
    assert str(failed.error).startswith(f"output_dir: {tmp_path} takes no more files")
    executor = dataclasses.replace(configuration.executor, storage=(tmp_path / "store").as_uri())
    elsewhere = Work(dataclasses.replace(configuration, executor=executor), tmp_path, {})
    *_, failed = stream_of(monkeypatch, elsewhere, raises(full))
    assert str(failed.error).startswith("TMPDIR: the folder of a worker takes no more files")


def test_the_folder_of_the_sweep_gives_and_takes_what_a_storage_lacks(tmp_path):
    storage = Storage((tmp_path / "store").as_uri(), "smoke")
    one, two = Mirror(tmp_path / "one", storage), Mirror(tmp_path / "two", storage)
    folder = tmp_path / "one" / "artifacts" / "sft" / "abc"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    (folder / "manifest.json").write_text('{"files": {"weights": 1}}')
    offer_copies(one)
    take_copies(two, ["artifacts/sft/abc"])
    assert (tmp_path / "two" / "artifacts" / "sft" / "abc" / "weights").read_text() == "w"
    offer_copies(NoMirror(tmp_path / "one"))
    take_copies(NoMirror(tmp_path / "three"), ["artifacts/sft/abc"])
    assert not (tmp_path / "three").exists()


def test_an_earlier_launch_s_summary_serves_while_it_is_of_the_same_and_all_is_there(
    tmp_path, configuration, monkeypatch
):
    folder = tmp_path / "artifacts" / "sft" / "abc"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    (folder / "manifest.json").write_text('{"files": {"weights": 1}}')
    rows = (Opponents("iid", 0, "p", "c", 1, ("a",), (1,), ("b",), (1,), {"gold": {"sft": [0.5]}}, {"vs_sft": [1.0]}),)
    summary = ArtifactSummary(7, {"iid/kl": 0.25}, rows, {"data/train/cut": 3}, "", ["artifacts/sft/abc"])
    work = Work(configuration, tmp_path, {})
    assert recorded_summary(work, tmp_path) is None
    record_summary(work, tmp_path, summary)
    assert recorded_summary(work, tmp_path) == summary
    executor = RayExecutor(configuration.executor)
    monkeypatch.setattr(executor, "open", raises(AssertionError("nothing has to be made")))
    assert executor.make_artifacts(work, print) == summary
    for override in (
        "model.seed=5",
        "judge=[gold,proxy]",
        "method=[kto]",
        "sample.max_new_tokens=7",
        "evaluation.sets=[ood]",
    ):
        assert recorded_summary(Work(configure(["sweep=smoke", override]), tmp_path, {}), tmp_path) is None, override
    (folder / "weights").write_text("")
    assert recorded_summary(work, tmp_path) is None
    (tmp_path / "artifacts" / "summary.json").write_text("{")
    assert recorded_summary(work, tmp_path) is None
