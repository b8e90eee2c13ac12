"""The demo world is a test bench: every method can go right and wrong in it, and length bias shows. All of it is trained."""

from pathlib import Path

import numpy as np
import pytest

from posweep.artifacts.shared import Shared, prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.plan import make_plan
from posweep.records import Outcome, TrialSpec
from posweep.trial import baseline_measures, run_trial

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shared, list[tuple[TrialSpec, Outcome]]]:
    """The demo sweep, trial by trial, in this process."""
    configuration = configure(["sweep=demo"])
    shared = prepare(configuration, Store(tmp_path_factory.mktemp("world")))
    return shared, [(spec, run_trial(spec, shared)) for spec in make_plan(configuration)]


def wins(outcome: Outcome, name: str) -> np.ndarray:
    return np.array([row.wins["vs_sft"] for row in outcome.responses if row.set == name])


def interval(values: np.ndarray) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def test_sft_leaves_headroom(world: tuple[Shared, list[tuple[TrialSpec, Outcome]]]) -> None:
    shared, _ = world
    measures = baseline_measures(shared)
    for name in ("iid", "ood", "ood_counts"):
        chosen = next(e for e in shared.evaluation if e.name == name).scores["gold"].chosen.mean()
        assert measures[f"{name}/mean_score"] < chosen - 0.2 < 0.8


@pytest.mark.parametrize("method", ["dpo", "ln_dpo", "simpo"])
def test_each_method_can_help_and_can_harm(method: str, world: tuple[Shared, list[tuple[TrialSpec, Outcome]]]) -> None:
    """Selected on one half of the out-of-distribution prompts, above ½ beyond its interval on the other; both ways round."""
    tables = [wins(outcome, "ood") for spec, outcome in world[1] if spec.method == method and outcome.responses]
    halves = np.array_split(np.random.default_rng(0).permutation(len(tables[0])), 2)
    for select, check in (halves, halves[::-1]):
        best = max(tables, key=lambda table: table[select].mean())
        assert interval(best[check])[0] > 0.5
    assert min(interval(table)[1] for table in tables) < 0.5


def test_more_length_bias_gives_longer_dpo_responses(tmp_path: Path) -> None:
    lengths = []
    for bias in (0.0, 0.15, 0.4):
        configuration = configure(["sweep=demo", "method=[dpo]", f"data.length_bias={bias}"])
        shared = prepare(configuration, Store(tmp_path))
        specs = [s for s in make_plan(configuration) if s.hyperparameters["beta"] == 0.1]
        spec = next(s for s in specs if s.train["learning_rate"] == 8e-4)
        lengths.append(run_trial(spec, shared).result.measures["ood/response_length"])
    assert lengths == sorted(lengths)
    assert lengths[2] > lengths[0] + 1
