"""Trials that are lost, fail again and again, or are told to stop, on an executor that does what a test says."""

import io
import json
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from posweep.cli import interrupt
from posweep.errors import NoRoom
from posweep.executors import Event, Work
from posweep.folder import STOP, running_keys, take_over, taken_over
from posweep.ledger import Ledger
from posweep.mirror import NoMirror
from posweep.progress import Progress
from posweep.records import Outcome, TrialFailure, TrialResult
from posweep.settings import ExecutorSettings
from posweep.stop import Stop, StopRule, on_signals
from posweep.trials import FULL, Trials


class Scripted:
    """Does with each start of a trial what its script says next; the last word counts for ever."""

    def __init__(self, **scripts: list[str]):
        self.scripts, self.started, self.before = scripts, [], lambda key: None

    def run(self, work, keys, listen):
        ledger = Ledger(work.folder)
        for key in keys:
            if (work.folder / STOP).exists():
                return
            listen(Event("started", key))
            self.started.append(key)
            self.before(key)
            script = self.scripts.get(key, ["finished"])
            end = script.pop(0) if len(script) > 1 else script[0]
            if end == "finished":
                spec = work.specs[key]
                ledger.write(Outcome(TrialResult(key, spec.response_key, spec.score_key, "finished")))
            elif end == "failed":
                ledger.fail(TrialFailure(key, "OSError", "disk on fire", str(ledger.log(key))), "story")
            listen(Event("failed" if end == "lost" else end, key))


@pytest.fixture
def sweep(smoke, plan, tmp_path, monkeypatch):
    """Six trials: what runs them, what was said, what the tracker got."""
    monkeypatch.setattr(Stop, "wait", lambda *_: None)
    configuration = replace(smoke, executor=replace(smoke.executor, retries=2, stop_after_failures=3))
    said, sent = io.StringIO(), []
    work = Work(configuration, tmp_path, {spec.key: spec for spec in plan})
    progress, mirror = Progress(plan, {}, "ood/win_rate_vs_sft", said), NoMirror(tmp_path)
    executor, stop = Scripted(), Stop(mirror)
    trials = Trials(executor, work, mirror, SimpleNamespace(send=sent.append), progress, stop)
    return SimpleNamespace(
        trials=trials, executor=executor, stop=stop, sent=sent, said=said, progress=progress, plan=plan, folder=tmp_path,
        keys=[spec.key for spec in plan], ledger=Ledger(tmp_path),
    )  # fmt: skip


def test_a_lost_trial_runs_again_and_counts_once(sweep):
    lost = sweep.keys[1]
    sweep.executor.scripts[lost] = ["lost", "lost", "finished"]
    sweep.trials.run(sweep.keys)
    assert sweep.executor.started == [*sweep.keys, lost, lost]
    assert sweep.ledger.finished(sweep.plan).keys() == set(sweep.keys)
    assert sorted(sweep.sent) == sorted(sweep.keys)
    assert +sweep.progress.counts() == {"finished": 6}
    assert "1 trial lost its worker and starts again in 1 s (retry 1 of 2)" in sweep.said.getvalue()
    assert "1 trial lost its worker and starts again in 2 s (retry 2 of 2)" in sweep.said.getvalue()


def test_a_trial_that_is_lost_every_time_fails_with_a_class_of_its_own(sweep):
    sweep.executor.scripts[sweep.keys[0]] = ["lost"]
    sweep.trials.run(sweep.keys)
    failure = sweep.ledger.failures(sweep.plan)[sweep.keys[0]]
    assert (failure.kind, failure.error) == ("lost", "WorkerLost")
    assert failure.message == (
        "its worker was lost 3 times (killed, out of the machine's memory, or its node went away)"
    )
    assert sweep.executor.started.count(sweep.keys[0]) == 3
    assert sweep.sent.count(sweep.keys[0]) == 1


def test_lost_trials_are_no_failures_that_stop_a_sweep(sweep):
    for key in sweep.keys[:4]:
        sweep.executor.scripts[key] = ["lost", "lost", "finished"]
    sweep.trials.run(sweep.keys)
    assert sweep.stop.reason == ""
    assert len(sweep.ledger.finished(sweep.plan)) == 6


def test_lost_trials_run_again_without_shared_passes(sweep):
    seen, run = [], sweep.executor.run
    sweep.executor.run = lambda work, *rest: (seen.append(work.configuration.executor.fused), run(work, *rest))
    work = sweep.trials.work
    executor = replace(work.configuration.executor, fused=4)
    sweep.trials.work = replace(work, configuration=replace(work.configuration, executor=executor))
    sweep.executor.scripts[sweep.keys[1]] = ["lost", "finished"]
    sweep.trials.run(sweep.keys)
    assert seen == [4, 1]


def test_a_worker_that_is_lost_with_many_trials_is_one_loss(sweep):
    def run(work, keys, listen):
        for place, key in enumerate(keys):
            listen(Event("failed", key, beside=place > 0))

    sweep.executor.run = run
    sweep.trials.run(sweep.keys)
    assert sweep.stop.reason == ""
    assert sweep.trials.rule.lost == 3  # once a try
    assert {failure.kind for failure in sweep.ledger.failures(sweep.plan).values()} == {"lost"}


def test_who_is_told_to_stop_beside_a_failure_is_not_lost(sweep):
    sweep.stop.ask("enough")
    sweep.trials._listen(Event("failed", sweep.keys[0]))
    assert sweep.trials.rule.lost == 0
    assert +sweep.progress.counts() == {}


def test_failures_in_a_row_stop_a_sweep_and_the_rest_is_left(sweep):
    for key in sweep.keys[1:]:
        sweep.executor.scripts[key] = ["failed"]
    sweep.executor.scripts[sweep.keys[0]] = ["lost"]
    with sweep.stop.watched(sweep.progress.say, lambda: 0):
        sweep.trials.run(sweep.keys)
    assert sweep.stop.reason == "3 trials failed in a row (executor.stop_after_failures=3)"
    assert sweep.executor.started == sweep.keys[:4]
    assert sweep.ledger.failures(sweep.plan).keys() == set(sweep.keys[1:4])  # what was lost once is left, not failed
    assert not (sweep.folder / STOP).exists()


def test_a_trial_that_stopped_is_left(sweep):
    sweep.executor.scripts[sweep.keys[0]] = ["stopped"]
    sweep.executor.before = lambda key: sweep.stop.ask("interrupted")
    sweep.trials.run(sweep.keys)
    assert sweep.executor.started == sweep.keys[:1]
    assert sweep.ledger.failures(sweep.plan) == {}
    assert sweep.sent == []


def test_a_disk_that_is_full_ends_the_sweep_with_what_it_has(sweep):
    sweep.executor.scripts[sweep.keys[2]] = ["unwritten"]
    with pytest.raises(NoRoom, match=rf"output_dir: {sweep.folder} takes no more files \({FULL}\)"):
        sweep.trials.run(sweep.keys)
    assert sweep.executor.started == sweep.keys[:3]
    assert sweep.ledger.finished(sweep.plan).keys() == set(sweep.keys[:2])
    assert sweep.stop.reason == FULL
    assert running_keys(sweep.folder) == set()


def test_a_failure_is_forgotten_when_its_trial_starts_and_not_before(sweep):
    for key in sweep.keys[:2]:
        sweep.ledger.fail(TrialFailure(key, "OSError", "before"), "story")
    sweep.executor.before = lambda key: sweep.stop.ask("interrupted")
    sweep.trials.run(sweep.keys)
    assert sweep.ledger.failures(sweep.plan).keys() == {sweep.keys[1]}


def test_what_runs_is_noted_while_it_runs(sweep):
    noted = []
    sweep.executor.before = lambda key: noted.append((sweep.folder / "running.json").read_text() == f'["{key}"]')
    sweep.trials.run(sweep.keys)
    assert noted == [True] * 6
    assert running_keys(sweep.folder) == set()


def test_a_trial_that_has_failed_is_not_noted_as_running(sweep):
    """Of one that has finished there is a result, which is looked at first."""
    noted = {}
    note = sweep.folder / "running.json"
    sweep.trials.recorder = SimpleNamespace(send=lambda key: noted.update({key: json.loads(note.read_text())}))
    sweep.executor.scripts[sweep.keys[-1]] = ["failed"]
    sweep.trials.run(sweep.keys)
    assert noted[sweep.keys[-1]] == []
    assert noted.keys() == set(sweep.keys)


# --- signals


def test_the_first_signal_asks_and_the_second_interrupts(tmp_path):
    stop, said = Stop(NoMirror(tmp_path)), []

    def signals():
        with on_signals(interrupt), stop.watched(said.append, lambda: 2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert (tmp_path / STOP).exists()
            assert stop.by_signal
            wait_for(lambda: said)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        signals()
    stop.close()
    assert said == ["stopping: interrupted; 2 running trials write a checkpoint; Ctrl-C again stops at once"]
    assert not (tmp_path / STOP).exists()


def test_trials_that_take_too_long_are_interrupted(tmp_path, monkeypatch, within):
    monkeypatch.setattr("posweep.stop.GRACE", 0.05)
    stop = Stop(NoMirror(tmp_path))

    def takes_too_long():
        with on_signals(interrupt), stop.watched(lambda _: None, lambda: 1):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(4)

    with within(5), pytest.raises(KeyboardInterrupt):
        takes_too_long()
    stop.close()


def test_a_launch_that_ended_interrupts_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("posweep.stop.GRACE", 0.05)
    stop = Stop(NoMirror(tmp_path))
    with on_signals(interrupt):
        with stop.watched(lambda _: None, lambda: 0):
            os.kill(os.getpid(), signal.SIGINT)
        stop.close()
        time.sleep(0.2)


def test_failures_give_trials_the_time_they_need(tmp_path, monkeypatch):
    monkeypatch.setattr("posweep.stop.GRACE", 0.05)
    stop = Stop(NoMirror(tmp_path))
    with on_signals(interrupt), stop.watched(lambda _: None, lambda: 0):
        stop.ask("3 trials failed in a row")
        time.sleep(0.2)
    assert not stop.by_signal
    stop.close()


def test_signals_are_as_before_afterwards_and_another_thread_takes_none(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = Stop(NoMirror(tmp_path))
    with stop.watched(lambda _: None, lambda: 0):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    done = []

    def elsewhere():
        with stop.watched(lambda _: None, lambda: 0):
            done.append(signal.getsignal(signal.SIGTERM) is before[1])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_background_job_stays_deaf_to_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_signals(interrupt):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition):
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


# --- when failures say enough


@pytest.mark.parametrize(
    ("ends", "at", "reason"),
    [
        ("ffff", None, ""),
        ("fffff", 5, "5 trials failed in a row (executor.stop_after_failures=5)"),
        ("ffffxffff", None, ""),
        ("ffffdffff", None, ""),
        ("fxfxffxffxf", 10, "6 of 10 trials failed (executor.stop_at_failed_share=0.5)"),
        ("xfxfxfxfxfxf", None, ""),
        ("fflsflff", 8, "5 trials failed in a row (executor.stop_after_failures=5)"),
    ],
)
def test_when_failures_stop_a_sweep(ends, at, reason):
    kinds = {"f": "failed", "x": "finished", "d": "diverged", "l": "lost", "s": "stopped"}
    rule = StopRule(ExecutorSettings())
    said = [rule.count(kinds[end]) for end in ends]
    first = next((number for number, sentence in enumerate(said, start=1) if sentence), None)
    assert (first, said[first - 1] if first else "") == (at, reason)


# --- who drives


def test_trials_of_an_earlier_launch_are_taken_over(tmp_path):
    assert not taken_over(tmp_path, "anyone")  # no launch has said who it is
    first = take_over(tmp_path)
    assert not taken_over(tmp_path, first)
    second = take_over(tmp_path)
    assert taken_over(tmp_path, first)
    assert not taken_over(tmp_path, second)
    assert not taken_over(tmp_path, "")


def test_a_sweep_that_was_taken_over_says_so_and_calls_nothing_lost(sweep):
    (sweep.folder / "driver").write_text("another")
    sweep.trials.work = replace(sweep.trials.work, driver="this one")
    sweep.executor.scripts[sweep.keys[0]] = ["stopped"]
    sweep.trials.run(sweep.keys)
    assert sweep.stop.reason == "another posweep has taken it over"
    assert sweep.executor.started == sweep.keys[:1]
    assert sweep.ledger.failures(sweep.plan) == {}


def test_what_arrives_late_is_told_as_what_it_is(sweep, monkeypatch):
    """The storage was away when two trials ended, one of them with a failure."""
    late = sweep.keys[1:3]
    sweep.executor.scripts[late[1]] = ["failed"]
    monkeypatch.setattr(NoMirror, "collect", lambda self, key: key not in late)
    monkeypatch.setattr(NoMirror, "settle", lambda self: late)
    sweep.trials.run(sweep.keys)
    assert sorted(sweep.sent) == sorted(sweep.keys)
    assert +sweep.progress.counts() == {"finished": 5, "failed": 1}
    assert sweep.trials.rule.failed == 1


def test_where_nothing_but_lost_workers_comes_the_sweep_stops(sweep):
    """Three trials (stop_after_failures) that lose their workers three times (retries + 1) are nine in a row."""
    sweep.executor.scripts |= {key: ["lost"] for key in sweep.keys}
    sweep.trials.run(sweep.keys)
    assert sweep.stop.reason == "9 times in a row a worker was lost"
    assert sweep.executor.started == [*sweep.keys, *sweep.keys[:3]]
    assert sweep.ledger.failures(sweep.plan) == {}
