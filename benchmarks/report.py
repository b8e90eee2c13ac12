"""How long a report takes, and how much memory: `posweep report` on made-up sweeps, as a whole process.

    python benchmarks/report.py            1,000 trials × 500 prompts, and 10,000 trials with metrics only

Trials are written through the real tracker into a sqlite store in a temporary folder, then read and reported as a user
would. Prints a row per sweep: seconds of the whole command, peak memory of its largest process, bytes of the page.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from posweep.fields import fingerprint
from posweep.objectives import OBJECTIVES
from posweep.records import Opponents, Outcome, Response, SweepHeader, TrialResult, TrialSpec
from posweep.trackers.mlflow import MlflowTracker

METHODS = {"dpo": "beta", "ln_dpo": "beta", "simpo": "gamma", "ipo": "tau", "kto": "beta"}
RATES = (1e-4, 2e-4, 4e-4, 8e-4)
SEEDS = range(5)
SENTENCE = "name three fish and two birds cod eel wren owl please of each kind here they are thank you"
WORDS = np.array(SENTENCE.split(" "))
OPPONENTS = 4


def plan(trials: int) -> list[TrialSpec]:
    """Five methods over a grid of a hyperparameter and learning rates, five seeds."""
    values = np.geomspace(0.01, 1, trials // (len(METHODS) * len(RATES) * len(SEEDS))).round(5).tolist()
    return [
        _spec(method, name, value, rate, seed)
        for (method, name), value, rate, seed in itertools.product(METHODS.items(), values, RATES, SEEDS)
    ]


def _spec(method: str, name: str, value: float, rate: float, seed: int) -> TrialSpec:
    own = {**vars(OBJECTIVES[method]()), name: value}
    train = {"learning_rate": rate, "epochs": 1.0, "batch_size": 32}
    configuration = fingerprint([method, own, train])
    key = fingerprint([configuration, seed])
    varied = (name, "learning_rate")
    return TrialSpec(key, key, key, configuration, method, own, train, seed, varied, prior="custom")


def outcome(spec: TrialSpec, prompts: int, rng: np.random.Generator) -> Outcome:
    """Measures of a trial that wins more the further it goes, up to a point; rows where there are prompts."""
    kl = float(np.exp(rng.normal(np.log(spec.train["learning_rate"] * 5e3), 0.3)))
    win = 0.5 + 0.15 * np.tanh(kl / 3) - 0.02 * max(kl - 5, 0)
    rows = tuple(_row(i, win, kl, rng) for i in range(prompts))
    measures = {}
    for place in ("iid", "ood"):
        drawn = np.mean([row.wins["vs_sft"] for row in rows]) if rows else rng.normal(win, 0.02)
        found = {"win_rate_vs_sft": drawn, "win_rate_vs_chosen": drawn / 2, "mean_score": drawn, "kl_to_sft": kl}
        found |= {"kl_to_sft_per_token": kl / 40, "response_length": 40 + kl, "truncated": 0.01, "distinct": 0.97}
        measures |= {f"{place}/{name}": float(value) for name, value in found.items()}
        measures |= {f"{place}/{name}_se": 0.015 for name in ("win_rate_vs_sft", "kl_to_sft", "response_length")}
    seconds = {"train": 4.0, "generate": 0.6, "kl": 0.2, "judge": 0.1, "measure": 0.1, "total": 5.1}
    return Outcome(TrialResult(spec.key, spec.key, spec.key, "finished", measures, seconds=seconds), rows)


def _row(index: int, win: float, kl: float, rng: np.random.Generator) -> Response:
    won, length = rng.binomial(OPPONENTS, np.clip(win, 0, 1)) / OPPONENTS, int(rng.poisson(40 + kl)) + 1
    text = " ".join(WORDS[rng.integers(len(WORDS), size=length)])
    scores = {"gold": float(rng.normal(win)), "proxy": float(rng.normal(win))}
    wins = {"vs_sft": won, "vs_chosen": won / 2, "proxy/vs_sft": won, "proxy/vs_chosen": won / 2}
    return Response("ood", index, f"prompt {index}: " + text[:60], text, length, False, kl, length, scores, wins)


def opponents(prompts: int, rng: np.random.Generator) -> list[Opponents]:
    """Four responses of the SFT model, four fresh ones and a chosen one per prompt."""
    drawn = [[_row(i, 0.5, 0.0, rng) for _ in range(9)] for i in range(prompts)]
    return [
        Opponents(
            "ood", i, rows[0].prompt, rows[0].text, rows[0].length,
            tuple(r.text for r in rows[1:5]), tuple(r.length for r in rows[1:5]),
            tuple(r.text for r in rows[5:]), tuple(r.length for r in rows[5:]),
            {"gold": {"chosen": [1.0], "sft": [r.scores["gold"] for r in rows[1:5]],
                      "fresh": [r.scores["gold"] for r in rows[5:]]}},
            {"vs_sft": [r.wins["vs_sft"] for r in rows[5:]]},
        )
        for i, rows in enumerate(drawn)
    ]  # fmt: skip


def record(folder: Path, name: str, trials: int, prompts: int) -> None:
    """Write a made-up sweep through the tracker."""
    rng, tracker, specs = np.random.default_rng(0), MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}"), plan(trials)
    tracker.open(name, specs)
    for spec in specs:
        tracker.write(spec, outcome(spec, prompts, rng))
    baseline = {f"{place}/win_rate_vs_sft": 0.5 for place in ("iid", "ood")} | {"ood/response_length": 40.0}
    (folder / "opponents.json").write_text(json.dumps([o.to_json() for o in opponents(prompts, rng)]))
    header = SweepHeader(name, "ood/win_rate_vs_sft", baseline, {"judges": "gold, proxy", "gpus a trial": 1})
    tracker.describe(header, [folder / "opponents.json"] if prompts else [])
    tracker.close("finished")


def measure(folder: Path, name: str) -> tuple[float, float, int]:
    """Seconds, GB and bytes of the page of `posweep report`."""
    command = [
        sys.executable,
        "-c",
        "from posweep.cli import main; main()",
        "report",
        "sweep=smoke",
        f"sweep.name={name}",
    ]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return seconds, memory, (folder / "outputs" / name / "report" / "report.html").stat().st_size


def main() -> None:
    """Both sweeps, a row each."""
    print("| trials | prompts | seconds | peak memory, GB | page, MB |\n|---|---|---|---|---|")
    for trials, prompts in ((1_000, 500), (10_000, 0)):
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder), "made_up", trials, prompts)
            seconds, memory, size = measure(Path(folder), "made_up")
            print(f"| {trials:,} | {prompts} | {seconds:.1f} | {memory:.2f} | {size / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
