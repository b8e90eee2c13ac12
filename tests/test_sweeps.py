"""The long sweeps of the documentation: shortened with make torture, as it says with make test-sweeps."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from posweep.objectives import OBJECTIVES
from posweep.report.tables import title

from .judges.endpoint import Endpoint, longer

ROOT = Path(__file__).parents[1]

SHORT = ("train.epochs=0.25", "evaluation.prompts=32")
"""What shortens a trial to a fifth; its structure is that of the whole."""
AS_DOCUMENTED = pytest.mark.parametrize(
    "settings",
    [pytest.param(SHORT, marks=pytest.mark.torture, id="short"), pytest.param((), marks=pytest.mark.whole, id="whole")],
)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sweep(name: str, folder: Path, settings: tuple[str, ...]) -> dict:
    """Launch a sweep as a user does; its summary."""
    printed = run("-c", "from posweep.cli import main; main()", f"sweep={name}", *settings, cwd=folder)
    assert re.search(r"Open .*report\.html", printed)
    return json.loads((folder / "outputs" / name / "report" / "summary.json").read_text())["methods"]


@AS_DOCUMENTED
def test_every_method_runs_over_its_grid_and_stands_in_the_report(tmp_path, settings):
    found = sweep("methods", tmp_path, settings)
    assert set(found) == set(OBJECTIVES)
    assert {(row["trials"], row["failed"], row["finished"] + row["diverged"]) for row in found.values()} == {
        (12, 0, 12)
    }
    page = (tmp_path / "outputs/methods/report/report.html").read_text(encoding="utf-8")
    assert all(title(name) in page for name in OBJECTIVES)


@AS_DOCUMENTED
def test_the_cube_runs_and_its_page_is_written(tmp_path, settings):
    found = sweep("cube", tmp_path, settings)
    assert {(row["trials"], row["finished"]) for row in found.values()} == {(18, 18)}
    page = tmp_path / "cube.md"
    run(ROOT / "docs" / "cube.py", "outputs/cube", page, cwd=tmp_path)
    assert page.read_text(encoding="utf-8").count("| reference | ") == 4


def world_as_files(folder: Path) -> Path:
    """The demo world's pairs as a user's own files."""
    from posweep.data import load
    from posweep.settings import DemoData

    loaded = load(DemoData(pairs=1500, evaluation_prompts=64))
    folder.mkdir()
    for name, pairs in {
        "train": loaded.train,
        "iid": loaded.evaluation["iid"],
        "ood": loaded.evaluation["ood"],
    }.items():
        rows = (json.dumps({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}) for p in pairs)
        (folder / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder


@pytest.mark.whole
def test_alpaca_small_under_a_reward_model_of_a_folder_and_under_an_endpoint(tmp_path):
    """Its own judge, saved to a folder, gives under judge=[reward_model] the results it gave as bradley_terry."""
    posweep = ("-c", "from posweep.cli import main; main()")
    settings = ("sweep=alpaca_small", f"data.path={world_as_files(tmp_path / 'pairs')}", "evaluation.prompts=48")
    run(*posweep, *settings, cwd=tmp_path)
    outputs = tmp_path / "outputs"
    [trained] = [f for f in (outputs / "alpaca_small" / "artifacts" / "judge").iterdir() if f.is_dir()]
    named = ("judge.reward_model.name=judge", "judge.reward_model.dtype=float32")
    shutil.copytree(trained, tmp_path / "judge")
    run(*posweep, *settings, "sweep.name=rm", "judge=[reward_model]", *named, cwd=tmp_path)
    one, other = (measures(outputs / name) for name in ("alpaca_small", "rm"))
    assert len(one) == 12
    for key, values in one.items():
        assert other[key]["ood/mean_score"] == pytest.approx(values["ood/mean_score"], abs=1e-4)
        assert other[key]["ood/win_rate_vs_sft"] == pytest.approx(values["ood/win_rate_vs_sft"], abs=0.02)
    with Endpoint(longer) as endpoint:
        asked = ("judge=[llm]", f"judge.llm.base_url={endpoint.url}", "judge.llm.model=judge")
        run(*posweep, *settings, "sweep.name=llm", "method=[dpo]", *asked, cwd=tmp_path)
    found = measures(outputs / "llm")
    assert len(found) == 6
    assert len(endpoint.judged) > 6 * 2 * 48
    for key, values in found.items():
        assert "ood/mean_score" not in values
        assert values["ood/response_length"] == one[key]["ood/response_length"]  # the same policies, other judges


def measures(folder: Path) -> dict[str, dict[str, float]]:
    return {file.stem: json.loads(file.read_text())["measures"] for file in (folder / "ledger").glob("*.json")}
