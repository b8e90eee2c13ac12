"""The same sweep by posweep and by loops around TRL, in turn, several times: `make bench`.

    python benchmarks/race/race.py [--trials N] [--turns K] [--against b1,b2,…] [--small] [--write PLACE]

Two workers of one thread each. Both sides get the SFT policy ready and make everything else themselves; posweep's report,
which nobody else writes, is timed apart. Prints tables in Markdown, and writes them into a place of RESULTS.md (`race`);
the seconds of every trial are in `outputs/race/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course import Course, lay_out
from peak import Watch
from table import OURS, put, tables

HERE, FOLDER = Path(__file__).parent, Path("outputs/race")
SETTINGS = {OURS: [], "unshared": ["train.prefix_sharing=false"]}
"""posweep as it comes, and where the prompt of a pair is computed for each response, as TRL does."""
OPPONENTS = ("b1", "b1_by_length", "b2", "b3")
SMALL = (
    "data.pairs=128", "data.sft_examples=512", "data.evaluation_prompts=16", "model.hidden_size=32", "model.layers=1",
    "model.heads=2", "model.sft.steps=40",
)  # fmt: skip
"""A race that shows only whether everything runs."""


def main(trials: int, turns: int, runners: Sequence[str], small: bool, place: str) -> None:
    """Run everything in turn, each second turn the other way round, and print what it came to."""
    folder = FOLDER.resolve()
    course = lay_out(folder / "course", trials, SMALL if small else ())
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
    for turn in range(turns):
        for name in runners if turn % 2 == 0 else reversed(runners):
            runs[name].append(run(course, name, folder / f"{turn}-{name}"))
            print(f"turn {turn + 1} of {turns}: {name} {runs[name][-1]['wall']:.1f} s", file=sys.stderr)
            (folder / "race.json").write_text(json.dumps(runs))
    print(tables(runs))
    if place:
        put(HERE.parent / "RESULTS.md", place, tables(runs))


def run(course: Course, name: str, folder: Path) -> dict[str, Any]:
    """One sweep as a command of its own, watched."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program, which = ("ours.py", SETTINGS[name]) if name in SETTINGS else ("theirs.py", [name])
    command = [sys.executable, str(HERE / program), str(course.folder), str(folder), *which]
    began = time.perf_counter()
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        with Watch(child.pid) as watch:
            code = child.wait()
    wall = time.perf_counter() - began
    if code:
        raise SystemExit(f"{name} ended with {code}:\n{(folder / 'log').read_text()[-4000:]}")
    return {**json.loads((folder / "result.json").read_text()), "wall": wall, "peaks": list(watch.peaks.values())}


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--trials", type=int, default=6)
    asked.add_argument("--turns", type=int, default=2)
    asked.add_argument("--against", default=",".join(OPPONENTS))
    asked.add_argument("--small", action="store_true")
    asked.add_argument("--write", default="")
    given = asked.parse_args()
    main(given.trials, given.turns, (OURS, *given.against.split(",")), given.small, given.write)
