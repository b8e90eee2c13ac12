"""A thousand trials that do next to nothing, through the real executor, ledger and tracker."""

import sqlite3
import sys
from collections.abc import MutableMapping
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from scale import MB, sampled

pytestmark = pytest.mark.torture

TRIALS = 1000
GROWTH = 0.1
"""MB a trial that the driver may grow by."""


def test_a_thousand_trials(tmp_path: Path, figures: MutableMapping[str, str]) -> None:
    found = sampled("with ledger and tracker", TRIALS, tmp_path)
    keys = {file.stem for file in (tmp_path / "outputs" / "smoke" / "ledger").glob("[!.]*.json")}
    assert len(keys) == TRIALS
    assert (tmp_path / "starts.jsonl").read_bytes().count(b"\n") == TRIALS
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        runs = "select tags.value, runs.status from runs join tags using (run_uuid) where tags.key = 'key'"
        assert sorted(store.execute(runs)) == sorted((key, "FINISHED") for key in keys)
        (measured,) = store.execute("select count(*) from latest_metrics where key like 'ood/%'").fetchone()
        assert measured == 32 * TRIALS
    assert found.growth < GROWTH * MB
    figures[f"{TRIALS} trials that do nothing"] = f"{(found.seconds - found.first) / TRIALS * 1e3:.1f} ms a trial"
    figures[f"{TRIALS} trials that do nothing, the driver"] = (
        f"{found.peak / MB:.0f} MB at most, {found.growth / MB:.3f} MB more a trial"
    )
