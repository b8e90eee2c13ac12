"""What posweep itself takes of a trial: sweeps of trials that do next to nothing, through executor, ledger and tracker.

    python benchmarks/scale.py [TRIALS] [tracker]

A trial measures 32 numbers; it has no curves and no rows. The executor alone gets the keys and nobody hears what became of
them; then whole commands, first with `tracking=none`, then with a sqlite store. Prints seconds until the first trial starts,
milliseconds a trial from there until the command has ended, the same of the whole command, the driver's processor time from
there on, which other programs do not move, and its memory. With `tracker` the last of the three alone.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "torture"))

from stub import start, stub_environment, trials

MB = 1e6
ALONE = """
import sys
from pathlib import Path
from posweep.config import configure
from posweep.executors import Work, open_executor
from posweep.plan import make_plan
configuration = configure(sys.argv[1:])
plan, executor, folder = make_plan(configuration), open_executor(configuration.executor), Path("alone").absolute()
folder.mkdir()
executor.open(configuration, folder, print)
executor.run(Work(configuration, folder, {spec.key: spec for spec in plan}), [spec.key for spec in plan], lambda _: None)
executor.close()
"""
"""The executor without a launch around it."""
PARTS = ("executor alone", "with ledger", "with ledger and tracker")


@dataclass
class Sampled:
    """A command while it ran: seconds since it began, bytes of its process, trials started, seconds that it computed."""

    seconds: float = 0.0
    rows: list[tuple[float, int, int, float]] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds until the first trial started."""
        return next((second for second, _, begun, _ in self.rows if begun), self.seconds)

    @property
    def computed(self) -> float:
        """Seconds of the driver's processor time since then."""
        return self.rows[-1][3] - next((spent for _, _, begun, spent in self.rows if begun), 0.0)

    @property
    def growth(self) -> float:
        """Bytes a trial, between the start of a fifth of the trials and of the last."""
        begun = max(row[2] for row in self.rows)
        middle = [row for row in self.rows if row[2] >= begun / 5]
        last = next(row for row in middle if row[2] == begun)
        return (last[1] - middle[0][1]) / max(last[2] - middle[0][2], 1)

    @property
    def peak(self) -> int:
        """Most bytes at a time."""
        return max(row[1] for row in self.rows)


def main(n: int, word: str = "") -> None:
    """Run those whose name holds a word, and print a row each."""
    print(machine())
    print(
        "| | until the first trial, s | ms a trial | ms a trial, whole command | driver's processor, ms a trial | "
        "driver's peak, MB | growth, MB a trial |"
    )
    print("|---|---|---|---|---|---|---|")
    for part in (part for part in PARTS if word in part):
        with tempfile.TemporaryDirectory() as folder:
            found = sampled(part, n, Path(folder))
        each, whole = (found.seconds - found.first) / n * 1e3, found.seconds / n * 1e3
        whole_and_computed = f"{whole:.1f} | {found.computed / n * 1e3:.1f}"
        memory = f"{found.peak / MB:.0f} | {found.growth / MB:.3f}"
        print(f"| {part} | {found.first:.1f} | {each:.1f} | {whole_and_computed} | {memory} |", flush=True)


def sampled(part: str, n: int, folder: Path) -> Sampled:
    """One of the three, watched until it ends."""
    starts, found, began = folder / "starts.jsonl", Sampled(), time.monotonic()
    process = begin(part, n, folder, starts)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        begun = starts.read_bytes().count(b"\n") if starts.exists() else 0
        with suppress(psutil.NoSuchProcess):  # it has just ended
            times = watched.cpu_times()
            row = (time.monotonic() - began, watched.memory_info().rss, begun, times.user + times.system)
            found.rows.append(row)
        time.sleep(0.2)
    found.seconds = time.monotonic() - began
    if process.returncode:
        sys.exit(process.communicate()[1])
    return found


def begin(part: str, n: int, folder: Path, starts: Path) -> subprocess.Popen[str]:
    """Start it."""
    arguments = [*trials(n), "executor=ray"]
    environment = stub_environment(seconds=0.0, starts=starts)
    if part != "executor alone":
        return start(folder, *arguments, *(["tracking=none"] if part == "with ledger" else []), environment=environment)
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, *arguments], cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment, "POSWEEP_STUB_LEDGER": "none"},
    )  # fmt: skip


def machine() -> str:
    """What it ran on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "mlflow"))
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}\n"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, *sys.argv[2:])
