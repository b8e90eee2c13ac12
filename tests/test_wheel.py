"""The built wheel runs away from the checkout: configurations, sweeps and styles travel inside it."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, without this environment's own settings for Python."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "PYTEST_"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    offline = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", ROOT, *offline, "--wheel-dir", folder, cwd=folder)
    return next(folder.glob("posweep-*.whl"))


def runs_the_smoke_sweep(environment: Path, folder: Path) -> None:
    """The installed command, in a folder of no importance, from sweep to report."""
    folder.mkdir()
    where = run(environment / "bin" / "python", "-c", "import posweep; print(posweep.__file__)", cwd=folder)
    assert str(environment) in where.stdout
    ran = run(environment / "bin" / "posweep", "sweep=smoke", cwd=folder)
    assert "6/6 done" in ran.stdout
    assert (folder / "outputs" / "smoke" / "report" / "report.html").stat().st_size > 10_000
    assert (folder / "mlflow.db").is_file()


@pytest.mark.xdist_group("launch")
def test_the_wheel_runs_where_only_its_dependencies_are(tmp_path: Path) -> None:
    """An environment that sees this one's packages but not its editable install of the checkout."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    run(environment / "bin" / "python", "-m", "pip", "install", "--no-deps", "--quiet", build(tmp_path), cwd=tmp_path)
    runs_the_smoke_sweep(environment, tmp_path / "anywhere")


@pytest.mark.torture
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    """Nothing is there but Python and pip; every dependency is installed as the wheel asks for it."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    pip = (environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", build(tmp_path), cwd=tmp_path)
    runs_the_smoke_sweep(environment, tmp_path / "anywhere")
