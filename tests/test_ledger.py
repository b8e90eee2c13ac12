import dataclasses
import json

import pytest

from posweep import ledger as module
from posweep.ledger import Ledger, write_atomically
from posweep.records import HeldOutPair, Outcome, Response, TrialFailure, TrialResult, TrialSpec

SPEC = TrialSpec("k1", "r1", "s1", "c1", "dpo", {"beta": 0.1}, {"learning_rate": 1e-4}, 0)
RESULT = TrialResult(
    "k1", "r1", "s1", "finished", {"ood/win_rate_vs_sft": 0.1 + 0.2}, ({"at": 0.5, "measures": {"ood/x": 1.0}},),
    {"loss": [[1, 0.7], [2, 0.6]]}, {"total": 1.5}, "", 12.25,
)  # fmt: skip
OUTCOME = Outcome(
    RESULT,
    (Response("ood", 0, "p", "tëxt \u2028", 3, False, 0.25, 3, {"gold": 1.0}, {"vs_sft": 0.5}),),
    (HeldOutPair("ood", 0, 0.1, -0.1, -1.0, -2.0),),
)
FAILURE = TrialFailure("k1", "ValueError", "first line", "somewhere")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "sweep")


def test_a_result_survives_with_its_rows(ledger):
    ledger.write(OUTCOME)
    read = ledger.outcome("k1")
    assert read.responses == OUTCOME.responses
    assert read.held_out == OUTCOME.held_out
    assert dataclasses.replace(read.result, seconds={}).to_json() == {**RESULT.to_json(), "seconds": {}}
    assert ledger.finished([SPEC]) == {"k1": read.result}


def test_writing_takes_time_too_and_is_timed_once(ledger):
    ledger.write(OUTCOME)
    first = ledger.outcome("k1")
    assert first.result.seconds["record"] > 0
    assert first.result.seconds["total"] == 1.5 + first.result.seconds["record"]
    ledger.write(first)
    assert ledger.outcome("k1") == first


def test_nothing_is_there_at_first(ledger):
    assert (ledger.result("k1"), ledger.outcome("k1")) == (None, None)
    assert ledger.finished([SPEC]) == ledger.failures([SPEC]) == {}


def test_the_rows_come_first(ledger, monkeypatch):
    written = []
    monkeypatch.setattr(module, "write_atomically", lambda file, content: written.append(file.parent.name))
    ledger.write(OUTCOME)
    assert written == ["responses", "ledger"]


def test_no_rows_no_result(ledger, monkeypatch):
    def full(file, content):
        raise OSError("no space left")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="no space"):
        ledger.write(OUTCOME)
    assert ledger.finished([SPEC]) == {}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "folder" / "file.json"
    write_atomically(file, {"old": 1})
    with pytest.raises(TypeError):
        write_atomically(file, {"new": 2, "what": object()})
    assert json.loads(file.read_text()) == {"old": 1}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "{", '{"key": "k1", "resp', "\0\0\0\0", "[]", '{"key": "k1"}'])
def test_a_damaged_result_is_not_finished(ledger, text):
    ledger.write(OUTCOME)
    (ledger.folder / "ledger" / "k1.json").write_text(text)
    assert ledger.finished([SPEC]) == {}
    assert ledger.outcome("k1") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"responses": []}'])
def test_damaged_rows_are_no_outcome(ledger, text):
    ledger.write(OUTCOME)
    (ledger.folder / "responses" / "k1.json").write_text(text)
    assert ledger.outcome("k1") is None


def test_a_result_under_other_judges_is_not_finished_but_kept(ledger):
    ledger.write(OUTCOME)
    assert ledger.finished([dataclasses.replace(SPEC, score_key="s2")]) == {}
    assert ledger.outcome("k1").responses == OUTCOME.responses


def test_only_the_plans_trials_are_finished(ledger):
    ledger.write(OUTCOME)
    other = dataclasses.replace(SPEC, key="k2")
    assert set(ledger.finished([other, SPEC])) == {"k1"}
    assert ledger.finished([other]) == {}


def test_a_failure_keeps_its_story_until_a_result_makes_it_good(ledger):
    ledger.fail(FAILURE, "Traceback …\nValueError: first line\nsecond line")
    assert ledger.failures([SPEC]) == {"k1": FAILURE}
    assert ledger.log("k1").read_text().endswith("second line")
    assert ledger.finished([SPEC]) == {}
    ledger.write(OUTCOME)
    assert ledger.failures([SPEC]) == {}
    assert not ledger.log("k1").exists()
    assert set(ledger.finished([SPEC])) == {"k1"}


def test_the_last_result_stands(ledger):
    ledger.write(OUTCOME)
    ledger.write(dataclasses.replace(OUTCOME, result=dataclasses.replace(RESULT, status="diverged")))
    assert ledger.result("k1").status == "diverged"
    assert len(list((ledger.folder / "ledger").iterdir())) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"key": "k1"}', '{"key": "k1", "weather": "fine"}'])
def test_a_result_that_cannot_be_read_is_none_and_is_counted(ledger, content):
    ledger.write(OUTCOME)
    ledger.write(dataclasses.replace(OUTCOME, result=dataclasses.replace(RESULT, key="k2")))
    (ledger.folder / "ledger" / "k1.json").write_text(content)
    other = dataclasses.replace(SPEC, key="k2")
    assert set(ledger.finished([SPEC, other])) == {"k2"}
    assert ledger.unreadable(["k1", "k2", "k3"]) == [ledger.folder / "ledger" / "k1.json"]
    assert ledger.recorded() == {"k1", "k2"}


@pytest.mark.parametrize("content", ["", "[]", '{"key": "k1"}', '{"weather": "fine"}'])
def test_a_failure_that_cannot_be_read_is_none(ledger, content):
    ledger.fail(FAILURE, "story")
    (ledger.folder / "logs" / "k1.json").write_text(content)
    assert ledger.failures([SPEC]) == {}


def test_records_have_a_size(ledger):
    ledger.write(OUTCOME)
    assert ledger.size("k1") == sum(file.stat().st_size for file in ledger.folder.rglob("k1.json"))
    assert ledger.size("k2") == 0


def test_a_result_makes_a_failure_good_though_nobody_cleared_it_away(ledger):
    ledger.write(OUTCOME)
    ledger.fail(FAILURE, "story")
    assert ledger.failures([SPEC]) == {}
