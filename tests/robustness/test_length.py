"""Against statsmodels, a judge whose liking for length is known, and the spread over simulated worlds."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit

from posweep.errors import ShapeError
from posweep.robustness import Sample, configuration_scores, crossed_interval, length_control

from ..rounding import rounding

SOLVERS = rounding()
"""How near two solvers come that stop when a step is small; not a matter of ε, but far below any error."""


def world(seed: int, merits, longer, liking: float, prompts: int, opponents: int = 4, scale: float = 6.0):
    """Runs of known merit (log odds at equal length), so many tokens longer than their opponents, by a judge's liking.

    Prompts differ in length and in how hard they are, in common for all runs.
    """
    rng = np.random.default_rng(seed)
    common, hard = rng.normal(0, 0.5 * scale, prompts), rng.normal(0, 0.3, prompts)
    differences = np.round(np.array(longer)[:, None] + common + rng.normal(0, scale, (len(merits), prompts)))
    odds = np.array(merits)[:, None] + hard + liking * np.tanh(differences / scale)
    return rng.binomial(opponents, expit(odds)) / opponents, differences


def by_statsmodels(wins, differences, scale):
    """One dummy per run and one slope; errors clustered by prompt."""
    runs, prompts = wins.shape
    design = np.column_stack([np.kron(np.eye(runs), np.ones((prompts, 1))), np.tanh(differences / scale).ravel()])
    model = sm.GLM(wins.ravel(), design, family=sm.families.Binomial())
    groups = np.tile(np.arange(prompts), runs)
    return model.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})


def test_statsmodels_finds_the_same_model_and_errors():
    wins, differences = world(0, [-0.5, 0.0, 0.8, 0.2], [2, -1, 4, 0], 0.9, 60)
    found = length_control(wins, differences)
    theirs = by_statsmodels(wins, differences, found.scale)
    assert found.coefficient == pytest.approx(theirs.params[-1], rel=SOLVERS)
    assert found.controlled == pytest.approx(expit(theirs.params[:-1]), rel=SOLVERS)
    assert found.error * math.sqrt(59 / 60) == pytest.approx(theirs.bse[-1], rel=SOLVERS)
    spread = found.scores.std(axis=1) / math.sqrt(60)
    assert spread == pytest.approx(found.controlled * (1 - found.controlled) * theirs.bse[:-1], rel=SOLVERS)


def test_equal_merit_is_a_half_at_equal_length_however_long_the_responses():
    wins, differences = world(1, np.zeros(12), np.linspace(-6, 8, 12), 1.5, 1500)
    found = length_control(wins, differences)
    assert found.controlled == pytest.approx(np.full(12, 0.5), abs=0.04)
    assert found.raw.min() < 0.35
    assert found.raw.max() > 0.7


def test_a_judge_without_a_liking_leaves_win_rates_alone():
    wins, differences = world(2, np.linspace(-1, 1, 6), np.linspace(-4, 4, 6), 0.0, 1500)
    found = length_control(wins, differences)
    assert abs(found.coefficient) < 3 * found.error
    assert found.controlled == pytest.approx(found.raw, abs=0.03)


def test_errors_are_the_spread_over_worlds():
    """Shares of four opponents vary less than coin tosses, prompts move all runs at once: the sandwich knows both."""
    worlds = [length_control(*world(seed, [0.0, 0.5, -0.5], [1, 2, -1], 1.0, 150)) for seed in range(300)]
    slopes = [found.coefficient for found in worlds]
    assert np.mean([found.error for found in worlds]) == pytest.approx(np.std(slopes), rel=0.12)
    controlled = np.array([found.controlled for found in worlds])
    errors = np.array([found.scores.std(axis=1, ddof=1) / math.sqrt(150) for found in worlds])
    assert errors.mean(axis=0) == pytest.approx(controlled.std(axis=0), rel=0.12)


def test_pseudo_scores_bootstrap_like_the_model_itself():
    wins, differences = world(5, [0.3, -0.2, 0.6], [3, 0, -2], 0.8, 120)
    found = length_control(wins, differences)
    table = found.scores[:, None, :]
    assert configuration_scores(table, Sample.everything(1, 120))[0] == pytest.approx(found.controlled, abs=1e-12)
    rng = np.random.default_rng(0)
    interval = crossed_interval(lambda sample: configuration_scores(table, sample), 1, 120, rng, 800)
    drawn = []
    for _ in range(300):
        at = rng.integers(0, 120, 120)
        drawn.append(length_control(wins[:, at], differences[:, at]).controlled)
    assert interval.error == pytest.approx(np.std(drawn, axis=0), rel=0.15)


# --- what cannot be controlled


def test_runs_that_never_meet_their_opponents_length_are_refused():
    wins, differences = world(6, [0.0, 0.0, 0.0], [0, 60, -60], 0.5, 100)
    found = length_control(wins, differences)
    assert [bool(reason) for reason in found.refused] == [False, True, True]
    assert "longer" in found.refused[1]
    assert "shorter" in found.refused[2]
    assert np.isnan(found.controlled).tolist() == [False, True, True]
    assert not np.isnan(found.raw).any()
    alone = length_control(wins[:1], differences[:1])
    assert found.coefficient == alone.coefficient


def test_five_percent_on_either_side_are_enough_and_equal_lengths_count_on_both():
    differences = np.full((2, 100), 3.0)
    differences[0, :5], differences[1, :4] = 0.0, 0.0
    wins = np.tile([0.25, 0.75, 0.5, 1.0], 25)[None].repeat(2, axis=0)
    found = length_control(wins, differences)
    assert [bool(reason) for reason in found.refused] == [False, True]


def test_runs_that_always_win_or_lose_keep_their_win_rate():
    wins, differences = world(7, [0.0, 0.0, 0.3], [0, 1, 2], 0.5, 80)
    wins[0], wins[1] = 0.0, 1.0
    found = length_control(wins, differences)
    assert found.controlled[:2].tolist() == [0, 1]
    assert found.coefficient == pytest.approx(length_control(wins[2:], differences[2:]).coefficient)


def test_missing_scores_are_named():
    wins, differences = world(8, [0.0, 0.0], [0, 1], 0.5, 40)
    wins[1] = math.nan
    found = length_control(wins, differences)
    assert found.refused == ("", "no score")
    assert math.isfinite(found.controlled[0])


def test_length_that_never_varies_or_tells_everything_gives_no_model():
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 5, (3, 50)) / 4
    level = length_control(wins, np.zeros((3, 50)))
    differences = np.where(rng.random((3, 50)) < 0.5, -3.0, 3.0)
    parted = length_control((differences > 0).astype(float), differences)
    for found in (level, parted):
        assert math.isnan(found.coefficient)
        assert np.isnan(found.controlled).all()
        assert all("length alone" in reason for reason in found.refused)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0), (1, 1)])
@pytest.mark.filterwarnings("error")
def test_nothing_to_fit(shape):
    found = length_control(np.full(shape, 0.5), np.zeros(shape))
    assert math.isnan(found.coefficient)
    assert len(found.controlled) == shape[0]


def test_tables_of_the_wrong_shape_are_named():
    with pytest.raises(ShapeError, match=r"\(runs, prompts\), got \(2, 3\) and \(3, 2\)"):
        length_control(np.zeros((2, 3)), np.zeros((3, 2)))


def test_one_run_without_length_is_its_raw_log_odds():
    wins, differences = world(9, [0.4], [0], 0.0, 60)
    found = length_control(wins, differences * 0 + np.tile([-1.0, 1.0], 30))
    assert logit(found.controlled[0]) == pytest.approx(logit(found.raw[0]), abs=0.1)


def test_a_thousand_runs_of_five_hundred_prompts_are_one_model():
    wins, differences = world(10, np.linspace(-1, 1, 1000), np.zeros(1000), 0.7, 500)
    found = length_control(wins, differences)
    assert found.coefficient == pytest.approx(0.7, abs=0.1)
