"""Plans of ten thousand trials: the same bytes everywhere, and soon enough."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posweep.folder import folder_of
from posweep.identity import identity_of, write_plan
from posweep.ledger import Ledger
from posweep.plan import Plan, make_plan

from ..tiny import configured, posweep

pytestmark = [pytest.mark.torture, pytest.mark.xdist_group("torture-plan")]
TRIALS = 10_000
BLOCKS = [
    {"method": "dpo", "grid": {"beta": [i / 100 for i in range(1, 41)], "learning_rate": [i * 1e-6 for i in range(1, 101)]}},
    {"method": "simpo", "grid": {"beta": [i / 10 for i in range(10, 30)], "gamma": [i / 10 for i in range(1, 11)],
                                 "learning_rate": [i * 1e-6 for i in range(1, 21)]}},
    {"method": "ln_dpo", "list": [{"beta": i / 10, "epochs": 1 + i % 3} for i in range(1, 1001)]},
    {"method": "kto", "random": {"points": 1000, "space": {"beta": {"low": 0.01, "high": 1.0, "log": True}}}},
]  # fmt: skip
"""4,000 + 4,000 + 1,000 + 1,000 trials, of every kind of block that is quick to draw."""

PRINT_PLAN = """
import dataclasses, json, random, sys
from omegaconf import OmegaConf
from posweep.checks import checked
from posweep.config import dump
from posweep.plan import make_plan

def shuffled(node, rng):
    if isinstance(node, dict):
        return {name: shuffled(node[name], rng) for name in rng.sample(list(node), len(node))}
    return [shuffled(item, rng) for item in node] if isinstance(node, list) else node

given = json.load(sys.stdin)
composed = OmegaConf.to_container(OmegaConf.create(dump(["sweep=smoke", "method=[dpo,ln_dpo,simpo,kto]"])))
composed["sweep"]["blocks"] = given["blocks"]
order = given["order"]
if order is not None:
    kept = {name: composed.pop(name) for name in ("method", "sweep")}
    composed = {**shuffled(composed, random.Random(order)), **kept}
problems = []
plan = make_plan(checked(composed, "sweeps/smoke.yaml", problems))
assert not problems, problems
sys.stdout.write(plan.to_jsonl())
"""


def in_a_process(hash_seed: int, order: int | None) -> str:
    """The plan, in a process with its own hash seed and with the keys of all settings in another order."""
    return subprocess.run(
        [sys.executable, "-c", PRINT_PLAN], input=json.dumps({"blocks": BLOCKS, "order": order}), capture_output=True,
        check=True, encoding="utf-8", timeout=120, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
    ).stdout  # fmt: skip


def test_ten_thousand_trials_are_the_same_bytes_in_every_process(figures: Any) -> None:
    plans = [in_a_process(hash_seed, order) for hash_seed, order in ((0, None), (1, 1), (4294967295, 2))]
    assert len(plans[0].splitlines()) == TRIALS
    assert plans[1] == plans[0]
    assert plans[2] == plans[0]
    figures["plans of 10,000 trials under three hash seeds and key orders"] = "the same bytes"


def test_ten_thousand_trials_are_planned_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Any) -> None:
    monkeypatch.chdir(tmp_path)
    grid = "grid:{beta:[" + ",".join(str(i / 100) for i in range(1, 101)) + "],learning_rate:["
    grid += ",".join(f"{i}e-6" for i in range(1, 101)) + "]}"
    arguments = [
        "sweep=smoke",
        "method=[dpo]",
        f"sweep.blocks=[{{method:dpo,{grid}}}]",
        "executor=local",
        "tracking=none",
    ]
    configuration = configured(arguments)
    plan = timed(figures, "planning 10,000 trials", lambda: make_plan(configuration))
    text = timed(figures, "writing that plan as JSON lines", plan.to_jsonl)
    assert timed(figures, "reading it", lambda: Plan.from_jsonl("smoke", text)) == plan
    write_plan(folder_of(configuration), plan, identity_of(configuration))
    results(folder_of(configuration), plan)
    ledger = Ledger(folder_of(configuration))
    assert len(timed(figures, "reading 10,000 results of 64 numbers each", lambda: ledger.finished(plan))) == TRIALS
    ran = timed(figures, "posweep plan, 10,000 trials with results", lambda: posweep("plan", *arguments))
    assert f"{TRIALS} trials, {TRIALS} finished, 0 left" in ran.out
    changed = timed(figures, "the same with a setting changed", lambda: posweep("plan", *arguments, "train.epochs=2"))
    assert (
        f"changes the key of {TRIALS} trials: they will be trained again ({TRIALS} of them had finished)" in changed.out
    )


def results(folder: Path, plan: Plan) -> None:
    """As a worker writes them, without waiting for the disk."""
    (folder / "ledger").mkdir(parents=True)
    measures = {f"ood/measure_{i}": i / 7 for i in range(64)}
    for spec in plan:
        keys = {"key": spec.key, "response_key": spec.response_key, "score_key": spec.score_key}
        result = {**keys, "status": "finished", "measures": measures, "seconds": {"total": 1.0}}
        (folder / "ledger" / f"{spec.key}.json").write_text(json.dumps(result))


def timed(figures: Any, what: str, call: Any) -> Any:
    began = time.perf_counter()
    found = call()
    figures[what] = f"{time.perf_counter() - began:.2f} s"
    return found
