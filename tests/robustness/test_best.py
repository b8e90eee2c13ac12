"""Against brute force and simulations whose truth is known."""

import math

import numpy as np
import pytest

from posweep.errors import ShapeError
from posweep.robustness import cross_fitted_best


def draws(worlds: int, rates: np.ndarray, prompts: int, seed: int = 0):
    """Tables of wins with known win-rates, each with a generator for the halves."""
    rng = np.random.default_rng(seed)
    for _ in range(worlds):
        yield (rng.random((len(rates), prompts)) < rates[:, None]).astype(float), rng


def test_equal_configurations_give_their_own_rate_where_the_maximum_flatters():
    """24 configurations at 0.55 on 256 prompts: the maximum says about 0.61 for independent wins; this says 0.55."""
    tables = list(draws(400, np.full(24, 0.55), 256))
    fitted = np.array([cross_fitted_best(wins, rng).value for wins, rng in tables])
    plug_in = np.array([wins.mean(axis=1).max() for wins, _ in tables])
    assert fitted.mean() == pytest.approx(0.55, abs=4 * fitted.std() / math.sqrt(len(fitted)))
    assert plug_in.mean() > 0.60


def test_the_standard_error_is_the_spread_over_worlds():
    found = [cross_fitted_best(wins, rng) for wins, rng in draws(600, np.array([0.2, 0.8]), 100, seed=1)]
    spread = np.std([best.value for best in found])
    assert np.mean([best.standard_error for best in found]) == pytest.approx(spread, rel=0.1)


def test_a_configuration_that_is_clearly_best_is_chosen_by_both_halves():
    ((wins, rng),) = draws(1, np.array([0.1, 0.9, 0.2]), 200)
    best = cross_fitted_best(wins, rng)
    assert best.chosen == (1, 1)
    assert best.value == pytest.approx(wins[1].mean())


def test_brute_force_of_the_definition():
    ((wins, _),) = draws(1, np.full(7, 0.5), 31, seed=3)
    order = np.random.default_rng(5).permutation(31)
    halves = order[:16], order[16:]
    expected = []
    for choose, score in (halves, halves[::-1]):
        means = [sum(row[p] for p in choose) / len(choose) for row in wins]
        chosen = means.index(max(means))
        expected.append(sum(wins[chosen][p] for p in score) / len(score))
    best = cross_fitted_best(wins, np.random.default_rng(5))
    assert best.value == pytest.approx(sum(expected) / 2)


def test_a_diverged_row_is_never_chosen():
    wins = np.array([[math.nan] * 8, [0.0] * 8, [1.0] * 7 + [math.nan]])
    best = cross_fitted_best(wins, np.random.default_rng(0))
    assert best.chosen == (1, 1)
    assert best.value == 0.0


def test_choosing_in_distribution_and_scoring_out_of_distribution():
    wins = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    iid = np.array([[0.0, 0.0], [1.0, 1.0]])
    best = cross_fitted_best(wins, np.random.default_rng(0), selection=iid)
    assert best.chosen == (1,)
    assert best.value == pytest.approx(0.25)
    assert best.standard_error == pytest.approx(0.25)


def test_the_same_generator_gives_the_same_number():
    ((wins, _),) = draws(1, np.full(5, 0.5), 40)
    first, second = (cross_fitted_best(wins, np.random.default_rng(9)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("wins", [np.zeros((0, 8)), np.zeros((3, 1)), np.zeros((3, 0)), np.full((2, 4), math.nan)])
def test_nothing_to_choose_from(wins):
    best = cross_fitted_best(wins, np.random.default_rng(0))
    assert math.isnan(best.value)
    assert best.chosen == ()


def test_tables_of_the_wrong_shape_are_named():
    with pytest.raises(ShapeError, match=r"wins must have shape \(configurations, prompts\), got \(4,\)"):
        cross_fitted_best(np.zeros(4), np.random.default_rng(0))
    with pytest.raises(ShapeError, match="selection has 2 configurations where wins has 3"):
        cross_fitted_best(np.zeros((3, 4)), np.random.default_rng(0), selection=np.zeros((2, 4)))


def test_more_splits_keep_the_expectation_and_lose_the_luck_of_one():
    rates = np.array([0.5, 0.52, 0.54])
    once, often = [], []
    for wins, rng in draws(300, rates, 64, seed=4):
        once.append(cross_fitted_best(wins, rng).value)
        often.append(cross_fitted_best(wins, rng, splits=16).value)
    assert np.mean(often) == pytest.approx(np.mean(once), abs=0.01)
    assert np.std(often) < np.std(once)
