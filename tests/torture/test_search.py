"""The search finds higher peaks than chance does, and a search that is killed again and again ends where a calm one does."""

import json
import math
import random
import time

import numpy as np
import pytest

from posweep.ledger import Ledger
from posweep.plan import Plan
from posweep.records import Outcome, TrialResult
from posweep.search import Search
from posweep.space import spaces

from ..tiny import configured, planned
from .stub import start, stub_environment, trials

pytestmark = pytest.mark.torture

METRIC = "ood/win_rate_vs_sft"
NOISE = 0.35 / math.sqrt(256)
"""Of a win-rate over 256 prompts, each against four SFT responses."""
SEEDS = 30
POINTS = 20
HILLS = {
    "dpo": {"beta": (0.05, 0.3), "learning_rate": (4e-4, 0.25)},
    "simpo": {"beta": (2.0, 0.2), "gamma": (0.8, 0.4), "learning_rate": (5e-4, 0.25)},
}
"""Where the peak of each method lies, and how many decades (for γ: units) from it a win-rate has fallen to 0.5 + 0.25/e."""


def height(method, point):
    """A hill of 0.75 in a plain of 0.5."""
    far = 0.0
    for name, (at, width) in HILLS[method].items():
        distance = point[name] - at if name == "gamma" else math.log10(point[name] / at)
        far += (distance / width) ** 2
    return 0.5 + 0.25 * math.exp(-far)


def chosen(method, points, rng):
    """The height of the point that scores best, when scores are noisy."""
    heights = np.array([height(method, point) for point in points])
    return heights[np.argmax(heights + rng.normal(0, NOISE, len(points)))]


def searched(configuration, plan, folder, rng):
    """The points of a search whose trials score at once, by method."""
    ledger, found = Ledger(folder), {method: [] for method in HILLS}

    def run(specs):
        for spec in specs:
            score = height(spec.method, spec.point) + rng.normal(0, NOISE)
            ids = (spec.key, spec.response_key, spec.score_key)
            ledger.write(Outcome(TrialResult(*ids, "finished", {METRIC: score}, seconds={"total": 1})))

    run(plan)
    for specs in Search(configuration, plan, ledger).rounds():
        run(specs)
        for spec in specs:
            found[spec.method].append(spec.point)
    return found


def drawn(space, rng):
    """As many points as the search has, each axis drawn evenly on its own scale."""
    axes = {name: (*axis.ends, axis.log) for name, axis in space.axes.items()}
    return [{n: math.exp(rng.uniform(math.log(low), math.log(high))) if log else rng.uniform(low, high)
             for n, (low, high, log) in axes.items()} for _ in range(POINTS)]  # fmt: skip


def test_a_search_finds_a_higher_peak_than_random_draws_of_the_same_number(tmp_path, figures, monkeypatch):
    monkeypatch.setattr("posweep.ledger.os.fsync", lambda _: None)
    sweep = ("sweep=demo", "method=[dpo,simpo]", "search=tpe", f"search.trials={POINTS}")
    plan, peaks = planned(sweep), {method: [] for method in HILLS}
    for seed in range(SEEDS):
        configuration = configured((*sweep, f"search.seed={seed}"))
        rng, places = np.random.default_rng(seed), spaces(configuration, plan)
        for method, points in searched(configuration, plan, tmp_path / f"{seed}", rng).items():
            peaks[method].append((chosen(method, points, rng), chosen(method, drawn(places[method], rng), rng)))
    for method, pairs in peaks.items():
        ours, theirs = np.array(pairs).T
        figures[f"search against random draws, {method}, {POINTS} points, {SEEDS} seeds"] = (
            f"higher in {np.mean(ours > theirs):.0%}; {ours.mean():.3f} against {theirs.mean():.3f} of 0.750"
        )
        assert np.mean(ours > theirs) > 0.6
        assert ours.mean() > theirs.mean()


BUDGET, KILLS = 24, 5
SWEEP = [*trials(12), "search=tpe", f"search.trials={BUDGET}", "search.at_once=6", "tracking=none", "tracking.uri="]


def launched(home, *more, starts=None, seconds=0.0):
    return start(home, *SWEEP, *more, environment=stub_environment(seconds=seconds, starts=starts))


def ended(sweep):
    _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, said


def plan_in(home):
    return Plan.from_jsonl("smoke", (home / "outputs" / "smoke" / "plan.jsonl").read_text())


def begun(starts):
    return [json.loads(line) for line in starts.read_text().splitlines()] if starts.is_file() else []


@pytest.mark.xdist_group("driver")
def test_a_search_that_is_killed_ends_with_the_points_of_a_calm_one_on_either_executor(tmp_path, figures):
    homes = {name: tmp_path / name for name in ("local", "ray", "killed")}
    for home in homes.values():
        home.mkdir()
    for name in ("local", "ray"):
        ended(launched(homes[name], f"executor={name}"))
    calm = plan_in(homes["local"])
    assert len(calm.adaptive) == BUDGET
    assert plan_in(homes["ray"]) == calm

    drawn, starts, searching = random.Random(0), tmp_path / "starts.jsonl", 0
    for _ in range(KILLS):
        sweep, before = launched(homes["killed"], "executor=local", starts=starts, seconds=0.4), len(begun(starts))
        until = time.monotonic() + 60
        while len(begun(starts)) == before and sweep.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(drawn.uniform(0, 3))
        if sweep.poll() is None:
            searching += bool(plan_in(homes["killed"]).adaptive)
            sweep.kill()
            sweep.communicate()
    ended(launched(homes["killed"], "executor=local", starts=starts))
    assert plan_in(homes["killed"]) == calm
    ledger = homes["killed"] / "outputs" / "smoke" / "ledger"
    finished = {spec.key: (ledger / f"{spec.key}.json").stat().st_mtime for spec in calm}
    late = [one for one in begun(starts) if one["at"] > finished[one["key"]]]
    assert not late
    figures[f"search of {BUDGET} points, its driver killed {KILLS} times ({searching} while it searched)"] = (
        f"as a calm one, on either executor; {len(begun(starts))} starts for {len(calm)} trials, none after its end"
    )
