import dataclasses

import pytest

from posweep.errors import DataError
from posweep.executors import Event, Work, open_executor
from posweep.executors import local as local_module
from posweep.executors import worker as module
from posweep.executors.local import LocalExecutor
from posweep.executors.worker import Worker
from posweep.records import Outcome, TrialResult
from posweep.settings import ExecutorSettings, TrialResources


@pytest.fixture
def work(smoke, shared, plan, tmp_path, monkeypatch):
    """Three trials on artifacts that lie ready."""
    monkeypatch.setattr(module, "prepare", lambda *_: shared)
    return Work(smoke, tmp_path, {spec.key: spec for spec in plan[:3]})


@pytest.fixture
def trials(monkeypatch):
    """Trials that do nothing but what is asked of them by key: an exception, or a status."""
    asked: dict = {}

    def run(spec, shared, keep, door):
        outcome = asked.get(spec.key, "finished")
        if isinstance(outcome, BaseException):
            raise outcome
        return Outcome(TrialResult(spec.key, spec.response_key, spec.score_key, outcome, seconds={"train": 1.0}))

    monkeypatch.setattr(module, "run_trial", run)
    return asked


def test_a_trial_leaves_its_result(work, plan):
    worker = Worker(work)
    assert worker.run(plan[0].key) == "finished"
    result = worker.ledger.finished(plan)[plan[0].key]
    assert result.measures["ood/win_rate_vs_sft_se"] > 0
    assert result.seconds["total"] >= result.seconds["train"]
    assert len(worker.ledger.outcome(plan[0].key).responses) == 3 * 16


def test_a_mistake_fails_the_trial_and_not_the_sweep(work, plan, trials):
    trials[plan[0].key] = ValueError("first line\nsecond line")
    worker = Worker(work)
    assert [worker.run(spec.key) for spec in plan[:2]] == ["failed", "finished"]
    failure = worker.ledger.failures(plan)[plan[0].key]
    assert (failure.error, failure.message) == ("ValueError", "first line")
    story = (work.folder / "logs" / f"{plan[0].key}.log").read_text()
    assert failure.log == str(work.folder / "logs" / f"{plan[0].key}.log")
    assert story.startswith("Traceback")
    assert story.rstrip().endswith("ValueError: first line\nsecond line")
    assert set(worker.ledger.finished(plan)) == {plan[1].key}


def test_artifacts_that_cannot_be_read_fail_the_trial_too(work, plan, monkeypatch):
    def broken(*_):
        raise DataError("data.path: names no folder")

    monkeypatch.setattr(module, "prepare", broken)
    worker = Worker(work)
    assert worker.run(plan[0].key) == "failed"
    assert worker.ledger.failures(plan)[plan[0].key].message == "data.path: names no folder"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure(work, plan, trials, interruption):
    trials[plan[0].key] = interruption()
    worker = Worker(work)
    with pytest.raises(interruption):
        worker.run(plan[0].key)
    assert worker.ledger.failures(plan) == {}


def test_a_second_try_makes_a_failure_good(work, plan, trials):
    trials[plan[0].key] = MemoryError()
    worker = Worker(work)
    assert worker.run(plan[0].key) == "failed"
    trials.clear()
    assert worker.run(plan[0].key) == "finished"
    assert worker.ledger.failures(plan) == {}


def test_other_judges_do_not_run_the_trial_again(work, plan, monkeypatch):
    Worker(work).run(plan[0].key)
    monkeypatch.setattr(module, "run_trial", None)
    other = dataclasses.replace(plan[0], score_key="other")
    worker = Worker(dataclasses.replace(work, specs={other.key: other}))
    assert worker.run(other.key) == "finished"
    assert set(worker.ledger.finished([other])) == {other.key}


def test_other_sampling_runs_the_trial_again(work, plan, trials):
    Worker(work).run(plan[0].key)
    other = dataclasses.replace(plan[0], response_key="other", score_key="other")
    trials[plan[0].key] = "diverged"  # what a second training would come to
    assert Worker(dataclasses.replace(work, specs={other.key: other})).run(other.key) == "diverged"


def test_diverged_trials_are_not_trained_again_for_other_judges(work, plan, trials, monkeypatch):
    trials[plan[0].key] = "diverged"
    assert Worker(work).run(plan[0].key) == "diverged"
    monkeypatch.setattr(module, "run_trial", None)
    other = dataclasses.replace(plan[0], score_key="other")
    worker = Worker(dataclasses.replace(work, specs={other.key: other}))
    assert worker.run(other.key) == "diverged"
    assert set(worker.ledger.finished([other])) == {other.key}


def test_the_local_executor_says_what_becomes_of_each_trial_in_order(work, plan, trials):
    trials |= {plan[1].key: RuntimeError("no"), plan[2].key: "diverged"}
    events: list[Event] = []
    keys = [spec.key for spec in plan[:3]]
    open_executor(ExecutorSettings(kind="local")).run(work, keys, events.append)
    ends = zip(keys, ("finished", "failed", "diverged"), strict=True)
    assert events == [Event(kind, key) for key, end in ends for kind in ("started", end)]


@pytest.mark.parametrize(("asked", "found", "problems"), [(0, 0, 0), (1, 0, 1), (1, 1, 0), (0.5, 1, 0), (2, 1, 1)])
def test_a_gpu_that_is_not_there_is_said_before_anything_starts(monkeypatch, asked, found, problems):
    monkeypatch.setattr(local_module, "gpus_here", lambda: found)
    executor = LocalExecutor(ExecutorSettings(kind="local", trial_resources=TrialResources(gpu=asked)))
    said = executor.preflight()
    assert len(said) == problems
    for sentence in said:
        assert sentence == (
            f"executor.trial_resources.gpu: each trial asks for {asked:g} GPU and this machine has {found}. "
            "Set executor.trial_resources.gpu=0, or executor.address=<a cluster with GPUs>."
        )
