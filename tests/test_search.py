"""The search: rounds of ordinary trials that depend on settings and results alone."""

import dataclasses
import math
import os
import signal
from types import SimpleNamespace

import pytest

from posweep.folder import HEADER, OPPONENTS
from posweep.ledger import Ledger, write_atomically
from posweep.plan import Plan
from posweep.records import Outcome, SweepHeader, TrialFailure, TrialResult
from posweep.search import LOST, Search, outline, with_searched
from posweep.trackers.mlflow import MlflowTracker

from .tiny import configured, planned, posweep

SWEEP = (
    "sweep=smoke", "executor=local", "method=[dpo,simpo]", "sweep.learning_rates=[1e-4,1e-3,1e-2]", "search=tpe",
    "search.trials=7", "search.at_once=3", "sweep.blocks=[]", "method.dpo.grid={beta: [0.03, 0.5]}",
)  # fmt: skip
METRIC = "ood/win_rate_vs_sft"


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Hundreds of results of trials that take no time; nothing here cuts the power."""
    monkeypatch.setattr("posweep.ledger.os.fsync", lambda _: None)


def height(spec):
    """A hill: highest at β 0.2 and a learning rate of 3e-3."""
    far = math.log10(spec.train["learning_rate"] / 3e-3) ** 2 + math.log10(spec.hyperparameters["beta"] / 0.2) ** 2
    return 0.5 + 0.3 * math.exp(-far)


def end(ledger, spec, status="finished"):
    measures = {METRIC: height(spec), "ood/mean_score": 10 * height(spec) - 9} if status == "finished" else {}
    ledger.write(
        Outcome(TrialResult(spec.key, spec.response_key, spec.score_key, status, measures, seconds={"total": 1}))
    )


def climb(folder, *changes, stop=99, ends=lambda spec: "finished", plan=None):
    """The rounds of a search whose trials end at once; those of the first `stop` rounds."""
    configuration, plan, ledger = configured((*SWEEP, *changes)), plan or planned((*SWEEP, *changes)), Ledger(folder)
    ran, rounds = [], []

    def run(specs):
        for spec in specs:
            if spec.key in ledger.finished([spec]):
                continue
            ran.append(spec.key)
            if ends(spec) == "failed":
                ledger.fail(TrialFailure(spec.key, "OSError", "x"), "x")
            else:
                end(ledger, spec, ends(spec))

    run(plan)
    for specs in Search(configuration, plan, ledger).rounds():
        rounds.append(specs)
        run(specs)
        if len(rounds) == stop:
            break
    return rounds, ran


def points(rounds):
    return [(spec.key, spec.method, spec.point, spec.seed) for specs in rounds for spec in specs]


def test_every_method_gets_its_budget_in_rounds_of_ordinary_trials(tmp_path):
    rounds, ran = climb(tmp_path)
    assert [len(specs) for specs in rounds] == [6, 6, 2]
    specs = [spec for part in rounds for spec in part]
    assert {(spec.design, spec.prior) for spec in specs} == {("adaptive", "search")}
    assert len(ran) == len(set(ran)) == len(planned(SWEEP)) + 14
    assert all(1e-4 <= spec.train["learning_rate"] <= 1e-2 for spec in specs)
    assert all(float(f"{spec.train['learning_rate']:.6g}") == spec.train["learning_rate"] for spec in specs)


def test_the_same_settings_and_results_give_the_same_proposals(tmp_path):
    assert points(climb(tmp_path / "a")[0]) == points(climb(tmp_path / "b")[0])
    assert points(climb(tmp_path / "a")[0]) != points(climb(tmp_path / "c", "search.seed=1")[0])


def test_an_interrupted_search_goes_on_with_the_same_proposals_and_runs_nothing_twice(tmp_path):
    whole, ran = climb(tmp_path / "whole")
    for stop in (1, 2):
        first = climb(tmp_path / f"{stop}", stop=stop)[1]
        rest, second = climb(tmp_path / f"{stop}")
        assert points(rest) == points(whole)
        assert first + second == ran


def test_a_larger_budget_continues_a_search(tmp_path):
    whole = points(climb(tmp_path, "search.trials=10")[0])
    assert points(climb(tmp_path / "short", "search.trials=6")[0]) == whole[:12]


def test_a_method_is_searched_the_same_beside_others_and_alone(tmp_path):
    beside = [row for row in points(climb(tmp_path / "a")[0]) if row[1] == "dpo"]
    assert points(climb(tmp_path / "b", "method=[dpo]")[0]) == beside


def test_planned_points_are_known_to_the_sampler_from_the_start(tmp_path):
    """With fewer than ten known points the sampler draws at random; two plans of nine and twelve points differ in that."""
    few, many = ["method=[dpo]"], ["method=[dpo]", "method.dpo.grid={beta: [0.03, 0.1, 0.3, 0.5]}"]
    first = points(climb(tmp_path / "few", *few, stop=1)[0])
    same = climb(tmp_path / "other", *few, stop=1, ends=lambda spec: "diverged")[0]
    assert points(same) == first
    known = points(climb(tmp_path / "many", *many, stop=1)[0])
    lost = points(climb(tmp_path / "lost", *many, stop=1, ends=lambda spec: "failed")[0])
    assert known != first
    assert lost == first


def test_a_point_counts_once_and_has_every_seed(tmp_path):
    rounds, _ = climb(tmp_path, "sweep.seeds=[0,5]", "search.trials=2")
    assert [spec.seed for spec in rounds[0]] == [0, 5] * 4
    assert len({spec.configuration for spec in rounds[0]}) == 4


def values(folder, specs, *changes):
    search = Search(configured((*SWEEP, *changes)), planned((*SWEEP, *changes)), Ledger(folder))
    return search._values([("dpo", 0, specs)])


def test_what_the_sampler_is_told(tmp_path):
    """The mean over seeds; a diverged seed is the worst there is; failed ones are left out."""
    ledger, (one, other) = (
        Ledger(tmp_path),
        [s for s in planned((*SWEEP, "sweep.seeds=[0,5]")) if s.method == "dpo"][:2],
    )
    assert values(tmp_path / "none", [one, other]) == [None]
    end(ledger, one)
    assert values(tmp_path, [one, one]) == [height(one)]
    end(ledger, other, "diverged")
    assert values(tmp_path, [one, other]) == [height(one) / 2]
    assert values(tmp_path, [other]) == [0.0]


def test_what_is_no_share_has_its_worst_among_the_planned_trials(tmp_path):
    plan, ledger, metric = planned(SWEEP), Ledger(tmp_path), "sweep.primary_metric=ood/mean_score"
    for number, spec in enumerate(plan):
        result = TrialResult(spec.key, spec.response_key, spec.score_key, "finished", {"ood/mean_score": 3.0 - number})
        ledger.write(Outcome(dataclasses.replace(result, seconds={"total": 1})))
    last = [spec for spec in plan if spec.method == "dpo"][-1]
    lowest = ledger.result(last.key).measures["ood/mean_score"]
    end(ledger, plan.trials[0], "diverged")
    assert values(tmp_path, [plan.trials[0]], metric) == [lowest]


def test_a_failed_trial_is_not_known_and_a_later_retry_does_not_turn_the_search(tmp_path):
    """Otherwise every point after it would be another one, and all of them would run again."""
    bad = points(climb(tmp_path / "well")[0])[0][0]
    before, _ = climb(tmp_path / "bad", ends=lambda spec: "failed" if spec.key == bad else "finished")
    after, ran = climb(tmp_path / "bad")
    assert ran == [bad]
    assert points(after) == points(before)
    assert points(before) != points(climb(tmp_path / "well")[0])


def test_so_with_a_planned_trial(tmp_path):
    bad = planned(SWEEP).trials[0].key
    before, _ = climb(tmp_path, ends=lambda spec: "failed" if spec.key == bad else "finished")
    after, ran = climb(tmp_path)
    assert ran == [bad]
    assert points(after) == points(before)


def test_so_where_that_trial_would_be_the_worst_there_is(tmp_path):
    """What a diverged trial counts as must not be lowered by a retry either, where it is no fixed number."""
    metric = "sweep.primary_metric=ood/mean_score"
    bad = min((spec for spec in planned(SWEEP) if spec.method == "dpo"), key=height).key

    def ends(spec):
        return "diverged" if spec.design == "adaptive" and int(spec.key, 16) % 3 == 0 else "finished"

    before, _ = climb(tmp_path, metric, ends=lambda spec: "failed" if spec.key == bad else ends(spec))
    after, ran = climb(tmp_path, metric, ends=ends)
    assert ran == [bad]
    assert points(after) == points(before)


def test_a_launch_of_some_methods_forgets_nothing_of_the_others(tmp_path):
    bad = {method: next(s.key for s in planned(SWEEP) if s.method == method) for method in ("dpo", "simpo")}
    before, _ = climb(tmp_path, ends=lambda spec: "failed" if spec.key == bad["simpo"] else "finished")
    climb(
        tmp_path,
        "method=[dpo]",
        "search.trials=10",
        ends=lambda spec: "failed" if spec.key == bad["dpo"] else "finished",
    )
    after, _ = climb(tmp_path)
    assert points(after)[:3] == points(before)[:3]
    assert [p for p in points(after) if p[1] == "simpo"] == [p for p in points(before) if p[1] == "simpo"]


def test_what_was_lost_is_forgotten_with_another_search_and_where_the_note_is_damaged(tmp_path):
    bad = planned(SWEEP).trials[0].key
    climb(tmp_path, ends=lambda spec: "failed" if spec.key == bad else "finished")
    assert bad in (tmp_path / LOST).read_text()
    assert points(climb(tmp_path, "search.seed=3")[0]) == points(climb(tmp_path / "well", "search.seed=3")[0])
    for damaged in ("", "[]", '{"dpo": 3}'):
        (tmp_path / LOST).write_text(damaged)
        assert points(climb(tmp_path)[0]) == points(climb(tmp_path / "well")[0])


def test_a_point_that_was_planned_is_that_trial(tmp_path):
    """A search over a few whole numbers soon proposes what is there."""
    block = "sweep.blocks=[{method: dpo, grid: {batch_size: [8, 9]}}]"
    rounds, ran = climb(tmp_path, "method=[dpo]", block)
    plan = planned((*SWEEP, "method=[dpo]", block))
    assert len(ran) == len(plan)
    assert plan.extended(spec for specs in rounds for spec in specs) == plan


def test_it_finds_the_hill(tmp_path):
    rounds, _ = climb(tmp_path, "search.trials=20", "method=[dpo]")
    best = max(height(spec) for specs in rounds for spec in specs)
    assert best > max(height(spec) for spec in planned((*SWEEP, "method=[dpo]")))
    assert best > 0.79


def test_a_plan_says_what_will_be_searched():
    def said(*changes):
        return outline(configured((*SWEEP, *changes)), planned((*SWEEP, *changes)))

    assert said() == [
        "search: tpe, 7 adaptive trials a method after the planned ones (14 in all); they enter no distribution."
    ]
    assert said("sweep.seeds=[0,1]") == [
        "search: tpe, 7 adaptive points a method, each with 2 seeds, after the planned ones (28 in all); they enter no "
        "distribution."
    ]
    assert said("sweep.blocks=[{method: dpo, list: [{beta: 0.1}]}]")[1:] == [
        "search: nothing of DPO varies, so there is nothing to search."
    ]
    assert said("search=none") == []


@pytest.fixture
def searched(tmp_path):
    """A sweep whose last launch searched: its folder, and the trials of its first round."""
    here = f"output_dir={tmp_path}"
    rounds, _ = climb(tmp_path / "smoke", here, stop=1)
    plan = planned((*SWEEP, here))
    (tmp_path / "smoke" / "plan.jsonl").write_text(plan.extended(rounds[0]).to_jsonl())
    return here, rounds[0]


def test_single_trials_of_the_last_search_are_known_to_those_who_look_for_them(searched):
    here, specs = searched
    plan = planned((*SWEEP, here))
    assert with_searched(configured((*SWEEP, here)), plan) == Plan(plan.name, (*plan.trials, *specs))


def test_under_other_judges_they_are_the_same_trials_and_of_other_data_they_are_none(searched):
    here, specs = searched
    judged, other = (*SWEEP, here, "judge=[gold,proxy]"), (*SWEEP, here, "data.pairs=100")
    again = with_searched(configured(judged), planned(judged)).adaptive
    assert [spec.response_key for spec in again] == [spec.response_key for spec in specs]
    assert [spec.score_key for spec in again] != [spec.score_key for spec in specs]
    assert with_searched(configured(other), planned(other)) == planned(other)


def test_without_a_last_search_there_is_just_the_plan(searched, tmp_path):
    here, _ = searched
    for damaged in ("", "nonsense", '{"key": 1}\n'):
        (tmp_path / "smoke" / "plan.jsonl").write_text(damaged)
        assert with_searched(configured((*SWEEP, here)), planned((*SWEEP, here))) == planned((*SWEEP, here))


# --- a launch


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """posweep in a folder of its own, whose trials end at once at the height of their point; what ran, in order."""
    monkeypatch.chdir(tmp_path)
    ran, ends = [], {}

    def run_trial(spec, *_, **__):
        ran.append(spec.key)
        if ends.get(spec.key) == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        if ends.get(spec.key) == "failed":
            raise OSError("disk on fire")
        measures = {METRIC: height(spec)}
        return Outcome(
            TrialResult(spec.key, spec.response_key, spec.score_key, "finished", measures, seconds={"total": 1.0})
        )

    def make_artifacts(configuration, mirror, *_):
        header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric)
        write_atomically(mirror.folder / HEADER, header.to_json())
        write_atomically(mirror.folder / OPPONENTS, [])

    monkeypatch.setattr("posweep.executors.worker.run_trial", run_trial)
    monkeypatch.setattr(
        "posweep.executors.worker.prepare", lambda *_: SimpleNamespace(policy=SimpleNamespace(adapted=False))
    )
    monkeypatch.setattr("posweep.launch._make_artifacts", make_artifacts)
    untracked = ("tracking=none", "tracking.uri=")
    return SimpleNamespace(
        run=lambda *more: posweep(*SWEEP, *untracked, *more), ran=ran, ends=ends, folder=tmp_path / "outputs" / "smoke"
    )


def plan_of(sweep):
    return Plan.from_jsonl("smoke", (sweep.folder / "plan.jsonl").read_text())


@pytest.mark.torture
def test_a_launch_searches_after_the_planned_trials(sweep):
    tracked = ("tracking=mlflow", "tracking.uri=sqlite:///mlflow.db")
    ended = sweep.run(*tracked)
    assert (ended.code, ended.err) == (0, "")
    plan = plan_of(sweep)
    assert sweep.ran == [spec.key for spec in plan]
    assert len(plan.adaptive) == 14
    assert plan.trials[: -len(plan.adaptive)] == planned(SWEEP).trials
    record = MlflowTracker(f"sqlite:///{sweep.folder.parents[1] / 'mlflow.db'}").read("smoke")
    assert record.plan == plan.trials
    assert record.results.keys() == set(sweep.ran)
    peaks = {method: max(height(s) for s in plan.adaptive if s.method == method) for method in ("dpo", "simpo")}
    assert all(peak > max(height(s) for s in planned(SWEEP) if s.method == method) for method, peak in peaks.items())
    again, elsewhere = sweep.run(*tracked), sweep.run(*tracked, "output_dir=elsewhere")
    assert f"Nothing is left to do: all {len(plan)} trials" in again.out
    assert f"Nothing is left to do: all {len(plan)} trials" in elsewhere.out  # the tracker has what this folder lacks
    assert len(sweep.ran) == len(plan)
    assert plan_of(sweep) == plan


def test_an_interrupted_launch_goes_on_as_if_nothing_had_been(sweep, tmp_path):
    sweep.run("output_dir=calm")
    calm, sweep.ran[:] = list(sweep.ran), []
    sweep.ends[calm[-9]] = "interrupted"
    first = sweep.run()
    assert first.code == 130
    sweep.ends.clear()
    assert sweep.run().code == 0
    assert sweep.ran == calm
    assert [s.key for s in plan_of(sweep)] == calm


@pytest.mark.torture
def test_failures_of_a_search_are_tried_again_by_a_launch_or_by_retry_and_turn_nothing(sweep):
    sweep.run("output_dir=calm")
    bad = sweep.ran[-10]
    sweep.ran.clear()
    sweep.ends[bad] = "failed"
    assert sweep.run().code == 3
    plan = plan_of(sweep)
    sweep.ran.clear()
    sweep.ends.clear()
    assert sweep.run("retry=failed").code == 0
    assert sweep.ran == [bad]
    assert sweep.run().code == 0
    assert sweep.ran == [bad]
    assert plan_of(sweep) == plan


def test_without_search_its_trials_are_no_part_of_the_plan(sweep):
    sweep.run()
    ran = len(sweep.ran)
    assert sweep.run("search=none").code == 0
    assert len(sweep.ran) == ran
    assert plan_of(sweep) == planned(SWEEP)


def test_judge_searches_no_further(sweep):
    ended = posweep("judge", *SWEEP)
    assert (ended.code, sweep.ran) == (0, [])
    assert "trials have no stored responses to judge" in ended.out


def test_plan_and_status_show_a_search_apart(sweep):
    before = posweep("plan", *SWEEP)
    assert (
        "search: tpe, 7 adaptive trials a method after the planned ones (14 in all); they enter no distribution."
        in before.out
    )
    sweep.run()
    status = [line.split() for line in posweep("status", *SWEEP).out.splitlines()]
    assert ["DPO,", "search", "7", "7", "0", "0", "0", "0"] in status


def test_what_cannot_be_searched_is_a_sentence_before_anything_starts(sweep):
    ended = sweep.run("method=[dpo]", "sweep.blocks=[{method: dpo, list: [{beta: 0.1}]}]")
    assert ended.code == 2
    assert ended.said == [
        "search: no selected method has anything that varies; give a block of one at least two points, or leave search=tpe "
        "out."
    ]
    assert not sweep.folder.exists()
