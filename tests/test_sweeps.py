"""The long sweeps of the documentation, run as it says: a third of an hour, with make torture."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posweep.objectives import OBJECTIVES
from posweep.report.table import title

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.torture


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sweep(name: str, folder: Path) -> dict:
    """Launch a sweep as a user does; its summary."""
    printed = run("-c", "from posweep.cli import main; main()", f"sweep={name}", cwd=folder)
    assert re.search(r"Open .*report\.html", printed)
    return json.loads((folder / "outputs" / name / "report" / "summary.json").read_text())["methods"]


def test_every_method_runs_over_its_grid_and_stands_in_the_report(tmp_path):
    found = sweep("methods", tmp_path)
    assert set(found) == set(OBJECTIVES)
    assert {(row["trials"], row["failed"], row["finished"] + row["diverged"]) for row in found.values()} == {
        (12, 0, 12)
    }
    page = (tmp_path / "outputs/methods/report/report.html").read_text(encoding="utf-8")
    assert all(title(name) in page for name in OBJECTIVES)


def test_the_cube_runs_and_its_page_is_written(tmp_path):
    found = sweep("cube", tmp_path)
    assert {(row["trials"], row["finished"]) for row in found.values()} == {(18, 18)}
    page = tmp_path / "cube.md"
    run(ROOT / "docs" / "cube.py", "outputs/cube", page, cwd=tmp_path)
    assert page.read_text(encoding="utf-8").count("| reference | ") == 4
