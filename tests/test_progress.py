"""What a user sees of a sweep of many methods: a line that ends, a table that fits."""

import io

import pytest
from rich.console import Console

from posweep.executors.base import Event
from posweep.objectives import OBJECTIVES
from posweep.progress import Progress
from posweep.records import TrialResult, TrialSpec

METRIC = "ood/win_rate_vs_sft"
PLAN = [TrialSpec(f"{name}-{i}", "r", "s", "c", name, {}, {}, seed=i) for name in OBJECTIVES for i in range(2)]


def finished(key: str, score: float) -> TrialResult:
    return TrialResult(key, "r", "s", "finished", {METRIC: score})


def shown(progress: Progress, height: int) -> list[str]:
    """The live table on a terminal of so many lines."""
    out = io.StringIO()
    progress._console = Console(file=out, width=100, height=height, force_terminal=True, color_system=None)
    progress._console.print(progress._table())
    return out.getvalue().splitlines()


def test_a_plain_line_names_the_three_best_of_many_methods():
    out = io.StringIO()
    done = {spec.key: finished(spec.key, i / 100) for i, spec in enumerate(PLAN[:10])}
    progress = Progress(PLAN, done, METRIC, out)
    progress.event(Event("finished", PLAN[10].key), finished(PLAN[10].key, 0.9))
    assert out.getvalue().endswith("best ood/win_rate_vs_sft: SimPO 0.900, LN-DPO 0.090, Robust DPO 0.070\n")


@pytest.mark.parametrize("height", [12, 24, 30, 50])
@pytest.mark.parametrize("done", [0, 20, 57])
def test_the_table_fits_the_terminal_and_shows_what_runs(height, done):
    progress = Progress(PLAN, {spec.key: finished(spec.key, 0.5) for spec in PLAN[:done]}, METRIC, io.StringIO())
    progress.event(Event("started", PLAN[done].key))
    lines = shown(progress, height)
    assert len(lines) < height
    assert any(line.startswith(OBJECTIVES[PLAN[done].method].title) for line in lines)
    assert f"{done}/{len(PLAN)}" in lines[-1]
    assert any("methods shown" in line for line in lines) == (height < len(OBJECTIVES) + 6)


def test_few_methods_are_all_shown():
    lines = shown(Progress(PLAN[:6], {}, METRIC, io.StringIO()), 12)
    assert [line.split()[0] for line in lines[2:5]] == ["SFT", "DPO", "cDPO"]
