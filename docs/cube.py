"""Writes docs/cube.md from the trials of the cube.

posweep sweep=cube
python docs/cube.py [outputs/cube [PAGE]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.records import Outcome, TrialSpec
from posweep.robustness import Effect, effects

PAGE = Path(__file__).with_name("cube.md")
FACTORS = {
    "reference": lambda spec: spec.method in ("dpo", "ln_dpo"),
    "length normalisation": lambda spec: spec.method in ("ln_dpo", "simpo"),
    "margin": lambda spec: spec.hyperparameters["gamma"] > 0,
}
HEAD = """# Which of the three matters?

DPO, LN-DPO, SimPO and CPO (without its NLL) are one logistic loss that differs in three things: whether gains are taken
over a reference, whether they are averaged over tokens, and whether a margin is asked for. `sweeps/cube.yaml` trains
all eight corners in the demo world, each over three β and three learning rates; this page is written from its trials by
`python docs/cube.py`.

An effect is the mean win-rate against SFT out of distribution where a thing is on, less the mean where it is off, over
{count} configurations; ± is one standard error over {prompts} prompts, given this seed, these grids and this SFT
checkpoint. The share is that of the variance over configurations, exact on the balanced grid; what is not listed lies
between β and learning rates within the corners.

**The demo world was tuned** until methods can go right and wrong in it: this shows how the question is asked, and is no
evidence of the answer.
"""


def page(trials: list[tuple[TrialSpec, Outcome]]) -> str:
    """The whole page: effects over all learning rates, then at each."""
    wins = np.array([prompt_wins(outcome) for _, outcome in trials])
    rates = np.array([spec.train["learning_rate"] for spec, _ in trials])
    on = {name: np.array([is_on(spec) for spec, _ in trials]) for name, is_on in FACTORS.items()}
    lines = [HEAD.format(count=len(wins), prompts=wins.shape[1])]
    for words, rows in [
        ("All learning rates", rates > 0),
        *((f"Learning rate {r:g}", rates == r) for r in np.unique(rates)),
    ]:
        lines += section(
            words, effects(wins[rows], {name: values[rows] for name, values in on.items()}), wins[rows].mean()
        )
    return "\n".join(lines)


def section(words: str, found: dict[str, Effect], mean: float) -> list[str]:
    """A table of effects, in the order of the factors and then their interactions."""
    rows = [f"| {name} | {e.difference:+.3f} ± {e.error:.3f} | {e.share:.1%} |" for name, e in found.items()]
    return [f"## {words}", "", f"Mean win-rate {mean:.3f}.", "", "| | effect | share |", "|---|---|---|", *rows, ""]


def prompt_wins(outcome: Outcome) -> list[float]:
    """The share of SFT responses beaten, by prompt, out of distribution."""
    rows = sorted((row for row in outcome.responses if row.set == "ood"), key=lambda row: row.index)
    return [row.wins["vs_sft"] for row in rows]


def main(folder: Path = Path("outputs/cube"), written: Path = PAGE) -> None:
    """Read plan and ledger of the sweep and write the page."""
    plan, ledger = Plan.from_jsonl("cube", (folder / "plan.jsonl").read_text()), Ledger(folder)
    found = {spec.key: ledger.outcome(spec.key) for spec in plan}
    if missing := [key for key, outcome in found.items() if outcome is None]:
        sys.exit(f"{folder}: {len(missing)} of {len(plan)} trials are missing; run posweep sweep=cube first.")
    if diverged := [key for key, outcome in found.items() if outcome and not outcome.responses]:
        sys.exit(f"{folder}: {len(diverged)} trials diverged; the cube is not balanced without them.")
    by_key = {spec.key: spec for spec in plan}
    written.write_text(page([(by_key[key], outcome) for key, outcome in found.items() if outcome]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
