"""plan.probe=true on next to nothing: what it runs, what it writes, and what it leaves alone."""

import json
import re

import pytest

from .tiny import posweep

SWEEP = [
    "sweep=smoke", "executor=local", "tracking=none", "model.hidden_size=16", "model.sft.steps=2", "evaluation.prompts=4",
    "sample.max_new_tokens=4", "evaluation.sets=[ood]", "method=[dpo,simpo]",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(autouse=True)
def there(home, monkeypatch):
    monkeypatch.chdir(home)


def test_a_probe_knows_what_was_unknown_and_records_no_result(home):
    assert "time unknown with 1 at a time" in posweep("plan", *SWEEP).out
    ran = posweep("plan", *SWEEP, "plan.probe=true")
    assert ran.code == 0, ran.err
    assert "making the SFT policy …" in ran.out
    assert [line.partition(":")[0] for line in ran.out.splitlines() if "s a step of 32 pairs" in line] == [
        "DPO",
        "SimPO",
    ]
    assert re.search(r"4 trials, 0 finished, 4 left · time 0:\d\d:\d\d", ran.out)
    folder = home / "outputs" / "smoke"
    assert sorted(file.name for file in folder.iterdir()) == ["artifacts", "probe.json"]
    rows = json.loads((folder / "probe.json").read_text())["methods"]
    assert set(rows) == {"dpo", "simpo"}
    assert all(row["other"] < row["evaluation"] for row in rows.values())  # to put weights back takes next to nothing


def test_the_peak_of_a_gpu_is_asked_for_trial_by_trial(monkeypatch):
    import torch

    from posweep.probe import _gpu_peak

    assert _gpu_peak() == 0
    peaks, begun_again = iter([3, 5]), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: next(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: begun_again.append(True))
    assert [_gpu_peak(), _gpu_peak()] == [3, 5]
    assert len(begun_again) == 2


def test_later_plans_know_it_too_and_what_it_made_is_not_made_again(home):
    assert re.search(r"left · time 0:\d\d:\d\d", posweep("plan", *SWEEP).out)
    ran = posweep("plan", *SWEEP, "plan.probe=true")
    assert ran.code == 0
    assert "making" not in ran.out


def test_judges_behind_an_endpoint_are_not_asked_even_where_there_are_no_others():
    asked = ("judge=[llm]", "judge.llm.base_url=http://127.0.0.1:9/v1", "judge.llm.model=judge")
    ran = posweep("plan", *SWEEP, *asked, "plan.probe=true")
    assert ran.code == 0, ran.err
    assert "judge llm is not asked; the time it takes is not counted" in ran.out
    assert re.search(r"4 left · time 0:\d\d:\d\d", ran.out)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("plan.probe=yes", "plan.probe: must be true or false, got 'yes'."),
        ("keys=some", "keys: must be all or jsonl, got 'some'."),
    ],
)
def test_what_plan_takes(argument, sentence):
    ran = posweep("plan", *SWEEP, argument)
    assert (ran.code, ran.said) == (2, [sentence])


def test_keys_as_json_lines_are_the_plan_and_nothing_else():
    ran = posweep("plan", *SWEEP, "keys=jsonl")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["method"] for row in rows] == ["dpo", "dpo", "simpo", "simpo"]
    assert list(rows[0]) == sorted(rows[0])
