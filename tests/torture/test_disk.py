"""Disks that are full or may not be written, files that were cut short: a sentence or a clean repeat, nothing else lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .stub import COMMAND, start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("torture-disk")]
LOCAL = ["executor=local", "tracking=none"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no file system of its own can be made here: that takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def ran(folder: Path, *arguments: str, environment: dict[str, str]) -> tuple[int, str, str]:
    sweep = start(folder, *arguments, environment=environment)
    out, err = sweep.communicate(timeout=300)
    return sweep.returncode, out, err


def results(outputs: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in (outputs / "smoke" / "ledger").glob("*.json")}


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_full_disk_stops_the_sweep_with_a_sentence_and_costs_nothing_that_was_finished(
    executor: str, small_disk: Path, tmp_path: Path, figures
) -> None:
    arguments = [*trials(200), f"executor={executor}", "tracking=none", f"output_dir={small_disk}"]
    environment = stub_environment(seconds=0.01)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 7_900_000)
    code, _, err = ran(tmp_path, *arguments, environment=environment)
    before = results(small_disk)
    assert "Traceback" not in err
    assert f"output_dir: {small_disk / 'smoke'} takes no more files (" in err
    assert code == 3
    assert 0 < len(before) < 200
    assert all(json.loads(content)["status"] == "finished" for content in before.values())
    filler.unlink()
    code, _, err = ran(tmp_path, *arguments, environment=environment)
    assert code == 0, err
    after = results(small_disk)
    assert len(after) == 200
    assert {key: after[key] for key in before} == before
    figures[f"full disk, {executor}: finished before, lost, run twice"] = f"{len(before)} of 200, 0, 0"


def test_a_folder_that_may_not_be_written_is_said_before_anything_starts(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, out, err = ran(tmp_path, *trials(2), *LOCAL, f"output_dir={small_disk}", environment=stub_environment())
    assert code == 2
    assert out == ""
    assert err == f"output_dir: {small_disk} is no folder that can be written; set output_dir to one.\n"


def smoke(folder: Path) -> subprocess.CompletedProcess[str]:
    """Real trials on real artifacts."""
    return subprocess.run(
        [*COMMAND, "sweep=smoke", "method=[dpo]", *LOCAL], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_what_was_cut_short_is_made_again_and_everything_else_stays(tmp_path: Path, figures) -> None:
    """Half a result, half its rows, half of an artifact, one file of another: the same numbers as before."""
    assert smoke(tmp_path).returncode == 0
    sweep = tmp_path / "outputs" / "smoke"
    measures = {file.stem: json.loads(file.read_text())["measures"] for file in (sweep / "ledger").glob("*.json")}
    one, other = sorted(measures)
    whole = (sweep / "ledger" / f"{one}.json").read_bytes()
    (sweep / "ledger" / f"{other}.json").write_bytes((sweep / "ledger" / f"{other}.json").read_bytes()[:100])
    sft = next((sweep / "artifacts" / "sft").glob("*/*.safetensors"))
    sft.write_bytes(sft.read_bytes()[:1000])
    next((sweep / "artifacts" / "baselines").glob("*/responses.json")).unlink()
    again = smoke(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "making the SFT policy …" in again.stdout
    assert (sweep / "ledger" / f"{one}.json").read_bytes() == whole
    now = {file.stem: json.loads(file.read_text())["measures"] for file in (sweep / "ledger").glob("*.json")}
    assert json.dumps(now, sort_keys=True) == json.dumps(measures, sort_keys=True)
    figures["half a result, half an artifact: trials repeated, numbers changed"] = "1 of 2, 0"
