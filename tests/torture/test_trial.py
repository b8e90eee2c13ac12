"""One trial, killed with SIGKILL wherever it is, again and again: it ends at the numbers of one that ran through."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..tiny import make_world

pytestmark = pytest.mark.torture

EVERY, KILLS = 4, 5
"""Steps between checkpoints, and how often a trial dies."""

TRIAL = """
import os, sys
from posweep.config import configure
from posweep.executors import Work
from posweep.executors.worker import Worker
from posweep.folder import folder_of
from posweep.plan import make_plan
from posweep.policy import train

steps = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
real = train.Training.step

def step(self, *given):
    real(self, *given)
    os.write(steps, f"{self.done}\\n".encode())

configuration = configure(sys.argv[2:])
plan = make_plan(configuration)
worker = Worker(Work(configuration, folder_of(configuration), {spec.key: spec for spec in plan}))
assert worker.shared  # which trains the SFT model, in the same loop
train.Training.step = step
print(worker.run(plan.trials[0].key))
"""
"""A worker in a process of its own, which notes each step that is done."""

SCRATCH = [
    "sweep=smoke", "executor=local", "tracking=none", "sweep.blocks=[]", "train.batch_size=4", "train.epochs=2",
    f"train.checkpoint_steps={EVERY}", "sweep.learning_rates=[1e-3]",
]  # fmt: skip
CASES = {
    "DPO": ["method=[dpo]", "method.dpo.grid.beta=[0.1]", "train.evaluate_at=[0.5,1.0]"],
    "KTO in micro-batches": ["method=[kto]", "method.kto.grid.beta=[0.1]", "train.micro_batch_size=3"],
    "LoRA": ["model.lora.rank=4", "train.batch_size=2", "train.epochs=6", f"train.checkpoint_steps={EVERY}"],
}


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", TRIAL, str(folder / "steps"), *arguments, f"output_dir={folder / 'outputs'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def steps(folder: Path) -> list[int]:
    """Numbers of the steps that were done, in order, over all processes."""
    file = folder / "steps"
    return list(map(int, file.read_text().split())) if file.exists() else []


def run(folder: Path, arguments: list[str]) -> str:
    out, err = (process := start(folder, arguments)).communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip()


def kill(folder: Path, arguments: list[str], after: int, pause: float) -> None:
    """Start the trial, let it do so many steps and a moment more, and kill it."""
    before, process = len(steps(folder)), start(folder, arguments)
    try:
        while len(steps(folder)) < before + after and process.poll() is None:
            time.sleep(0.001)
        time.sleep(pause)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def written(folder: Path) -> tuple[dict, dict]:
    """What lies in the ledger of the one trial that ran, without its times; and the rows behind it."""
    [result] = (folder / "outputs").glob("*/ledger/*.json")
    [rows] = (folder / "outputs").glob("*/responses/*.json")
    found = json.loads(result.read_text())
    return {name: found[name] for name in ("measures", "along", "curves", "status")}, json.loads(rows.read_text())


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_is_killed_again_and_again(tmp_path, figures, case):
    arguments = [*SCRATCH, *CASES[case]]
    if case == "LoRA":
        arguments = make_world(tmp_path / "world").arguments(*CASES[case], "tracking=none")
    assert run(tmp_path / "whole", arguments) == "finished"
    needed, drawn, folder = len(steps(tmp_path / "whole")), random.Random(case), tmp_path / "killed"
    pieces: list[list[int]] = []
    for _ in range(KILLS):
        before = len(steps(folder))
        kill(folder, arguments, drawn.randint(1, needed // 4), drawn.uniform(0, 0.02))
        pieces.append(steps(folder)[before:])
    before = len(steps(folder))
    assert run(folder, arguments) == "finished"
    pieces.append(steps(folder)[before:])
    assert written(folder) == written(tmp_path / "whole")
    assert not list((folder / "outputs").glob("*/checkpoints/*"))

    done, lost = 0, []
    for piece in filter(None, pieces):
        lost.append(done - piece[0] + 1)
        assert piece == list(range(piece[0], piece[-1] + 1))
        assert (piece[0] - 1) % EVERY == 0
        done = piece[-1]
    assert max(lost) <= EVERY
    figures[f"a trial killed {KILLS} times, {case}"] = (
        f"{len(steps(folder))} steps for {needed}; lost at most {max(lost)} a kill, with a checkpoint every {EVERY}"
    )
