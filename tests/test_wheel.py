"""The built wheel: `test_launch.py` runs it beside this environment's packages, this file with nothing but its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def succeed(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, without this environment's own settings for Python."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "PYTEST_"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    offline = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    succeed(sys.executable, "-m", "pip", "wheel", ROOT, *offline, "--wheel-dir", folder, cwd=folder)
    return next(folder.glob("posweep-*.whl"))


@pytest.mark.torture
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    """Nothing is there but Python and pip; every dependency is installed as the wheel asks for it."""
    environment, folder = tmp_path / "environment", tmp_path / "anywhere"
    venv.create(environment, with_pip=True)
    pip = (environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    succeed(*pip, "-c", ROOT / "constraints.txt", build_wheel(tmp_path), cwd=tmp_path)
    folder.mkdir()
    ran = succeed(environment / "bin" / "posweep", "sweep=smoke", cwd=folder)
    assert "6/6 done" in ran.stdout
    assert (folder / "outputs" / "smoke" / "report" / "report.html").stat().st_size > 10_000
