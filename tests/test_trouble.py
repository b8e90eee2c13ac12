"""A sweep in trouble: trials that fail, workers and drivers that die, trackers that go away, a second driver."""

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from posweep.folder import running_keys

from .test_launch import measures, posweep, tracker_of

pytestmark = pytest.mark.xdist_group("trouble")


def test_a_failed_trial_is_reported_and_runs_again(tmp_path: Path) -> None:
    fire = (
        "import posweep.executors.worker as w; real = w.run_trial\n"
        "def some(spec, shared, keep):\n"
        "    if spec.method == 'simpo': raise OSError('disk on fire')\n"
        "    return real(spec, shared, keep)\n"
        "w.run_trial = some"
    )
    arguments = ["sweep=smoke", "executor=local", "tracking=none"]
    ran = patched(tmp_path, fire, *arguments)
    assert ran.returncode == 3
    assert "2 of 6 trials failed; the first: OSError: disk on fire" in ran.stderr
    status = posweep(tmp_path, "status", *arguments)
    assert status.stdout.count("OSError: disk on fire") == 2
    again = posweep(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert len(measures(tmp_path)) == 6
    assert "disk on fire" not in posweep(tmp_path, "status", *arguments).stdout


def patched(folder: Path, patch: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with something broken in it first."""
    command = [sys.executable, "-c", f"{patch}\nfrom posweep.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_worker_that_dies_without_a_word_is_a_failure(tmp_path: Path) -> None:
    drop = (
        "import posweep.executors.local as e; real = e.LocalExecutor.run\n"
        "e.LocalExecutor.run = lambda self, work, keys, listen: real(self, work, keys[1:], listen)"
    )
    ran = patched(tmp_path, drop, "sweep=smoke", "executor=local", "tracking=none")
    assert ran.returncode == 3
    assert "1 of 6 trials failed; the first: WorkerLost: its worker ended without a word" in ran.stderr


def test_a_tracker_that_goes_away_costs_a_sentence_and_the_next_launch_sends_the_rest(tmp_path: Path) -> None:
    away = (
        "import posweep.recorder\n"
        "posweep.recorder.FLUSH = 0.5\n"
        "from posweep.trackers.mlflow import MlflowTracker as T\n"
        "def away(*_): raise ConnectionError('nobody is there')\n"
        "T.write = T.describe = T.close = away"
    )
    arguments = ("sweep=smoke", "executor=local")
    ran = patched(tmp_path, away, *arguments)
    assert ran.returncode == 0, ran.stderr
    said = "MLflow lacks 6 of 6 trials (nobody is there); nothing is lost, send the rest with: posweep sync sweep=smoke"
    assert said in ran.stdout
    summary = tmp_path / "outputs" / "smoke" / "report" / "summary.json"
    before = json.loads(summary.read_text())
    assert before["methods"]["dpo"]["finished"] == 2
    assert "Nothing is left to do" in posweep(tmp_path, *arguments).stdout
    assert len(tracker_of(tmp_path, "smoke").held()) == 6
    assert json.loads(summary.read_text()) == before


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_sigterm_ends_a_sweep_with_everything_finished_kept(executor: str, tmp_path: Path) -> None:
    arguments = ["sweep=smoke", "train.epochs=300", f"executor={executor}"]
    command = [sys.executable, "-c", "from posweep.cli import main; main()", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        running, until = tmp_path / "outputs" / "smoke" / "running.json", time.monotonic() + 120
        while not running.is_file() and time.monotonic() < until:
            time.sleep(0.2)
        sweep.terminate()
        _, said = sweep.communicate(timeout=30)
    assert sweep.returncode == 130
    assert said.strip().endswith(f"continue with: posweep {' '.join(arguments)}")
    assert "Traceback" not in said
    assert not running.exists()
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
