"""An MLflow server that is slow, stopped, restarted or gone while a sweep runs: no trial fails or waits, nothing is lost."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

from posweep.trackers.mlflow import MlflowTracker

from .stub import start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("torture_tracker")]

TRIALS = 80
ENVIRONMENT = stub_environment(seconds=0.5)


class Server:
    """`mlflow server` on a sqlite store, in a process group of its own."""

    def __init__(self, home: Path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.home, self.uri = home, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        store = [f"--backend-store-uri=sqlite:///{self.home}/server.db", f"--artifacts-destination={self.home}/files"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, "--host=127.0.0.1", f"--port={self.port}", "--workers=1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        until(self.answers, 120)

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def ledger(folder: Path) -> list[Path]:
    return list((folder / "outputs" / "smoke" / "ledger").glob("[!.]*.json"))


def gaps(folder: Path) -> list[float]:
    """Seconds between one result and the next."""
    written = sorted(file.stat().st_mtime for file in ledger(folder))
    return [b - a for a, b in itertools.pairwise(written)]


def children(uri: str) -> Counter[tuple[str, str]]:
    """Runs of trials by key and status."""
    tracker = MlflowTracker(uri)
    tracker._experiment = tracker.client.get_experiment_by_name("smoke").experiment_id
    return Counter((run.data.tags["key"], run.info.status) for run in tracker._children())


def assert_everything_is_there_once(uri: str, folder: Path) -> None:
    assert children(uri) == Counter((file.stem, "FINISHED") for file in ledger(folder))
    record = MlflowTracker(uri).read("smoke")
    assert record is not None
    assert len(record.results) == TRIALS
    assert all(len(result.measures) == 32 for result in record.results.values())


def test_a_server_that_is_slow_stopped_and_restarted(
    server: Server, tmp_path: Path, figures: MutableMapping[str, str]
) -> None:
    with_it, without, elsewhere = (tmp_path / name for name in ("with", "without", "elsewhere"))
    for folder in (with_it, without, elsewhere):
        folder.mkdir()
    arguments = [*trials(TRIALS), "executor=ray", "executor.workers=2"]
    quiet = start(without, *arguments, "tracking=none", environment=ENVIRONMENT)
    assert quiet.wait(240) == 0, quiet.communicate()[1]

    sweep = start(with_it, *arguments, f"tracking.uri={server.uri}", environment=ENVIRONMENT)
    until(lambda: len(ledger(with_it)) >= 6, 120)
    server.send(signal.SIGSTOP)  # slow: connections are taken, and answered seconds later
    until(lambda: len(ledger(with_it)) >= 18, 60)
    server.send(signal.SIGCONT)
    for finished in (24, 34):  # the last forty leave a slow machine time to start it
        until(lambda finished=finished: len(ledger(with_it)) >= finished, 60)
        server.stop()
        until(lambda finished=finished: len(ledger(with_it)) >= finished + 6, 60)
        server.start()
    out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, err
    assert "MLflow lacks" not in out  # it all arrived by itself
    assert_everything_is_there_once(server.uri, with_it)
    for name, folder in {"without a tracker": without, "server stopped and restarted": with_it}.items():
        found = gaps(folder)
        figures[f"between two results, {name}: median, longest"] = f"{median(found):.2f}, {max(found):.2f} s"

    starts = elsewhere / "starts.jsonl"
    environment = stub_environment(starts=starts)
    again = start(elsewhere, *arguments, f"tracking.uri={server.uri}", environment=environment)
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert f"Nothing is left to do: all {TRIALS} trials" in out
    assert not starts.exists()
    assert {file.stem for file in ledger(elsewhere)} == {file.stem for file in ledger(with_it)}


def test_a_server_that_stays_away_and_a_sync(server: Server, tmp_path: Path, figures: MutableMapping[str, str]) -> None:
    arguments = [*trials(TRIALS), f"tracking.uri={server.uri}"]
    sweep = start(tmp_path, *arguments, "executor=ray", "executor.workers=2", environment=ENVIRONMENT)
    until(lambda: len(ledger(tmp_path)) >= 10, 120)
    server.stop()
    out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, err
    assert len(ledger(tmp_path)) == TRIALS
    command = "posweep sync outputs/smoke"
    (said,) = (line for line in out.splitlines() if line.startswith("MLflow lacks"))
    assert said.endswith(f"of {TRIALS} trials (Connection refused); nothing is lost, send the rest with: {command}")

    refused = start(tmp_path, *command.split()[1:], environment=ENVIRONMENT)
    assert f"tracking.uri: {server.uri} does not answer (Connection refused)" in refused.communicate(timeout=60)[1]
    assert refused.returncode == 2
    server.start()
    began = time.monotonic()
    synced = start(tmp_path, *command.split()[1:], environment=ENVIRONMENT)
    out, err = synced.communicate(timeout=240)
    assert synced.returncode == 0, err
    assert out.strip().endswith(f"MLflow holds all {TRIALS} trials of sweep smoke.")
    figures["posweep sync, the command"] = f"{time.monotonic() - began:.1f} s ({out.strip().partition(';')[0].lower()})"
    assert_everything_is_there_once(server.uri, tmp_path)
