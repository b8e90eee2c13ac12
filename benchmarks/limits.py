"""What the seconds of a sweep are spent on, by model size: whole commands, from the ledger of each.

    python benchmarks/limits.py [HIDDEN …]

A worker's time counts from the start of its first trial to the end of its last: training, generation, KL and judging on
one side, on the other the held-out pairs and what is computed of rows (measure), weights put back and results written
(rest), and the wait for the next trial (between). Beside it stands what a command takes before its first trial (imports,
Ray, artifacts) and after its last (the tracker, the report), and how long a worker waits at the end while the other is still
at its last. How far training and generation are from the machine's limit is measured by training.py and generation.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from posweep.cli import main; main()"]
SWEEP = ("sweep=demo", "executor.workers=2", "model.sft.steps=100", "method=[dpo,simpo]")
GRIDS = {"dpo": [0.03, 0.1, 0.3], "simpo": [1.0, 2.0, 3.0]}
"""Values of β: six trials, so three a worker; each as long as a trial of the demo sweep."""
SIZES = (64, 96, 128)
MEASURED = ("train", "generate", "kl", "judge", "measure")
CLOCKS = 0.01
"""Seconds by which two clocks may differ."""


@dataclass(frozen=True)
class Trial:
    """When a trial began and ended, and its seconds by stage."""

    began: float
    seconds: Mapping[str, float]

    @property
    def ended(self) -> float:
        """When its result was on disk."""
        return self.began + self.seconds["total"]


@dataclass(frozen=True)
class Ran:
    """A command: when it began and ended, and its trials by worker."""

    began: float
    ended: float
    workers: tuple[tuple[Trial, ...], ...]

    @property
    def trials(self) -> list[Trial]:
        """All of them."""
        return [trial for worker in self.workers for trial in worker]

    @property
    def before(self) -> float:
        """Seconds until the first trial began."""
        return min(trial.began for trial in self.trials) - self.began

    @property
    def after(self) -> float:
        """Seconds since the last trial ended."""
        return self.ended - max(trial.ended for trial in self.trials)

    @property
    def busy(self) -> float:
        """Seconds of all workers, from the start of the first to the end of the last trial of each."""
        return sum(worker[-1].ended - worker[0].began for worker in self.workers)

    @property
    def waiting(self) -> float:
        """Seconds that workers had no trial any more while another had."""
        last = max(trial.ended for trial in self.trials)
        return sum(last - worker[-1].ended for worker in self.workers)

    @property
    def whole(self) -> float:
        """Seconds that workers could have had, from the command's beginning to its end."""
        return len(self.workers) * (self.ended - self.began)

    def spent(self) -> dict[str, float]:
        """Seconds of all workers by what they were spent on; together they are `busy`."""
        stages = {name: sum(trial.seconds.get(name, 0.0) for trial in self.trials) for name in MEASURED}
        total = sum(trial.seconds["total"] for trial in self.trials)
        return {**stages, "rest": total - sum(stages.values()), "between": self.busy - total}


def main(sizes: Sequence[int]) -> None:
    """A command and a row a size."""
    print(f"{os.cpu_count()} cores; {' '.join(SWEEP)}\n")
    blocks = ", ".join(f"{{method: {name}, prior: custom, grid: {{beta: {betas}}}}}" for name, betas in GRIDS.items())
    shares = " | ".join(f"{name}, %" for name in (*MEASURED, "rest", "between"))
    print(
        f"| hidden size | s a trial | {shares} | overhead, % | of the command, % | before, s | after, s | waiting, s |"
    )
    print("|" + "---|" * 14)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            print(
                row(size, run(Path(folder), *SWEEP, f"sweep.blocks=[{blocks}]", f"model.hidden_size={size}")),
                flush=True,
            )


def row(size: int, ran: Ran) -> str:
    """Shares of the workers' time, and seconds around it.

    Overhead is what is none of the first four; `of the command` is the share of those four in all the time there was.
    """
    spent = {name: 100 * seconds / ran.busy for name, seconds in ran.spent().items()}
    wanted = sum(spent[name] for name in ("train", "generate", "kl", "judge"))
    of_all = wanted * ran.busy / ran.whole
    each = ran.busy / len(ran.trials)
    shares = " | ".join(f"{share:.1f}" for share in spent.values())
    around = f"{ran.before:.1f} | {ran.after:.1f} | {ran.waiting:.1f}"
    return f"| {size} | {each:.2f} | {shares} | {100 - wanted:.1f} | {of_all:.0f} | {around} |"


def run(folder: Path, *arguments: str) -> Ran:
    """A command in a folder, with one thread a process.

    Raises:
        SystemExit: it failed; with what it said.
    """
    began, environment = time.time(), {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    ended = time.time()
    if done.returncode:
        raise SystemExit(done.stderr)
    results = [json.loads(file.read_text()) for file in folder.glob("outputs/*/ledger/[!.]*.json")]
    return Ran(began, ended, by_worker([trial_of(result) for result in results]))


def trial_of(result: Mapping[str, Any]) -> Trial:
    """A result of the ledger."""
    return Trial(result["started_at"], result["seconds"])


def by_worker(trials: Sequence[Trial]) -> tuple[tuple[Trial, ...], ...]:
    """Trials by worker: each was run by the one that had ended last before it began."""
    workers: list[list[Trial]] = []
    for trial in sorted(trials, key=lambda trial: trial.began):
        free = [worker for worker in workers if worker[-1].ended <= trial.began + CLOCKS]
        if free:
            max(free, key=lambda worker: worker[-1].ended).append(trial)
        else:
            workers.append([trial])
    return tuple(map(tuple, workers))


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or SIZES)
