import dataclasses

import pytest
import torch

from posweep import launch
from posweep.config import configure
from posweep.errors import JudgeUnavailable
from posweep.executors import Event, Work, cohorts, open_executor
from posweep.executors import worker as module
from posweep.executors.worker import Worker
from posweep.folder import STOP
from posweep.ledger import Ledger
from posweep.plan import make_plan
from posweep.records import TrialSpec
from posweep.settings import ExecutorSettings, TrialResources


def spec(key: str, method: str = "dpo", seed: int = 0, **train) -> TrialSpec:
    return TrialSpec(key, "r", "s", "c", method, {}, train, seed)


def fused(configuration, count, **settings):
    changed = dataclasses.replace(configuration.executor, kind="local", fused=count, **settings)
    return dataclasses.replace(configuration, executor=changed)


def grouped(configuration, *specs: TrialSpec) -> list[tuple[str, ...]]:
    work = Work(configuration, None, {one.key: one for one in specs})
    return cohorts.cohorts(work, [one.key for one in specs])


# --- who shares a pass


def test_one_by_one_unless_asked_otherwise(as_it_stands):
    assert as_it_stands.executor.fused == 1
    assert grouped(as_it_stands, spec("a"), spec("b")) == [("a",), ("b",)]


def test_trials_stand_beside_the_first_of_those_they_share_passes_with(as_it_stands):
    specs = [
        spec("a"),
        spec("b", seed=1),
        spec("c", "simpo"),
        spec("d", seed=1),
        spec("e", learning_rate=1e-3),
        spec("f"),
    ]
    assert grouped(fused(as_it_stands, 3), *specs) == [("a", "c", "e"), ("b", "d"), ("f",)]


@pytest.mark.parametrize("name", cohorts.OWN)
def test_each_takes_its_own_steps(as_it_stands, name):
    other = {"schedule": "cosine"}.get(name, 0.5)
    assert grouped(fused(as_it_stands, 2), spec("a"), spec("b", **{name: other})) == [("a", "b")]


@pytest.mark.parametrize(
    "train", [{"batch_size": 8}, {"epochs": 2.0}, {"bucket_batches": 2}, {"threads": 2}, {"prefix_sharing": True}]
)
def test_but_all_see_the_same_batches_in_the_same_way(as_it_stands, train):
    assert grouped(fused(as_it_stands, 2), spec("a"), spec("b", **train)) == [("a",), ("b",)]


def test_a_value_that_is_said_is_no_other_than_the_same_by_default(as_it_stands):
    batch_size = as_it_stands.train.batch_size
    assert grouped(fused(as_it_stands, 2), spec("a"), spec("b", batch_size=batch_size)) == [("a", "b")]


def test_methods_that_need_a_pass_more_stay_among_themselves(as_it_stands):
    specs = [spec("a", "kto"), spec("b"), spec("c", "kto")]
    assert grouped(fused(as_it_stands, 2), *specs) == [("a", "c"), ("b",)]


def test_and_those_that_ask_for_another_machine(as_it_stands):
    more = {"method_resources": {"simpo": TrialResources(cpu=2)}}
    assert grouped(fused(as_it_stands, 2, **more), spec("a"), spec("b", "simpo")) == [("a",), ("b",)]


@pytest.mark.parametrize(("fit", "workers", "count"), [(8, 2, 3), (2, 2, 2), (1, 2, 1), (8, 100, 1)])
def test_as_many_as_fit_but_so_that_every_worker_has_some(as_it_stands, monkeypatch, fit, workers, count):
    monkeypatch.setattr(cohorts, "fused_fit", lambda configuration, batch_size, trials: fit)
    monkeypatch.setattr(cohorts, "trials_at_once", lambda configuration, trials: workers)
    assert cohorts.fused(fused(as_it_stands, None), [spec(str(i)) for i in range(6)]) == count


def test_memory_is_reckoned_for_the_largest_batch(as_it_stands, monkeypatch):
    seen = []
    monkeypatch.setattr(cohorts, "fused_fit", lambda configuration, batch_size, trials: seen.append(batch_size) or 1)
    cohorts.fused(fused(as_it_stands, None), [spec("a", batch_size=4), spec("b", batch_size=64)])
    assert seen == [64]


def test_how_many_share_a_pass_is_in_no_key():
    plans = [make_plan(configure(["sweep=smoke", f"executor.fused={count}"])) for count in ("1", "4", "null")]
    assert len({tuple(one.score_key for one in plan) for plan in plans}) == 1


# --- a worker


@pytest.fixture
def work(smoke, shared, plan, tmp_path, monkeypatch):
    """Four trials in one pass, on artifacts that lie ready."""
    monkeypatch.setattr(module, "prepare", lambda *_: shared)
    monkeypatch.setattr(module, "release", lambda: None)
    return Work(fused(smoke, 4), tmp_path, {one.key: one for one in plan[:4]})


def keys(work) -> list[str]:
    return list(work.specs)


def passes(monkeypatch, wrong=lambda specs: None) -> list[int]:
    """How many trials each pass had; `wrong` raises what goes wrong in it."""
    seen, run_cohort = [], module.run_cohort

    def counted(specs, *given):
        seen.append(len(specs))
        wrong(specs)
        return run_cohort(specs, *given)

    monkeypatch.setattr(module, "run_cohort", counted)
    return seen


def test_each_trial_of_a_pass_leaves_its_result(work, monkeypatch):
    seen, worker = passes(monkeypatch), Worker(work)
    assert worker.run_all(keys(work)) == dict.fromkeys(keys(work), "finished")
    assert seen == [4]
    results = worker.ledger.finished(work.specs.values())
    assert {result.notes["fused"] for result in results.values()} == {4}
    assert {len(worker.ledger.outcome(key).responses) for key in results} == {3 * 16}


def test_what_is_finished_or_only_wants_other_judges_takes_no_part(work, plan, monkeypatch):
    first = Worker(work)
    first.run_all(keys(work)[:2])
    other = dataclasses.replace(plan[1], score_key="other")
    seen, worker = passes(monkeypatch), Worker(dataclasses.replace(work, specs={**work.specs, other.key: other}))
    assert worker.run_all(keys(work)) == dict.fromkeys(keys(work), "finished")
    assert seen == [2]
    assert worker.ledger.result(other.key).score_key == "other"


def full(most: int):
    def wrong(specs):
        if len(specs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return wrong


def test_too_many_are_halved_until_they_fit_and_the_worker_remembers(work, monkeypatch):
    seen, worker = passes(monkeypatch, full(2)), Worker(work)
    assert set(worker.run_all(keys(work)).values()) == {"finished"}
    assert seen == [4, 2, 2]
    for file in (work.folder / "ledger").iterdir():
        file.unlink()
    assert set(worker.run_all(keys(work)).values()) == {"finished"}
    assert seen == [4, 2, 2, 2, 2]


def test_where_no_two_fit_each_runs_by_itself(work, monkeypatch):
    seen, worker = passes(monkeypatch, full(1)), Worker(work)
    assert set(worker.run_all(keys(work)).values()) == {"finished"}
    assert seen == [4, 2]
    assert {result.notes.get("fused") for result in worker.ledger.finished(work.specs.values()).values()} == {None}


def test_only_the_guilty_one_fails(work, plan, monkeypatch):
    from posweep.trial import training

    preference_loss = training.preference_loss

    def broken(one, shared):
        if one.key == plan[2].key:
            raise ValueError("a mistake of ours")
        return preference_loss(one, shared)

    monkeypatch.setattr(training, "preference_loss", broken)
    seen, worker = passes(monkeypatch), Worker(work)
    ends = worker.run_all(keys(work))
    assert seen == [4]
    assert ends == {**dict.fromkeys(keys(work), "finished"), plan[2].key: "failed"}
    assert worker.ledger.failures(work.specs.values())[plan[2].key].message == "a mistake of ours"


def test_a_judge_that_is_away_fails_them_once_and_keeps_what_they_drew(work, monkeypatch):
    from posweep.trial import evaluate

    def away(*_):
        raise JudgeUnavailable("judge.llm: gone")

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "judge", away)
        seen, worker = passes(patch), Worker(work)
        assert set(worker.run_all(keys(work)).values()) == {"failed"}
    assert seen == [4]
    assert {failure.kind for failure in worker.ledger.failures(work.specs.values()).values()} == {"judge"}
    monkeypatch.setattr(module, "run_cohort", None)
    assert set(worker.run_all(keys(work)).values()) == {"finished"}


def test_a_model_that_cannot_be_stacked_is_trained_by_itself(work, monkeypatch):
    monkeypatch.setattr("posweep.policy.stack.obstacle", lambda _: "its Conv1d cannot be stacked")
    worker = Worker(work)
    assert set(worker.run_all(keys(work)).values()) == {"finished"}
    notes = [result.notes for result in worker.ledger.finished(work.specs.values()).values()]
    assert notes == [{"alone": "ValueError: model.name: its Conv1d cannot be stacked"}] * len(keys(work))


def test_a_launch_says_so_once_and_runs_them_one_by_one(as_it_stands):
    said: list[str] = []
    changed = launch._one_by_one(fused(as_it_stands, 4), "its Conv1d cannot be stacked", said.append)
    assert changed.executor.fused == 1
    assert said == ["executor.fused: no pass can be shared (its Conv1d cannot be stacked); trials run one by one"]


def test_a_stop_in_the_middle_leaves_a_checkpoint_of_each_and_they_go_on(work, monkeypatch):
    with monkeypatch.context() as patch:
        passes(patch, lambda _: (work.folder / STOP).touch())
        worker = Worker(work)
        assert worker.run_all(keys(work)) == dict.fromkeys(keys(work), "stopped")
    assert {one.stem for one in (work.folder / "checkpoints").iterdir()} == set(keys(work))
    assert worker.ledger.finished(work.specs.values()) == {}
    assert worker.run_all(keys(work)) == dict.fromkeys(keys(work), "stopped")
    (work.folder / STOP).unlink()
    assert Worker(work).run_all(keys(work)) == dict.fromkeys(keys(work), "finished")
    notes = [result.notes for result in worker.ledger.finished(work.specs.values()).values()]
    assert notes == [{"resumed_at": 1, "fused": 4}] * 4
    assert list((work.folder / "checkpoints").iterdir()) == []


def test_another_driver_s_trials_are_left_to_it(work, monkeypatch):
    monkeypatch.setattr(module, "taken_over", lambda *_: True)
    assert set(Worker(work).run_all(keys(work)).values()) == {"stopped"}
    assert Ledger(work.folder).finished(work.specs.values()) == {}


# --- executors


def test_the_local_executor_says_what_becomes_of_each(work, plan, monkeypatch):
    events: list[Event] = []
    settings = ExecutorSettings(kind="local", fused=4)
    seen = passes(monkeypatch)
    open_executor(settings).run(work, keys(work), events.append)
    assert seen == [4]
    assert events == [Event(kind, key) for kind in ("started", "finished") for key in keys(work)]
