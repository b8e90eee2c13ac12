"""The race: the same trials on both sides, measured as posweep measures, and tables that say what was found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posweep import launch
from posweep.artifacts import shared
from posweep.config import configure
from posweep.judges import wins
from posweep.plan import make_plan
from posweep.policy.divergence import kl_all
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.settings import ScratchModel

RACE = Path(__file__).parents[2] / "benchmarks" / "race"
PROMPTS = ["name two fruits and three tools", "name three tools and two fruits", "name two fruits and two tools"]


@pytest.fixture(scope="module")
def policies():
    settings = [ScratchModel(hidden_size=16, layers=1, heads=2, seed=seed) for seed in (0, 1)]
    tokenizer = make_tokenizer(settings[0], [*PROMPTS, "apple pear hammer saw"])
    found = [new_policy(one, tokenizer) for one in settings]
    for policy in found:
        policy.model.model.embed_tokens.weight.data.mul_(10)  # as new, π is nearly flat
        policy.model.eval()
    return found


# --- the course


def demo():
    return list(make_plan(configure(["sweep=demo"])))


@pytest.mark.parametrize("count", [3, 6, 12, 36])
def test_trials_are_the_demo_sweeps_own_equally_many_of_each_method(race, count):
    chosen = race.course.evenly(demo(), count)
    assert len({spec.key for spec in chosen}) == count
    methods = [spec.method for spec in chosen]
    assert {methods.count(method) for method in methods} == {count // 3}
    blocks = f"sweep.blocks={race.course.blocks(chosen)}"
    planned = make_plan(configure(["sweep=demo", "sweep.name=race", blocks]))
    assert [spec.key for spec in planned] == [spec.key for spec in chosen]


def test_learning_rates_are_spread_too(race):
    """Every learning rate of the grid is among the four trials of each method."""
    chosen = race.course.evenly(demo(), 12)
    for method in race.course.METHODS:
        assert len({spec.train["learning_rate"] for spec in chosen if spec.method == method}) == 3


def test_pairs_become_the_tokens_that_posweep_trains_on(race, policies):
    texts, tokenizer = policies[0].texts, policies[0].tokenizer
    ours = texts.prompts([PROMPTS[0]], 48).rows[0] + texts.responses(["apple pear"], 48).rows[0]
    written = race.course.prompted(PROMPTS[0]) + "apple pear" + tokenizer.eos_token
    assert tokenizer(written, add_special_tokens=False)["input_ids"] == ours
    assert race.evaluation.encode(tokenizer, PROMPTS) == texts.prompts(PROMPTS, 48).rows


# --- measuring


def test_divergence_is_that_of_posweep(race, policies):
    policy, reference = policies
    prompts = policy.texts.prompts(PROMPTS, 48).rows
    responses = policy.texts.responses(["apple", "pear hammer saw apple", "saw saw"], 48).rows
    theirs = race.evaluation.divergence(policy.model, reference.model, prompts, responses, policy.pad)
    assert theirs.min() > 0.01
    np.testing.assert_allclose(theirs, kl_all(policy, reference, prompts, responses).numpy(), rtol=1e-4)


def test_responses_are_drawn_from_the_whole_distribution(race, policies):
    """First tokens come as often as the policy says, rare ones too: no top-k, no nucleus, no temperature."""
    policy, count = policies[0], 4000
    prompts = policy.texts.prompts(PROMPTS[:1], 48).rows
    torch.manual_seed(0)
    drawn = race.evaluation.generate(policy.model, policy.tokenizer, prompts * count, 1)
    seen = np.bincount([one[0] for one in drawn], minlength=policy.vocabulary) / count
    with torch.no_grad():
        expected = policy.model(input_ids=torch.tensor(prompts)).logits[0, -1].softmax(-1).numpy()
    assert (expected > 0.01).sum() > 3
    assert np.abs(seen - expected).max() < 5 * (0.25 / count) ** 0.5


def test_responses_keep_the_order_of_their_prompts_and_end_once(race, policies):
    policy = policies[0]
    prompts = policy.texts.prompts(PROMPTS, 48).rows
    torch.manual_seed(0)
    for one in race.evaluation.generate(policy.model, policy.tokenizer, prompts * 20, 12):
        assert 1 <= len(one) <= 12
        assert policy.texts.end not in one[:-1]
        assert len(one) == 12 or one[-1] == policy.texts.end


def test_win_rates_are_those_of_posweep(race):
    facts = {
        "prompts": {"ood": PROMPTS}, "chosen": {"ood": ["apple pear"] * 3}, "judges": ["gold", "proxy"],
        "length_bias": 0.1, "max_new_tokens": 8, "opponents": 2,
    }  # fmt: skip
    course = SimpleNamespace(facts=facts)
    baselines = {
        f"ood/{judge}/{against}": np.linspace(-1, 1, 6).reshape(3, 2)
        for judge in ("gold", "proxy")
        for against in ("sft", "chosen")
    }
    texts = ["apple pear", "hammer apple pear", "saw"]
    found = race.evaluation.measures(
        course, baselines, {"ood": texts}, {"ood": [2, 3, 1]}, {"ood": np.array([0.5, 1.0, 1.5])}
    )
    gold = race.evaluation.judges(course)["gold"].score(PROMPTS, texts)
    assert found["ood/win_rate_vs_sft"] == wins(gold, baselines["ood/gold/sft"]).mean()
    assert found["ood/mean_score"] == gold.mean()
    assert found["ood/proxy/mean_score"] != found["ood/mean_score"]
    assert (found["ood/kl_to_sft"], found["ood/response_length"]) == (1.0, 2.0)


# --- what is told


def test_the_report_and_what_is_made_once_are_timed_by_names_that_are_there(race):
    assert callable(launch.refresh)
    assert callable(shared.prepare)
    spent: list[float] = []
    assert race.ours.timed(lambda value: value + 1, spent)(1) == 2
    assert len(spent) == 1


def test_of_stages_inside_one_another_the_innermost_runs(race, monkeypatch):
    moments = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0])
    monkeypatch.setattr(race.clock.time, "perf_counter", lambda: next(moments))
    clock = race.clock.Clock()
    with clock.stage("log"):
        with clock.stage("train"):
            pass
        with clock.stage("train"):
            pass
    assert clock.seconds == {"log": 2.0 + 8.0 + 32.0, "train": 4.0 + 16.0}


def a_run(wall: float, train: float, losses: list[float], report: float = 0.0) -> dict:
    trials = [
        {
            "key": method, "method": method, "losses": losses, "seconds": {"train": train, "log": 1.0},
            "measures": {"ood/win_rate_vs_sft": 0.5, "ood/truncated": 0.0},
        }
        for method in ("dpo", "simpo")
    ]  # fmt: skip
    return {"wall": wall, "once": 1.0, "report": report, "peaks": [100.0, 200.0], "trials": trials}


def test_tables_hold_medians_ratios_and_what_is_left(race, monkeypatch):
    monkeypatch.setattr(race.table, "version", lambda name: "1.0")  # here TRL is none of the packages
    runs = {
        "posweep": [a_run(wall, 2.0, [0.5] * 3, report=4.0) for wall in (13.0, 14.0, 99.0)],
        "b2": [a_run(wall, 5.0, [0.5, 0.51, 0.6]) for wall in (30.0, 1.0, 40.0)],
    }
    found = race.table.tables(runs)
    assert "| whole sweep, s | 10.0 | 30.0 | 3.00 |" in found
    assert "| with the report, s | 14.0 | 30.0 | 2.14 |" in found
    assert "| largest worker, MB | 200 | 200 | 1.00 |" in found
    assert "| train | 2.00 | 5.00 | 2.50 |" in found
    assert "| rest | 7.00 | 24.00 | 3.43 |" in found  # two workers' 10 s by two trials, less 2 s and 1 s
    assert "| simpo | 2.00 | 5.00 | 2.50 |" in found
    assert "| ood/win_rate_vs_sft | 0.500 | 0.500 |" in found
    assert "truncated" not in found
    assert f"{0.1 / 0.6:.1e} over the first" in found


def test_tables_are_put_into_their_place_of_a_page(race, tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("a\n<!-- race -->\nold\n<!-- /race -->\nb\n<!-- whole -->\n<!-- /whole -->\n")
    race.table.put(page, "whole", "new")
    race.table.put(page, "race", "newer")
    expected = "a\n<!-- race -->\n\nnewer\n\n<!-- /race -->\nb\n<!-- whole -->\n\nnew\n\n<!-- /whole -->\n"
    assert page.read_text() == expected
    with pytest.raises(ValueError, match="has no place for more"):
        race.table.put(page, "more", "")


def test_results_have_a_place_for_the_race(race, tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text((RACE.parent / "RESULTS.md").read_text(encoding="utf-8"), encoding="utf-8")
    race.table.put(page, "race", "| new |")


def test_a_stage_that_one_side_lacks_has_no_ratio(race):
    runs = {"posweep": [a_run(10.0, 2.0, [0.5])], "b1": [a_run(20.0, 2.0, [0.5])]}
    runs["b1"][0]["trials"][0]["seconds"]["import"] = 4.0
    assert "| import |  | 2.00 |  |" in race.table.stages(runs)


@pytest.mark.parametrize(
    ("command", "is_one"),
    [("ray::Trial.train", True), ("ray::ImplicitFunc.train()", True), ("ray::IDLE", False), ("python race.py", False)],
)
def test_workers_are_known_by_their_names(race, command, is_one):
    assert race.peak.is_worker(command) == is_one


def test_the_most_that_a_worker_took_is_seen_after_it_gave_it_back(race, monkeypatch):
    monkeypatch.setattr(race.peak, "is_worker", lambda command: "bytearray" in command)
    taken = "import sys; taken = bytearray(200 * 2**20); del taken; print('now', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {taken!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watch = race.peak.Watch(process.pid)
        process.stdout.readline()
        watch.look()
        process.stdin.close()
    assert max(watch.peaks.values()) > 200
