import dataclasses
import errno
from pathlib import Path

import pytest
import torch

from posweep.errors import DataError, JudgeUnavailable, OutOfMemory, Stopped
from posweep.executors import Event, Work, open_executor
from posweep.executors import keep as keeping
from posweep.executors import local as local_module
from posweep.executors import worker as module
from posweep.executors.local import LocalExecutor
from posweep.executors.worker import Worker
from posweep.folder import STOP, checkpoint_file
from posweep.ledger import Ledger
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


# --- kinds of failures, and stopping


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("ours"), "bug"),
        (RuntimeError("mat1 and mat2 shapes"), "bug"),
        (OutOfMemory("train.micro_batch_size: …"), "memory"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (JudgeUnavailable("judge.llm: away"), "judge"),
    ],
)
def test_a_failure_says_its_kind(work, plan, trials, error, kind):
    trials[plan[0].key] = error
    worker = Worker(work)
    assert worker.run(plan[0].key) == "failed"
    assert worker.ledger.failures(plan)[plan[0].key].kind == kind
    assert type(error).__name__ in worker.ledger.log(plan[0].key).read_text()


def test_the_log_holds_what_came_before_too(work, plan, monkeypatch):
    def run(*_, **__):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("train.micro_batch_size: not even one") from error

    monkeypatch.setattr(module, "run_trial", run)
    worker = Worker(work)
    worker.run(plan[0].key)
    story = worker.ledger.log(plan[0].key).read_text()
    assert "Tried to allocate 2 GiB" in story
    assert story.rstrip().endswith("train.micro_batch_size: not even one")


def test_a_trial_that_stopped_is_neither_a_result_nor_a_failure(work, plan, trials):
    trials[plan[0].key] = Stopped("asked to")
    worker = Worker(work)
    assert worker.run(plan[0].key) == "stopped"
    assert (worker.ledger.failures(plan), worker.ledger.finished(plan)) == ({}, {})


def test_nothing_begins_while_the_sweep_is_asked_to_stop(work, plan, monkeypatch):
    monkeypatch.setattr(module, "run_trial", None)
    (work.folder / STOP).touch()
    worker = Worker(work)
    assert worker.run(plan[0].key) == "stopped"
    assert worker.ledger.failures(plan) == {}


def test_a_trial_that_runs_when_it_is_asked_goes_on_later_to_the_same_numbers(work, plan, monkeypatch):
    key, real = plan[0].key, module.run_trial

    def run(*given, **named):
        (work.folder / STOP).touch()
        return real(*given, **named)

    monkeypatch.setattr(module, "run_trial", run)
    worker = Worker(work)
    assert worker.run(key) == "stopped"
    assert [one.name for one in (work.folder / "checkpoints").iterdir()] == [f"{key}.pt"]
    (work.folder / STOP).unlink()
    monkeypatch.setattr(module, "run_trial", real)
    assert Worker(work).run(key) == "finished"
    assert list((work.folder / "checkpoints").iterdir()) == []
    outcome, whole = worker.ledger.outcome(key), real(plan[0], worker.shared)
    assert outcome.result.notes == {"resumed_at": 1}
    assert (outcome.result.measures, outcome.responses) == (whole.result.measures, whole.responses)


# --- checkpoints


def lay(work, key: str) -> Path:
    """Something where a checkpoint lies."""
    file = checkpoint_file(work.folder, key)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"weights")
    return file


@pytest.mark.parametrize("end", ["finished", "diverged"])
def test_a_result_removes_its_checkpoint_and_only_that(work, plan, trials, end):
    trials[plan[0].key] = end
    one, other = lay(work, plan[0].key), lay(work, plan[1].key)
    assert Worker(work).run(plan[0].key) == end
    assert (one.exists(), other.exists()) == (False, True)


def test_a_failure_leaves_it(work, plan, trials):
    trials[plan[0].key] = JudgeUnavailable("away")
    file = lay(work, plan[0].key)
    assert Worker(work).run(plan[0].key) == "failed"
    assert file.exists()


def test_what_a_worker_left_that_was_killed_behind_its_result_is_cleared_away(work, plan, trials):
    assert Worker(work).run(plan[0].key) == "finished"
    one, other = lay(work, plan[0].key), lay(work, plan[1].key)
    Worker(work)
    assert (one.exists(), other.exists()) == (False, True)


def test_a_checkpoint_of_a_finished_trial_that_is_measured_otherwise_now_stays(work, plan, trials):
    assert Worker(work).run(plan[0].key) == "finished"
    file, other = lay(work, plan[0].key), dataclasses.replace(plan[0], response_key="other", score_key="other")
    Worker(dataclasses.replace(work, specs={other.key: other}))
    assert file.exists()


# --- what is kept


@pytest.fixture
def kept(smoke, shared, plan, tmp_path, monkeypatch):
    """Trials of two methods that score as they are told, and policies that are a file each; the policies that stay."""
    scores: dict[str, float] = {}

    def run(spec, shared, keep, door):
        measures = {smoke.sweep.primary_metric: scores[spec.key]} if spec.key in scores else {}
        return Outcome(
            TrialResult(spec.key, spec.response_key, spec.score_key, "finished", measures, seconds={"total": 1.0})
        )

    monkeypatch.setattr(module, "prepare", lambda *_: shared)
    monkeypatch.setattr(module, "run_trial", run)
    monkeypatch.setattr(keeping, "keep_policy", lambda _, folder: folder.mkdir(parents=True, exist_ok=True))

    def stay(setting: str, *given: float) -> list[int]:
        train = dataclasses.replace(smoke.train, keep=setting)
        work = Work(dataclasses.replace(smoke, train=train), tmp_path, {spec.key: spec for spec in plan})
        scores.update(dict(zip((spec.key for spec in plan), given, strict=False)))
        worker = Worker(work)
        for spec in plan[: len(given)]:
            assert worker.run(spec.key) == "finished"
        return left(tmp_path, plan)

    return stay


def left(folder: Path, plan) -> list[int]:
    """Places in the plan of the policies that are there."""
    names = [one.name for one in (folder / "policies").glob("*")]
    return sorted([spec.key for spec in plan].index(name) for name in names)


@pytest.mark.parametrize(
    ("setting", "scores", "stays"),
    [
        ("nothing", (0.1, 0.2), []),
        ("adapters", (0.1, 0.2), []),
        ("all", (0.1, 0.2, 0.3), [0, 1, 2]),
        ("best", (0.1, 0.2), [1]),
        ("best", (0.2, 0.1), [0]),
        ("best", (0.1, 0.2, 0.3, 0.25, 0.9, 0.9), [1, 2]),
        ("best", (float("nan"), 0.1), [1]),
        ("best", (0.1, float("nan")), [0]),
    ],
)
def test_what_is_kept(kept, plan, setting, scores, stays):
    """The smoke sweep has two trials a method; of equals one stays, the same in whichever order they end."""
    found = kept(setting, *scores)
    if len(scores) == 6:
        stays = [*stays, min((4, 5), key=lambda at: plan[at].key)]
    assert found == stays


def test_the_best_policy_stays_though_it_was_judged_late(smoke, work, plan, trials, tmp_path, monkeypatch):
    """Of one that no judge has seen nobody knows whether it is the best."""
    monkeypatch.setattr(keeping, "keep_policy", lambda policy, folder: folder.mkdir(parents=True))
    best = dataclasses.replace(smoke, train=dataclasses.replace(smoke.train, keep="best"))
    worker = Worker(dataclasses.replace(work, configuration=best))
    metric = {smoke.sweep.primary_metric: 0.6}
    first, late = (TrialResult(s.key, s.response_key, s.score_key, "finished", metric) for s in plan[:2])
    worker._record(worker._kept(Outcome(first)))
    worker._unjudged(Outcome(dataclasses.replace(late, score_key="", measures={})))
    assert left(tmp_path, plan) == [0, 1]
    worker._record(Outcome(dataclasses.replace(late, measures={smoke.sweep.primary_metric: 0.9})))
    assert left(tmp_path, plan) == [1]


def test_a_password_in_an_error_stays_out_of_the_record(work, plan, trials):
    trials[plan[0].key] = ValueError("https://me:secret@host/x said no")
    worker = Worker(work)
    assert worker.run(plan[0].key) == "failed"
    assert "secret" not in worker.ledger.failures(plan)[plan[0].key].message
    assert "secret" not in worker.ledger.log(plan[0].key).read_text()


def test_a_policy_without_a_result_is_another_worker_s_and_stays(kept, plan, tmp_path):
    (tmp_path / "policies" / plan[1].key).mkdir(parents=True)
    assert kept("best", 0.9) == [0, 1]


def test_a_worker_that_was_killed_before_it_cleared_away_leaves_that_to_the_next(smoke, kept, plan, tmp_path):
    assert kept("all", 0.1, 0.2, 0.3) == [0, 1, 2]
    best = dataclasses.replace(smoke, train=dataclasses.replace(smoke.train, keep="best"))
    work = Work(best, tmp_path, {spec.key: spec for spec in plan})
    keeping.drop_worse(work, Ledger(tmp_path), plan[0])
    assert left(tmp_path, plan) == [1, 2]


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


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")]
)
def test_what_cannot_be_written_is_neither_result_nor_failure(work, plan, trials, error):
    trials[plan[0].key] = error
    worker = Worker(work)
    assert worker.run(plan[0].key) == "unwritten"
    assert worker.ledger.failures(plan) == worker.ledger.finished(plan) == {}
