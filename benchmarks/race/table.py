"""What a race came to, as tables in Markdown: medians over turns and trials, and ratios to posweep's."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

from course import WORKERS

OURS = "posweep"
STAGES = {
    "import": ("import",),
    "model": ("model", "reset"),
    "data": ("data",),
    "reference": ("reference",),
    "train": ("train",),
    "generate": ("generate",),
    "kl": ("kl",),
    "judge": ("judge",),
    "measure": ("measure",),
    "log, trainer set-up": ("log", "record"),
}
"""Stages of a trial, and what the sides call them."""
FIRST = 8
"""Steps that are compared before rounding has had time to grow."""

Run = Mapping[str, Any]
"""One sweep: `wall`, `once` and `report` in seconds, `peaks` of its workers in MB, and its `trials`."""


def tables(runs: Mapping[str, Sequence[Run]]) -> str:
    """All tables; `runs` holds the turns of each runner, posweep's first."""
    parts = [surroundings(runs), sweeps(runs), stages(runs), training(runs), outcomes(runs)]
    if "b2" in runs:
        parts.append(same(runs))
    return "\n\n".join(parts)


def surroundings(runs: Mapping[str, Sequence[Run]]) -> str:
    """What was raced on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "ray", "mlflow"))
    turns, trials = len(runs[OURS]), len(runs[OURS][0]["trials"])
    return (
        f"{trials} trials, {turns} turn{'s' * (turns > 1)}; {os.cpu_count()} cores of {processor()}; "
        f"Python {platform.python_version()}, {packages}."
    )


def processor() -> str:
    """The processor's name, where the system says it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def sweeps(runs: Mapping[str, Sequence[Run]]) -> str:
    """Whole commands: wall time with and without the report that only posweep writes, and memory."""
    rows = [
        row("whole sweep, s", runs, lambda turns: median(run["wall"] - run["report"] for run in turns)),
        row("of which what is made once, s", runs, lambda turns: median(run["once"] for run in turns)),
        row("with the report, s", runs, lambda turns: median(run["wall"] for run in turns)),
        row("largest worker, MB", runs, lambda turns: max(max(run["peaks"]) for run in turns), "{:.0f}"),
        row("middle worker, MB", runs, lambda turns: median(peak for run in turns for peak in run["peaks"]), "{:.0f}"),
    ]
    return table(["", *runs, *ratio_heads(runs)], rows)


def stages(runs: Mapping[str, Sequence[Run]]) -> str:
    """A worker's seconds a trial, by stage. `rest`: two workers' wall time, less the stages, by trials."""
    found = {name: [by_stage(run) for run in turns] for name, turns in runs.items()}
    names = [*STAGES, "rest", "all"]
    rows = [
        row(name, found, lambda turns, name=name: median(turn[name] for turn in turns), "{:.2f}")  # type: ignore[misc]
        for name in names
    ]
    return table(["a worker's seconds a trial", *runs, *ratio_heads(runs)], rows)


def by_stage(run: Run) -> dict[str, float]:
    """Mean seconds a trial of each stage; all of them together are the time that the workers were there."""
    trials = run["trials"]
    spent = {
        stage: mean(sum(trial["seconds"].get(name, 0.0) for name in names) for trial in trials)
        for stage, names in STAGES.items()
    }
    whole = WORKERS * (run["wall"] - run["report"]) / len(trials)
    return {**spent, "rest": whole - sum(spent.values()), "all": whole}


def training(runs: Mapping[str, Sequence[Run]]) -> str:
    """Seconds of training alone, the median over trials and turns, by method."""
    methods = list(dict.fromkeys(trial["method"] for trial in runs[OURS][0]["trials"]))

    def middle(turns: Sequence[Run], wanted: Iterable[str]) -> float:
        return median(t["seconds"]["train"] for run in turns for t in run["trials"] if t["method"] in wanted)

    rows = [
        row(name, runs, lambda turns, wanted=wanted: middle(turns, wanted), "{:.2f}")  # type: ignore[misc]
        for name, wanted in {**{method: [method] for method in methods}, "all methods": methods}.items()
    ]
    return table(["training alone, s", *runs, *ratio_heads(runs)], rows)


def outcomes(runs: Mapping[str, Sequence[Run]]) -> str:
    """What the trials came to, means over trials and turns: the work is the same where these agree."""
    wanted = ("win_rate_vs_sft", "win_rate_vs_chosen", "mean_score", "kl_to_sft", "response_length")
    names = [name for name in runs[OURS][0]["trials"][0]["measures"] if name.partition("/")[2] in wanted]
    rows = [
        [name, *(f"{mean(finite(turns, name)):.3f}" for turns in runs.values())] for name in names
    ]  # fmt: skip
    return table(["mean over trials", *runs], rows)


def finite(turns: Sequence[Run], name: str) -> list[float]:
    """A measure of every trial that has it."""
    values = [trial["measures"].get(name, math.nan) for run in turns for trial in run["trials"]]
    return [value for value in values if math.isfinite(value)] or [math.nan]


def same(runs: Mapping[str, Sequence[Run]]) -> str:
    """How far b2's losses, from our batches, lie from posweep's: the largest relative difference, by steps."""
    ours, theirs = (losses(runs[name][0]) for name in (OURS, "b2"))
    first = max(difference(ours[key][:FIRST], theirs[key][:FIRST]) for key in ours)
    whole = [difference(ours[key], theirs[key]) for key in ours]
    return (
        f"b2's losses beside posweep's, step by step: their largest relative difference is {first:.1e} over the first "
        f"{FIRST} steps of any trial; over all steps {median(whole):.1e} in the middle trial and {max(whole):.1e} at most."
    )


def losses(run: Run) -> dict[str, list[float]]:
    """The loss of each step by trial."""
    return {trial["key"]: trial["losses"] for trial in run["trials"]}


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of two series."""
    return max(abs(a - b) / max(abs(a), abs(b)) for a, b in zip(ours, theirs, strict=True))


def row(
    name: str, runs: Mapping[str, Sequence[Any]], of: Callable[[Sequence[Any]], float], form: str = "{:.1f}"
) -> list[str]:
    """A value of each runner, and each opponent's over posweep's."""
    values = {runner: of(turns) for runner, turns in runs.items()}
    ratios = [
        value / values[OURS] if values[OURS] > 0 else math.nan for runner, value in values.items() if runner != OURS
    ]
    return [
        name, *(form.format(value) if value else "" for value in values.values()),
        *("" if math.isnan(ratio) or not ratio else f"{ratio:.2f}" for ratio in ratios),
    ]  # fmt: skip


def ratio_heads(runs: Mapping[str, Any]) -> list[str]:
    """The heads of the columns of ratios."""
    return [f"{name} / {OURS}" for name in runs if name != OURS]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(page: Path, name: str, text: str) -> None:
    """Write text into a page between `<!-- name -->` and `<!-- /name -->`."""
    before, opened, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, closed, after = rest.partition(f"<!-- /{name} -->\n")
    if not opened or not closed:
        raise ValueError(f"{page} has no place for {name}")
    page.write_text(f"{before}{opened}\n{text}\n\n{closed}{after}", encoding="utf-8")
