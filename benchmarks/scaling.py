"""How the cost of a sweep grows: with trials, workers, evaluation prompts, the length of responses, and the model's size.

    python benchmarks/scaling.py

Trials and workers are whole commands of short trials. The others are single trials in this process: seconds of each stage,
the smallest of several trials. Under each table stands the power that fits best: seconds ∝ x^power.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from limits import run

from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.plan import make_plan
from posweep.policy.reproducible import threads
from posweep.trial import run_trial

SHORT = ("sweep=demo", "method=[dpo]", "data.pairs=256", "evaluation.sets=[ood]", "data.evaluation_prompts=64")
"""Eight steps and 64 responses, in the demo world."""
AGAIN = 3
"""Trials of a kind; other programs make single ones slower, none makes one faster."""
STAGES = ("train", "generate", "kl", "judge", "measure")
PROMPTS, LENGTHS, SIZES = (64, 128, 256, 512), (24, 48, 96), (64, 96, 128, 192, 256)


def main() -> None:
    """A table each."""
    print(f"{os.cpu_count()} cores; {' '.join(SHORT)}")
    commands()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Path(folder)
        grows("evaluation prompts", {n: (f"data.evaluation_prompts={n}",) for n in PROMPTS}, artifacts)
        # a policy that has learned nothing writes as long as it may
        longest = {n: (f"sample.max_new_tokens={n}", "model.sft.steps=1", block(1, 1e-9)) for n in LENGTHS}
        grows("tokens a response", longest, artifacts)
        grows("hidden size", {n: (f"model.hidden_size={n}",) for n in SIZES}, artifacts)


def commands() -> None:
    """Whole commands: 12 and 48 trials by two workers, and 12 by one."""
    print("\n| trials | workers | before, s | s a trial | after, s | whole, s |\n|---|---|---|---|---|---|")
    whole = {}
    for trials, workers in ((12, 1), (12, 2), (48, 2)):
        with tempfile.TemporaryDirectory() as folder:
            ran = run(Path(folder), *SHORT, block(trials), f"executor.workers={workers}")
        whole[trials, workers] = ran.ended - ran.began
        trial = (whole[trials, workers] - ran.before - ran.after) / trials
        print(
            f"| {trials} | {workers} | {ran.before:.1f} | {trial:.2f} | {ran.after:.1f} | {whole[trials, workers]:.1f} |",
            flush=True,
        )
    print(f"\nOne trial more takes {(whole[48, 2] - whole[12, 2]) / 36:.2f} s with two workers.")


def block(trials: int, learning_rate: float = 3e-4) -> str:
    """Trials of DPO that differ in β."""
    betas = ", ".join(f"{0.01 * (i + 1):.2f}" for i in range(trials))
    grid = f"{{beta: [{betas}], learning_rate: [{learning_rate}]}}"
    return f"sweep.blocks=[{{method: dpo, prior: custom, grid: {grid}}}]"


def grows(what: str, values: Mapping[int, Sequence[str]], artifacts: Path) -> None:
    """A row a value, and how each stage grows."""
    print(f"\n| {what} | {' | '.join(f'{stage}, s' for stage in STAGES)} |\n|---|" + "---|" * len(STAGES))
    found = {}
    for value, arguments in values.items():
        found[value] = seconds(arguments, artifacts)
        print(f"| {value} | {' | '.join(f'{found[value][stage]:.3f}' for stage in STAGES)} |", flush=True)
    powers = {stage: power({value: row[stage] for value, row in found.items()}) for stage in STAGES}
    print(f"\nPowers of {what}: {', '.join(f'{stage} {number:.2f}' for stage, number in powers.items())}.")


def seconds(arguments: Sequence[str], artifacts: Path) -> dict[str, float]:
    """Of a trial by stage, one thread: the smallest of several."""
    configuration = configure([*SHORT, block(1), "model.sft.steps=20", *arguments])
    spec = make_plan(configuration).trials[0]
    with threads(1):
        shared = prepare(configuration, Store(artifacts))
        trials = [run_trial(spec, shared).result.seconds for _ in range(AGAIN)]
    return {stage: min(trial.get(stage, 0.0) for trial in trials) for stage in STAGES}


def power(found: Mapping[int, float]) -> float:
    """The slope of log seconds over log x, by least squares; 0 where there is nothing to measure."""
    if min(found.values()) <= 0:
        return 0.0
    return float(np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0])


if __name__ == "__main__":
    main()
