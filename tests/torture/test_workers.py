"""Workers that are killed at random: every trial finishes, and goes on from its last checkpoint."""

import json
import time
from pathlib import Path

import pytest

from posweep.config import configure
from posweep.ledger import Ledger
from posweep.plan import make_plan

from .stub import start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("workers")]

EVERY = 20
"""Steps between checkpoints."""


def test_all_trials_finish_although_one_in_ten_kills_its_worker(tmp_path: Path, figures) -> None:
    starts, began = tmp_path / "starts.jsonl", time.monotonic()
    environment = stub_environment(seconds=0.05, die=0.1, starts=starts)
    sweep = start(tmp_path, *trials(100), "executor.retries=9", environment=environment)
    said, wrong = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, wrong
    plan = make_plan(configure(trials(100)))
    assert len(Ledger(tmp_path / "outputs" / "smoke").finished(plan)) == 100
    lost = starts.read_text().count("\n") - 100
    assert lost > 0
    assert "lost" in said
    figures["workers killed at random (p = 0.1 a trial) in a sweep of 100 trials"] = (
        f"all finished, {lost} workers lost, {time.monotonic() - began:.0f} s"
    )


def test_trials_go_on_from_their_last_checkpoint(tmp_path: Path, figures) -> None:
    arguments = [*trials(6), "train.epochs=20", f"train.checkpoint_steps={EVERY}", "executor.retries=20"]
    plan = make_plan(configure(arguments))
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    (tmp_path / "artifacts").mkdir()
    for folder, executor, chance in ((calm, "local", 0.0), (wild, "ray", 0.8)):
        (folder / "outputs" / "smoke").mkdir(parents=True)
        (folder / "outputs" / "smoke" / "artifacts").symlink_to(tmp_path / "artifacts")
        environment = stub_environment(real=True, die=chance)
        sweep = start(folder, *arguments, f"executor={executor}", "tracking=none", environment=environment)
        _, wrong = sweep.communicate(timeout=900)
        assert sweep.returncode == 0, wrong
    results, expected = (Ledger(folder / "outputs" / "smoke").finished(plan) for folder in (wild, calm))
    resumed = [result.notes["resumed_at"] for result in results.values() if "resumed_at" in result.notes]
    assert resumed
    assert all(step % EVERY == 0 for step in resumed)
    assert numbers(results) == numbers(expected)
    figures["real trials whose worker was killed half-way"] = (
        f"{len(resumed)} of {len(plan)} went on from a checkpoint, to the same numbers as in one piece"
    )


def numbers(results) -> str:
    """Measures and curves as text, to the last bit."""
    return json.dumps({key: [dict(r.measures), dict(r.curves)] for key, r in results.items()}, sort_keys=True)
