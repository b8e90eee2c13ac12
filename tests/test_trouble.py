"""A sweep in trouble: trials that fail, workers and drivers that die, trackers that go away, a second driver."""

import dataclasses
import itertools
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from posweep.cli import interrupt
from posweep.executors import Work
from posweep.executors.worker import Worker
from posweep.folder import HEADER, OPPONENTS, folder_of, running_keys
from posweep.ledger import Ledger
from posweep.mirror import NoMirror
from posweep.plan import make_plan
from posweep.records import Outcome, SweepHeader, TrialResult, TrialSpec
from posweep.settings import Configuration
from posweep.trackers.mlflow import MlflowTracker

from .test_launch import posweep, tracker_of
from .tiny import SMOKE, configured
from .tiny import posweep as posweep_here
from .torture.stub import trials

pytestmark = pytest.mark.xdist_group("trouble")


TWELVE = [*SMOKE, *trials(12)]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], None]]:
    """A folder of its own, and trials that take no time: what one does, by the number of its start."""
    monkeypatch.chdir(tmp_path)
    does: dict[str, Callable[[], None]] = {}
    number = itertools.count()

    def run(spec: TrialSpec, *_: object, **__: object) -> Outcome:
        does.get(str(next(number)), does.get("any", lambda: None))()
        return Outcome(
            TrialResult(spec.key, spec.response_key, spec.score_key, "finished", {"ood/win_rate_vs_sft": 0.5})
        )

    def make(configuration: Configuration, mirror: NoMirror, *_: object) -> None:
        header = SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric)
        (mirror.folder / HEADER).write_text(json.dumps(header.to_json()))
        (mirror.folder / OPPONENTS).write_text("[]")

    monkeypatch.setattr("posweep.executors.worker.run_trial", run)
    monkeypatch.setattr(Worker, "shared", SimpleNamespace(policy=SimpleNamespace(adapted=False)))
    monkeypatch.setattr("posweep.launch._make_artifacts", make)
    return does


def burn() -> None:
    raise OSError("disk on fire")


def test_failed_trials_are_listed_and_run_again_alone(told: dict[str, Callable[[], None]]) -> None:
    told |= {"1": burn, "4": burn}
    ran = posweep_here(*SMOKE)
    assert ran.code == 3
    assert ran.said[0].startswith("2 of 6 trials failed; the first: OSError: disk on fire (log: ")
    assert ran.said[1] == "posweep status outputs/smoke lists them; posweep outputs/smoke retry=failed runs them again."
    status = posweep_here("status", *SMOKE)
    assert status.out.count(", an error: OSError: disk on fire\n    log: ") == 2
    assert status.out.endswith("posweep outputs/smoke retry=failed runs the 2 failed ones again\n")
    log = Path(status.out.partition("log: ")[2].splitlines()[0])
    assert log.read_text().endswith("OSError: disk on fire\n")
    again = posweep_here(*SMOKE, "retry=failed")
    assert again.code == 0, again.err
    assert posweep_here("status", *SMOKE).out.count("2         2        0       0         0     0") == 3


def test_only_the_failed_ones_run_again(told: dict[str, Callable[[], None]]) -> None:
    told |= {"2": burn, "3": interrupt}
    assert posweep_here(*SMOKE).code == 130
    ran = posweep_here(*SMOKE, "retry=failed")
    assert ran.code == 0
    assert "3 of 6 trials are left; posweep outputs/smoke runs them." in ran.out
    assert posweep_here("status", *SMOKE).out.endswith("posweep outputs/smoke runs all 3 that are not finished\n")


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        ("all", "retry: must be failed, got 'all'; without it, everything that is left runs."),
        ("failed", "retry: no trial of sweep smoke has failed; leave retry out to run what is left."),
    ],
)
def test_a_retry_of_nothing(retry: str, said: str, told: dict[str, Callable[[], None]]) -> None:
    ran = posweep_here(*SMOKE, f"retry={retry}")
    assert (ran.code, ran.said) == (2, [said])


def test_a_sweep_whose_trials_fail_one_after_another_stops(told: dict[str, Callable[[], None]]) -> None:
    told["any"] = burn
    ran = posweep_here(*TWELVE)
    assert ran.code == 3
    assert "stopping: 5 trials failed in a row (executor.stop_after_failures=5); Ctrl-C again stops at once" in ran.out
    assert ran.said[0].startswith(
        "The sweep stopped: 5 trials failed in a row (executor.stop_after_failures=5); the first: OSError: disk on fire"
    )
    assert ran.said[1] == (
        "posweep status outputs/smoke lists the failures; when their cause is mended, posweep outputs/smoke goes on."
    )
    told.clear()
    assert posweep_here(*TWELVE).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_sweep_after_the_trial_that_runs(number: int, told: dict[str, Callable[[], None]]) -> None:
    told["2"] = lambda: os.kill(os.getpid(), number)
    ran = posweep_here(*TWELVE)
    assert ran.code == 130
    assert ran.said[-1] == f"Interrupted. Everything finished is kept; continue with: posweep {shlex.join(TWELVE)}"
    folder = Path("outputs/smoke")
    assert len(list((folder / "ledger").iterdir())) == 3
    assert not {"stop", "running.json", "logs"} & {file.name for file in folder.iterdir()}
    assert posweep_here(*TWELVE).code == 0
    assert len(list((folder / "ledger").iterdir())) == 12


def test_a_second_signal_ends_a_sweep_at_once(told: dict[str, Callable[[], None]]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    told["2"] = twice
    assert posweep_here(*TWELVE).code == 130
    assert len(list(Path("outputs/smoke/ledger").iterdir())) == 2


def test_a_launch_works_outside_the_main_thread(told: dict[str, Callable[[], None]]) -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(posweep_here(*SMOKE).code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_what_another_launch_has_finished_is_not_run_again(told: dict[str, Callable[[], None]]) -> None:
    """A worker of a killed driver may write a result when the next driver has looked already."""
    configuration = configured(TWELVE)
    spec, folder = make_plan(configuration).trials[0], folder_of(configuration)
    work = Work(configuration, folder, {spec.key: spec}, driver="first")
    told["0"] = lambda: (folder / "driver").write_text("second")
    folder.mkdir(parents=True)
    assert Worker(work).run(spec.key) == "stopped"
    assert Ledger(folder).finished([spec]) == {}
    second = Worker(dataclasses.replace(work, driver="second"))
    assert second.run(spec.key) == "finished"
    told["any"] = burn
    assert second.run(spec.key) == "finished"


def test_a_tracker_that_goes_away_costs_a_sentence_and_the_next_launch_sends_the_rest(
    told: dict[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("nobody is there")

    arguments = SMOKE[:2]
    with monkeypatch.context() as patch:
        patch.setattr("posweep.recorder.FLUSH", 0.5)
        for name in ("write", "describe", "close"):
            patch.setattr(MlflowTracker, name, away)
        ran = posweep_here(*arguments)
    assert ran.code == 0, ran.err
    said = (
        "MLflow lacks 6 of 6 trials (nobody is there); nothing is lost, send the rest with: posweep sync outputs/smoke"
    )
    assert said in ran.out
    summary = Path("outputs/smoke/report/summary.json")
    before = json.loads(summary.read_text())
    assert before["methods"]["dpo"]["finished"] == 2
    assert "Nothing is left to do" in posweep_here(*arguments).out
    assert len(tracker_of(Path.cwd(), "smoke").held()) == 6
    assert json.loads(summary.read_text()) == before


def test_ctrl_c_on_ray_leaves_a_checkpoint_of_what_ran(tmp_path: Path) -> None:
    """To the whole group of processes, as a terminal sends it."""
    arguments = ["sweep=smoke", "train.epochs=300", "train.checkpoint_steps=20", "executor=ray", "executor.workers=1"]
    command = [sys.executable, "-c", "from posweep.cli import main; main()", *arguments]
    folder = tmp_path / "outputs" / "smoke"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as sweep:
        until = time.monotonic() + 120
        while not any(folder.glob("checkpoints/*.pt")) and time.monotonic() < until:
            time.sleep(0.2)
        os.killpg(sweep.pid, signal.SIGINT)
        _, said = sweep.communicate(timeout=30)
    assert sweep.returncode == 130
    assert said.strip().endswith(f"continue with: posweep {' '.join(arguments)}")
    assert "Traceback" not in said
    assert not (folder / "running.json").exists()
    assert [file.suffix for file in (folder / "checkpoints").iterdir()] == [".pt"]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select status from runs where name = 'smoke'").fetchall() == [("KILLED",)]


def test_what_a_dead_driver_left_behind_is_not_running(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text('["abc"]')
    assert running_keys(tmp_path) == set()
    with FileLock(tmp_path / ".lock"):
        assert running_keys(tmp_path) == {"abc"}
    assert running_keys(tmp_path / "nowhere") == set()


def test_a_second_driver_is_turned_away(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "smoke"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        ran = posweep(tmp_path, "sweep=smoke", "executor=local", "tracking=none")
    assert ran.returncode == 2
    assert "another posweep is running sweep smoke" in ran.stderr
