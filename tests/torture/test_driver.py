"""A driver that is killed again and again: every trial finishes once, and none runs again after it had finished."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from posweep.config import configure
from posweep.ledger import Ledger
from posweep.plan import make_plan
from posweep.trackers.mlflow import MlflowTracker

from .stub import start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("driver")]

TRIALS, KILLS, SECONDS = 200, 20, 0.1


def test_a_driver_that_is_killed_twenty_times_loses_nothing_and_repeats_nothing(tmp_path: Path, figures) -> None:
    drawn, began = random.Random(0), time.monotonic()
    folder, starts = tmp_path / "outputs" / "smoke", tmp_path / "starts.jsonl"
    environment = stub_environment(seconds=SECONDS, starts=starts)
    killed, at = 0, Counter()
    while killed < KILLS:
        sweep = start(tmp_path, *trials(TRIALS), environment=environment)
        phase = drawn.choice(["anywhere", "trials", "trials", "trials"])
        before = count(starts)
        until = time.monotonic() + 300
        while phase == "trials" and count(starts) == before and sweep.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 6) if phase == "anywhere" else drawn.uniform(0, 0.5))
        at["while trials ran" if count(starts) > before else "before them"] += 1
        if sweep.poll() is not None:
            pytest.fail("\n".join(sweep.communicate()))
        sweep.kill()
        sweep.communicate()
        killed += 1
    last = start(tmp_path, *trials(TRIALS), environment=environment)
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert_each_finished_once(tmp_path, folder, starts)
    figures[f"driver killed {KILLS} times in a sweep of {TRIALS} trials"] = (
        f"each finished once, in ledger and MLflow; {count(starts)} starts, none after its trial had finished; "
        f"{', '.join(f'{n} {where}' for where, n in at.items())}; {time.monotonic() - began:.0f} s"
    )


def count(starts: Path) -> int:
    return starts.read_text().count("\n") if starts.is_file() else 0


def assert_each_finished_once(home: Path, folder: Path, starts: Path) -> None:
    plan = make_plan(configure(trials(TRIALS)))
    assert Ledger(folder).finished(plan).keys() == {spec.key for spec in plan}
    began = [json.loads(line) for line in starts.read_text().splitlines()]
    for spec in plan:
        finished = (folder / "ledger" / f"{spec.key}.json").stat().st_mtime
        late = [start for start in began if start["key"] == spec.key and start["at"] > finished]
        assert not late, f"{spec.key} started again after it had finished"
    tracker = MlflowTracker(f"sqlite:///{home / 'mlflow.db'}")
    record = tracker.read("smoke")
    assert record is not None
    assert record.results.keys() == {spec.key for spec in plan}
    runs = Counter(run.data.tags["key"] for run in tracker._children())
    assert runs == dict.fromkeys(record.results, 1)
    ours = {key: result.measures for key, result in Ledger(folder).finished(plan).items()}
    assert {key: result.measures for key, result in record.results.items()} == ours
