"""Two Ray nodes on one machine that share nothing but a storage: one is killed, another joins, and all trials finish."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from .cluster import can_hide, cluster
from .stub import start, stub_environment, trials

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("cluster")]
TRIALS, SECONDS = 40, 2.0


@pytest.fixture
def short(tmp_path_factory) -> Path:
    """A folder with a short name: Ray's sockets may have 107 letters."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="posweep-") as folder:
        yield Path(folder)


def test_a_node_dies_another_joins_and_every_trial_finishes_once(short: Path, figures: dict[str, str]) -> None:
    starts, storage, home = short / "starts.jsonl", short / "storage", short / "driver"
    (home / "tmp").mkdir(parents=True)
    with cluster(short, stub_environment(seconds=SECONDS, starts=starts)) as nodes:
        alone = home if can_hide() else None  # nodes find nothing that the driver has, its temporary files included
        nodes.add("a", hidden=alone)
        nodes.add("b", hidden=alone)
        arguments = [*trials(TRIALS), f"executor.address={nodes.address}", f"executor.storage={storage.as_uri()}"]
        began = time.monotonic()
        sweep = start(home, *arguments, "tracking=none", environment={**nodes.environment, "TMPDIR": str(home / "tmp")})
        _wait(lambda: len(_started(starts, "b")) >= 4, 120, sweep)
        nodes.kill("b")
        nodes.add("c", hidden=alone)
        out, err = sweep.communicate(timeout=300)
        took = time.monotonic() - began
    assert sweep.returncode == 0, err + out
    ledger = {file.stem for file in (home / "outputs" / "smoke" / "ledger").glob("*.json")}
    assert len(ledger) == TRIALS
    assert ledger == {file.stem for file in (storage / "smoke" / "ledger").glob("*.json")}
    counts = Counter(row["node"] for row in _rows(starts))
    assert set(counts) == {"a", "b", "c"}
    again = sum(counts.values()) - TRIALS
    assert 0 <= again <= 2  # what the node that died was at, and what it had been given
    figures["two nodes, one killed, one added: trials per node"] = ", ".join(f"{n} {counts[n]}" for n in sorted(counts))
    figures["two nodes, one killed, one added: trials run again"] = f"{again} of {TRIALS}"
    figures["two nodes, one killed, one added: in all"] = f"{took:.0f} s"


def _rows(starts: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in starts.read_text().splitlines()] if starts.is_file() else []


def _started(starts: Path, node: str) -> list[dict[str, str]]:
    return [row for row in _rows(starts) if row["node"] == node]


def _wait(there, seconds: float, sweep) -> None:
    until = time.monotonic() + seconds
    while not there():
        if sweep.poll() is not None:
            pytest.fail("it ended before that:\n" + "\n".join(text[-3000:] for text in sweep.communicate()))
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
