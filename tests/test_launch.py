"""A sweep from the command line to the report, on both executors: what issue after issue must not break."""

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from posweep.config import configure
from posweep.folder import read_opponents
from posweep.ledger import Ledger
from posweep.plan import make_plan
from posweep.trackers.mlflow import MlflowTracker

from .test_wheel import build_wheel, succeed
from .tiny import posweep as posweep_here

OVERRIDES = ["sweep=smoke", "tracking.uri=sqlite:///mlflow.db"]


def posweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user types it in a folder of their own."""
    command = [sys.executable, "-c", "from posweep.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def measures(folder: Path) -> dict[str, dict[str, float]]:
    """Every measure of every trial in a sweep's ledger."""
    plan = make_plan(configure(OVERRIDES))
    return {key: dict(r.measures) for key, r in Ledger(folder / "outputs" / "smoke").finished(plan).items()}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    ran = posweep(folder, *OVERRIDES, "executor=local")
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the built wheel; it sees this one's packages, but not its editable install of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n"
    )
    install = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment / "bin" / "python",
        "install",
        "--no-deps",
        "--quiet",
    )
    succeed(*install, build_wheel(folder), cwd=folder)
    return environment


@pytest.fixture(scope="module")
def on_ray(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep on Ray, as the installed command runs it in a folder of no importance."""
    folder = tmp_path_factory.mktemp("ray")
    ran = succeed(installed / "bin" / "posweep", *OVERRIDES, "executor=ray", cwd=folder)
    (folder / "stdout").write_text(ran.stdout)
    (folder / "stderr").write_text(ran.stderr)
    return folder


pytestmark = pytest.mark.xdist_group("launch")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The command in this process, in a folder, without the pictures of its report; what it printed."""

    def run(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        ran = posweep_here(*arguments)
        assert ran.code == 0, ran.err
        return ran.out

    return run


def test_both_executors_give_the_same_numbers_to_the_last_bit(local: Path, on_ray: Path) -> None:
    assert len(measures(local)) == 6
    assert json.dumps(measures(local), sort_keys=True) == json.dumps(measures(on_ray), sort_keys=True)


def test_the_wheel_runs_where_only_its_dependencies_are(installed: Path, on_ray: Path) -> None:
    """Configurations, sweeps and styles travel inside it."""
    where = succeed(installed / "bin" / "python", "-c", "import posweep; print(posweep.__file__)", cwd=on_ray)
    assert str(installed) in where.stdout
    assert "6/6 done" in (on_ray / "stdout").read_text()
    assert (on_ray / "outputs" / "smoke" / "report" / "report.html").stat().st_size > 10_000
    assert (on_ray / "mlflow.db").is_file()


def test_a_warm_cache_gives_the_numbers_of_a_cold_one(local: Path, tmp_path: Path, here: Callable[..., str]) -> None:
    warm = tmp_path / "warm"
    (warm / "outputs" / "smoke").mkdir(parents=True)
    (warm / "outputs" / "smoke" / "artifacts").symlink_to(local / "outputs" / "smoke" / "artifacts")
    printed = here(warm, *OVERRIDES, "executor=local", "tracking=none", "tracking.uri=")
    assert "making" not in printed
    assert json.dumps(measures(warm), sort_keys=True) == json.dumps(measures(local), sort_keys=True)


def test_the_chatter_of_ray_and_mlflow_stays_out(on_ray: Path) -> None:
    lines = [line for line in (on_ray / "stdout").read_text().splitlines() if line]
    assert lines[0].startswith("making the SFT policy")
    assert lines[-1].endswith("report.html")
    assert (on_ray / "stderr").read_text() == ""


def test_the_output_folder_holds_what_the_documentation_says(local: Path) -> None:
    folder = local / "outputs" / "smoke"
    assert {"plan.jsonl", "config.yaml", "ledger", "artifacts", "responses", "report"} <= {
        f.name for f in folder.iterdir()
    }
    assert len((folder / "plan.jsonl").read_text().splitlines()) == 6
    summary = json.loads((folder / "report" / "summary.json").read_text())
    assert summary["sweep"] == "smoke"
    assert summary["evaluation"] == "ood"
    assert {name: row["finished"] for name, row in summary["methods"].items()} == {"dpo": 2, "ln_dpo": 2, "simpo": 2}


def test_the_tracker_holds_what_responses_were_compared_with(local: Path) -> None:
    record = tracker_of(local).read("smoke")
    assert record is not None
    assert record.opponents == read_opponents(local / "outputs" / "smoke")
    assert {row.set for row in record.opponents} == {"iid", "ood", "ood_counts"}
    fresh = [win for row in record.opponents if row.set == "ood" for win in row.fresh_wins["vs_sft"]]
    assert sum(fresh) / len(fresh) == pytest.approx(record.baseline["ood/win_rate_vs_sft"])


def test_a_second_launch_has_nothing_to_do(local: Path, here: Callable[..., str]) -> None:
    before = {f.name: f.stat().st_mtime_ns for f in (local / "outputs" / "smoke" / "ledger").iterdir()}
    printed = here(local, *OVERRIDES, "executor=local")
    assert "Nothing is left to do: all 6 trials" in printed
    assert before == {f.name: f.stat().st_mtime_ns for f in (local / "outputs" / "smoke" / "ledger").iterdir()}


def test_only_what_is_missing_from_ledger_and_tracker_runs_again(local: Path, here: Callable[..., str]) -> None:
    ledger, tracker = local / "outputs" / "smoke" / "ledger", tracker_of(local)
    first, second = sorted(f.stem for f in ledger.iterdir())[:2]
    before = measures(local)
    (ledger / f"{first}.json").unlink()  # MLflow still has this one: it is fetched
    (ledger / f"{second}.json").unlink()
    tracker.read("smoke")
    tracker.client.delete_run(_run_of(tracker, second))
    printed = here(local, *OVERRIDES, "executor=local")
    assert [line for line in printed.splitlines() if "done" in line][-1].startswith("6/6 done")
    began = {key: json.loads((ledger / f"{key}.json").read_text())["started_at"] for key in before}
    assert max(began, key=began.__getitem__) == second
    assert sum(at > sorted(began.values())[-2] for at in began.values()) == 1
    assert json.dumps(measures(local), sort_keys=True) == json.dumps(before, sort_keys=True)


def test_status_and_plan_read_the_ledger_only(local: Path, here: Callable[..., str]) -> None:
    dead = "tracking.uri=http://127.0.0.1:9"
    assert "6 trials, 6 finished, 0 left" in here(local, "plan", "sweep=smoke", dead)
    status = here(local, "status", "sweep=smoke", dead)
    assert status.count("2         2        0       0         0     0") == 3


def test_a_trial_can_be_repeated_by_its_key(local: Path, here: Callable[..., str]) -> None:
    key = sorted(measures(local))[0]
    printed = here(local, "trial", "sweep=smoke", f"key={key[:8]}")
    assert "The ledger holds the same numbers for this trial." in printed


def test_the_report_needs_only_the_tracking_address(local: Path, tmp_path: Path, here: Callable[..., str]) -> None:
    here(tmp_path, "report", "sweep=smoke", f"tracking.uri=sqlite:///{local / 'mlflow.db'}")
    ours, theirs = (f / "outputs" / "smoke" / "report" / "summary.json" for f in (local, tmp_path))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_report_follows_the_plan_and_the_metric_of_the_last_launch(local: Path, here: Callable[..., str]) -> None:
    summary = local / "outputs" / "smoke" / "report" / "summary.json"
    here(local, *OVERRIDES, "executor=local", "method=[dpo]", "sweep.primary_metric=iid/kl_to_sft")
    narrowed = json.loads(summary.read_text())
    assert (list(narrowed["methods"]), narrowed["primary_metric"]) == (["dpo"], "iid/kl_to_sft")
    here(local, *OVERRIDES, "executor=local")
    whole = json.loads(summary.read_text())
    assert (list(whole["methods"]), whole["primary_metric"]) == (["dpo", "ln_dpo", "simpo"], "ood/win_rate_vs_sft")


def tracker_of(folder: Path, name: str = "") -> MlflowTracker:
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")
    if name:
        tracker.read(name)
    return tracker


def _run_of(tracker: MlflowTracker, key: str) -> str:
    return next(run.info.run_id for run in tracker._children(f"tags.key = '{key}'"))
