"""Two Ray nodes on one machine that share nothing but a storage: one is killed, another joins, and all trials finish."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ..jobs.slurm import Submission
from .cluster import can_hide, cluster
from .stub import start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("cluster")]
TRIALS, SECONDS = 12, 12.0
"""A trial takes longer than a worker takes to start, or Tune gives it to one that is up already."""


@pytest.fixture
def short(tmp_path_factory) -> Path:
    """A folder with a short name: Ray's sockets may have 107 letters."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="posweep-") as folder:
        yield Path(folder)


def test_a_node_dies_another_joins_and_every_trial_finishes_once(short: Path, figures: dict[str, str]) -> None:
    starts, storage, home = short / "starts.jsonl", short / "storage", short / "driver"
    (home / "tmp").mkdir(parents=True)
    with cluster(short, stub_environment(seconds=SECONDS, starts=starts)) as nodes:
        alone = home if can_hide() else None  # nodes find nothing that the driver has, its temporary files included
        nodes.add("a", hidden=alone)
        nodes.add("b", hidden=alone)
        arguments = [*trials(TRIALS), f"executor.address={nodes.address}", f"executor.storage={storage.as_uri()}"]
        began = time.monotonic()
        sweep = start(home, *arguments, "tracking=none", environment={**nodes.environment, "TMPDIR": str(home / "tmp")})
        _wait(lambda: len(_started(starts, "b")) >= 2, 120, sweep)
        nodes.kill("b")
        nodes.add("c", hidden=alone)
        out, err = sweep.communicate(timeout=300)
        took = time.monotonic() - began
    assert sweep.returncode == 0, err + out
    ledger = {file.stem for file in (home / "outputs" / "smoke" / "ledger").glob("*.json")}
    assert len(ledger) == TRIALS
    assert ledger == {file.stem for file in (storage / "smoke" / "ledger").glob("*.json")}
    counts = Counter(row["node"] for row in _rows(starts))
    assert set(counts) == {"a", "b", "c"}
    again = sum(counts.values()) - TRIALS
    assert 0 <= again <= 2  # what the node that died was at, and what it had been given
    figures["two nodes, one killed, one added: trials per node"] = ", ".join(f"{n} {counts[n]}" for n in sorted(counts))
    figures["two nodes, one killed, one added: trials run again"] = f"{again} of {TRIALS}"
    figures["two nodes, one killed, one added: in all"] = f"{took:.0f} s"


def test_nodes_that_are_not_as_they_should_be_are_refused_before_anything_is_made(short: Path) -> None:
    """A node with another posweep, one with another's folder in the storage's place, and a request that nobody satisfies."""
    home, storage, other = short / "driver", short / "storage", short / "other"
    for folder in (home, storage, other / "posweep"):
        folder.mkdir(parents=True)
    (other / "posweep" / "__init__.py").write_text("__version__ = '0.0.9'")
    with cluster(short, {}) as nodes:
        nodes.add("a")
        nodes.add("b", PYTHONPATH=str(other))
        if hiding := can_hide():
            nodes.add("c", hidden=storage)
        asked = [
            "sweep=smoke",
            "tracking=none",
            f"executor.address={nodes.address}",
            f"executor.storage={storage.as_uri()}",
        ]
        ran = start(home, *asked, "executor.trial_resources.cpu=3", environment=nodes.environment)
        out, err = ran.communicate(timeout=120)
        assert ran.returncode == 2, out + err
        said = err.strip().splitlines()
        assert said[0].startswith("executor.trial_resources: a trial asks for 3 cores and 0 GPU, and no node has them")
        assert said[1].startswith("executor.address: posweep 0.0.9 (here ")
        if hiding:
            assert said[2].startswith(f"executor.storage: {storage.as_uri()}/smoke cannot be used on node ")
            assert "(what the driver wrote is not there)" in said[2]
        assert len(said) == 2 + hiding
        shared = start(home, *asked[:3], environment=nodes.environment).communicate(timeout=120)[1]
        assert "executor.address: posweep 0.0.9" in shared
    assert not (home / "outputs" / "smoke" / "artifacts").exists()


def test_a_cluster_started_by_hand_needs_its_token_and_nothing_of_the_driver(
    short: Path, figures: dict[str, str]
) -> None:
    """As docs/operations.md starts it: a head without trials, a worker, a token. The driver does not even import torch."""
    home = short / "driver"
    home.mkdir()
    with cluster(short, {}) as nodes:
        nodes.add("head", cpus=0)
        nodes.add("worker", cpus=2)
        asked = ["sweep=smoke", "tracking=none", f"executor.address={nodes.address}"]
        began = time.monotonic()
        stranger = start(home, *asked, environment={"RAY_AUTH_MODE": "disabled"})
        out, err = stranger.communicate(timeout=120)
        took = time.monotonic() - began
        assert (stranger.returncode, out) == (2, "")
        assert err.startswith(f"executor.address: the Ray cluster at {nodes.address} does not let this process in (")
        assert len(err.splitlines()) == 1  # nothing of Ray's own
        assert list(home.iterdir()) == []
        driver = (
            "import sys; from posweep import cli; cli.run(sys.argv[1:]); "
            "sys.exit('torch' in sys.modules and 'torch is here')"
        )
        ran = subprocess.run(
            [sys.executable, "-c", driver, *asked], cwd=home, env={**os.environ, **nodes.environment},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.startswith("making the SFT policy …")
    assert len(list((home / "outputs" / "smoke" / "ledger").glob("*.json"))) == 6
    figures["a cluster that wants a token and gets none: to the sentence"] = f"{took:.0f} s"


def test_another_machine_with_the_same_storage_goes_on(short: Path, figures: dict[str, str]) -> None:
    """The first driver is killed; a second, with an output folder of its own, runs what is left."""
    starts, storage = short / "starts.jsonl", short / "storage"
    environment = stub_environment(seconds=0.5, starts=starts)
    arguments = [*trials(12), "tracking=none", "executor=local", f"executor.storage={storage.as_uri()}"]
    for machine in ("one", "two"):
        (short / machine / "tmp").mkdir(parents=True)
        variables = {**environment, "TMPDIR": str(short / machine / "tmp"), "POSWEEP_NODE": machine}
        driver = start(short / machine, *arguments, environment=variables)
        if machine == "one":
            _wait(lambda: len(list((storage / "smoke" / "ledger").glob("[!.]*.json"))) >= 4, 60, driver)
            driver.kill()
        out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, out + err
    assert len(list((short / "two" / "outputs" / "smoke" / "ledger").glob("*.json"))) == 12
    counts = Counter(row["node"] for row in _rows(starts))
    assert counts["one"] + counts["two"] <= 13  # the one that was cut off runs again
    assert counts["two"] < 12
    figures["another machine, same storage: trials run again"] = f"{sum(counts.values()) - 12} of 12"


def test_the_slurm_script_runs_a_real_sweep_and_goes_on_after_a_signal(short: Path, figures: dict[str, str]) -> None:
    """Stand-ins for Slurm only: Ray, sweep, checkpoint and relaunch are real."""
    bin_, home = Path(sys.executable).parent, short / "job"
    (home / ".venv").mkdir(parents=True)
    (home / ".venv" / "bin").symlink_to(bin_)
    arguments = ["sweep=smoke", "method=[dpo]", "tracking=none", "train.epochs=15", "train.checkpoint_steps=10"]
    ends = []
    for launch in ("first", "second"):
        job = Submission(home, *arguments, hosts="localhost", OMP_NUM_THREADS="1", SLURM_CPUS_PER_TASK="2")
        if launch == "first":
            running = home / "outputs" / "smoke" / "checkpoints"
            _wait(lambda folder=running: list(folder.glob("*.pt")), 180, job.process)
            job.terminate()
        began = time.monotonic()
        ends.append((*job.end(), time.monotonic() - began))
    (code, out, took), (again, more, _) = ends
    assert code == 130, out
    assert job.called("scontrol").count(["requeue", "4321"]) == 1
    assert again == 0, more
    assert len(list((home / "outputs" / "smoke" / "ledger").glob("*.json"))) == 2
    figures["Slurm's signal: from SIGTERM to the job queued again"] = f"{took:.0f} s"


def _rows(starts: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in starts.read_text().splitlines()] if starts.is_file() else []


def _started(starts: Path, node: str) -> list[dict[str, str]]:
    return [row for row in _rows(starts) if row["node"] == node]


def _wait(there, seconds: float, sweep) -> None:
    until = time.monotonic() + seconds
    while not there():
        if sweep.poll() is not None:
            pytest.fail("it ended before that:\n" + "\n".join(text[-3000:] for text in sweep.communicate()))
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
