"""Against all subsets, exact fractions, opda, and simulations whose truth is known."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from opda.nonparametric import EmpiricalDistribution

from posweep.errors import ShapeError
from posweep.robustness import (
    Sample,
    cross_fitted_best,
    cross_fitted_ranks,
    cross_fitted_tuning_curve,
    crossed_interval,
    distribution_band,
    draw_variance,
    expected_best,
    halves,
    tuning_area,
    tuning_band,
    tuning_cost,
    tuning_curve,
)

from ..rounding import near

NAN = math.nan


def wins(worlds: int, rates: np.ndarray, prompts: int, seed: int = 0):
    """Tables of wins with known win-rates and one seed."""
    rng = np.random.default_rng(seed)
    for _ in range(worlds):
        yield (rng.random((len(rates), 1, prompts)) < np.asarray(rates)[:, None, None]).astype(float)


# ---------------------------------------------------------------- the curve


@pytest.mark.parametrize("count", range(1, 9))
def test_the_curve_is_the_mean_over_all_subsets(count):
    scores = np.random.default_rng(count).normal(size=count)
    expected = [np.mean([max(s) for s in itertools.combinations(scores, n)]) for n in range(1, count + 1)]
    assert tuning_curve(scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [40, 10_000])
def test_weights_agree_with_exact_fractions(count):
    """The weight of rank i is C(i−1, n−1)/C(N, n): read off by scores that are 1 from rank i up."""
    for n in {1, 2, 7, count // 2, count - 1, count}:
        at = {count, count - 1, max(n, count - count // n), n}
        for i in at:
            step = np.zeros(count)
            step[i - 1 :] = 1.0
            chance = 1 - Fraction(math.comb(i - 1, n), math.comb(count, n))
            assert expected_best(step, n)[0] == pytest.approx(float(chance), rel=1e-10)


@pytest.mark.parametrize("n", [None, np.unique(np.geomspace(1, 10_000, 60).astype(int))])
def test_the_curve_of_many_configurations_rises_from_mean_to_maximum(n):
    scores = np.random.default_rng(0).normal(size=2_000 if n is None else 10_000)
    curve = tuning_curve(scores, n)
    assert len(curve) == (2_000 if n is None else len(n))
    assert curve[[0, -1]] == pytest.approx([scores.mean(), scores.max()])
    assert (np.diff(curve) > -1e-12).all()


def test_the_curve_is_unbiased_for_independent_draws():
    """Uniform scores: the best of n is n/(n+1) on average, whatever N."""
    curves = tuning_curve(np.random.default_rng(1).random((20_000, 6)))
    assert curves.mean(axis=0) == pytest.approx(np.arange(1, 7) / np.arange(2, 8), abs=0.006)


def test_leading_axes_are_kept_and_missing_configurations_dropped():
    scores = np.array([[0.1, NAN, 0.5], [0.2, NAN, 0.2]])
    assert tuning_curve(scores) == pytest.approx(np.array([[0.3, 0.5], [0.2, 0.2]]))


def test_more_trials_than_configurations_have_no_expected_best():
    found = tuning_curve([0.1, 0.5], [0, 1, 2, 3])
    assert found[1:3] == pytest.approx([0.3, 0.5])
    assert np.isnan(found[[0, 3]]).all()


def test_without_scores_there_is_no_curve():
    assert tuning_curve([]).shape == (0,)
    assert np.isnan(tuning_curve([NAN], [1, 2])).all()
    assert math.isnan(float(tuning_area(np.empty(0))))
    assert math.isnan(float(tuning_cost(np.empty(0))))


# ---------------------------------------------------------------- area and cost


@pytest.mark.parametrize("count", [1, 2, 3, 12, 1500])
def test_the_area_has_a_closed_form(count):
    """Σ_n C(i−1, n−1)/C(N, n) = (N+1) / ((N−i+1)(N−i+2)), by the beta integral of 1/C(N, n)."""
    ranked, above = np.random.default_rng(count).normal(size=(4, count)), np.arange(count, 0, -1)
    expected = ranked @ ((count + 1) / count / (above * (above + 1)))
    assert tuning_area(ranked) == pytest.approx(expected, abs=1e-12)


def test_the_area_is_the_mean_of_the_curve_up_to_a_budget():
    ranked = np.sort(np.random.default_rng(0).normal(size=(4, 9)))
    assert tuning_area(ranked, 3) == pytest.approx(tuning_curve(ranked)[:, :3].mean(axis=1), abs=1e-12)
    assert np.isnan(tuning_area(ranked, 10)).all()


def test_the_cost_is_the_least_number_of_trials():
    curve = np.array([0.30, 0.50, 0.569, 0.57, 0.60])
    assert tuning_cost(curve) == 4
    assert tuning_cost(curve, share=1.0) == 5
    assert tuning_cost(curve, floor=0.5) == 5  # 95 % of the way from 0.5 to 0.6 is 0.595
    assert tuning_cost(curve[[0, 3, 4]], n=[1, 4, 5]) == 4
    assert tuning_cost(np.stack([curve, np.full(5, 0.6)])).tolist() == [4, 1]


def test_a_share_of_a_best_below_the_floor_says_nothing():
    assert math.isnan(float(tuning_cost(np.array([-2.0, -1.0]))))
    assert tuning_cost(np.array([-2.0, -1.0]), floor=-3.0) == 2


# ---------------------------------------------------------------- other random draws


def test_the_jackknife_leaves_every_configuration_out_once():
    ranked = np.sort(np.random.default_rng(0).normal(size=7))
    without = np.array([tuning_curve(np.delete(ranked, k), [1, 2, 6]) for k in range(7)])
    assert draw_variance(ranked, [1, 2, 6]) == pytest.approx(without.var(axis=0) * 6)


def test_the_jackknife_is_the_variance_over_other_draws():
    draws, n = np.sort(np.random.default_rng(0).random((4000, 40))), [1, 3, 8]
    found = np.mean([draw_variance(ranked, n) for ranked in draws], axis=0)
    assert found == pytest.approx(tuning_curve(draws, n).var(axis=0), rel=0.08)
    assert found[0] == pytest.approx(1 / 12 / 40, rel=0.02)


def test_nothing_is_left_without_the_only_configuration():
    assert np.isnan(draw_variance(np.array([0.3]), [1, 2])).all()
    assert np.isnan(draw_variance(np.array([0.3, 0.4]), [2])).all()


# ---------------------------------------------------------------- cross-fitted


def test_brute_force_of_the_definition():
    (table,) = wins(1, np.full(5, 0.5), 21)
    ((first, second),) = halves(21, np.random.default_rng(3))
    expected = np.zeros(5)
    for choose, score in ((first, second), (second, first)):
        rank = sorted(range(5), key=lambda i: (table[i, 0, choose].sum(), -i))  # of equals the first is the better
        for n in range(1, 6):
            bests = [max(s, key=rank.index) for s in itertools.combinations(range(5), n)]
            expected[n - 1] += np.mean([table[i, 0, score].mean() for i in bests]) / 2
    found = cross_fitted_tuning_curve(table, Sample.everything(1, 21), halves(21, np.random.default_rng(3)))
    assert found == pytest.approx(expected[None], abs=1e-12)


def test_it_runs_from_the_mean_to_the_cross_fitted_best():
    (table,) = wins(1, np.linspace(0.3, 0.6, 9), 64)
    curve = cross_fitted_tuning_curve(table, Sample.everything(1, 64), halves(64, np.random.default_rng(7), 16))[0]
    best = cross_fitted_best(table[:, 0], np.random.default_rng(7), splits=16)
    assert curve[0] == pytest.approx(table.mean())
    assert curve[-1] == pytest.approx(best.value)


def test_equal_configurations_have_a_level_curve_where_sorted_scores_climb():
    """24 configurations at 0.55 on 256 prompts: the best of 24 is 0.55; sorted scores promise 0.61."""
    splits = halves(256, np.random.default_rng(0), 4)
    tables = list(wins(300, np.full(24, 0.55), 256))
    fitted = np.array([cross_fitted_tuning_curve(t, Sample.everything(1, 256), splits)[0] for t in tables])
    error = fitted.std(axis=0) / math.sqrt(len(fitted))
    assert (np.abs(fitted.mean(axis=0) - 0.55) < 4 * error).all()
    assert np.mean([tuning_curve(t.mean(axis=(1, 2)))[-1] for t in tables]) > 0.60


def test_the_halves_keep_the_weights_of_the_sample():
    """A prompt of weight 2 counts as two prompts; a half of which nothing was drawn counts evenly."""
    (table,) = wins(1, np.linspace(0.2, 0.8, 4), 6)
    pair = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    sample = Sample(np.ones((2, 1)), np.array([[2, 1, 0, 1, 1, 1], [2, 2, 2, 0, 0, 0]]) / 6)
    doubled = table[:, :, [0, 0, 1, 3, 4, 5]]
    found = cross_fitted_ranks(table, sample, [pair])
    assert found[0] == pytest.approx(cross_fitted_ranks(doubled, Sample.everything(1, 6), [pair])[0])
    assert found[1] == pytest.approx(cross_fitted_ranks(table, Sample.everything(1, 6), [pair])[0])


def test_ranking_on_other_prompts():
    table = np.array([[[1.0, 1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0, 0.0]]])
    elsewhere = np.array([[[0.0, 0.0]], [[1.0, 1.0]]])
    found = cross_fitted_ranks(table, Sample.everything(1, 4), [], selection=elsewhere)
    assert found.tolist() == [[0.75, 0.25]]
    with pytest.raises(ShapeError, match=r"selection has shape \(1, 1, 2\) where scores have \(2, 1, 4\)"):
        cross_fitted_ranks(table, Sample.everything(1, 4), [], selection=elsewhere[:1])


def test_one_prompt_leaves_the_sorted_scores():
    table = np.array([0.3, 0.1, 0.2]).reshape(3, 1, 1)
    found = cross_fitted_ranks(table, Sample.everything(1, 1), halves(1, np.random.default_rng(0), 4))
    assert found.tolist() == [[0.1, 0.2, 0.3]]


def test_one_configuration_is_its_own_best():
    (table,) = wins(1, np.array([0.6]), 30)
    found = cross_fitted_tuning_curve(table, Sample.everything(1, 30), halves(30, np.random.default_rng(0), 3))
    assert found == pytest.approx(np.array([[table.mean()]]))


@pytest.mark.torture
def test_crossed_intervals_of_the_curve_cover():
    """Configurations that differ: the curve's target is what half of the prompts would choose, over fresh worlds."""
    rates, prompts = np.linspace(0.35, 0.6, 8), 128
    splits = halves(prompts, np.random.default_rng(0), 4)

    def curve(table):
        return lambda sample: cross_fitted_tuning_curve(table, sample, splits, [1, 3, 8])

    everything = Sample.everything(1, prompts)
    target = np.mean([curve(table)(everything)[0] for table in wins(4000, rates, prompts, seed=1)], axis=0)
    found = [crossed_interval(curve(t), 1, prompts, np.random.default_rng(2)) for t in wins(1000, rates, prompts, 3)]
    covered = np.mean([(one.low <= target) & (target <= one.high) for one in found], axis=0)
    assert ((covered > 0.925) & (covered < 0.985)).all(), covered


# ---------------------------------------------------------------- the exact band


@pytest.mark.parametrize("count", [1, 2, 12, 60])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_band_agrees_with_opda(count, level):
    scores = np.random.default_rng(count).random(count)
    n = np.arange(1, 31)
    worse, _, better = EmpiricalDistribution.confidence_bands(scores, level, a=0.0, b=1.0, method="ks")
    low, high = tuning_band(scores, n, level=level)
    curves = sorted((worse.average_tuning_curve(n), better.average_tuning_curve(n)), key=lambda curve: curve[0])
    assert low == near(curves[0])
    assert high == near(curves[1])


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_band_holds_for_all_n_together(level):
    """The band of the distribution function holds exactly as often as it says; its means average over scores and hold
    more often."""
    rng, n = np.random.default_rng(0), np.arange(1, 101)
    truth = 3 * n / (3 * n + 1)  # the best of n draws of the cube root of a uniform one
    bands = [tuning_band(scores, n, level=level) for scores in rng.random((800, 6)) ** (1 / 3)]
    inside = np.mean([((low <= truth) & (truth <= high)).all() for low, high in bands])
    assert inside >= level
    assert level > 0.9 or inside < 0.999


@pytest.mark.parametrize("count", [1, 6, 40])
def test_the_distribution_function_is_inside_exactly_as_often_as_the_level_says(count):
    """Uniform scores have F(y) = y; a step function leaves it first just before or at a score."""
    under, over = distribution_band(count, 0.6)
    scores = np.sort(np.random.default_rng(count).random((20_000, count)))
    inside = ((under[1:] <= scores) & (scores <= over[:-1])).all(axis=1)
    assert inside.mean() == pytest.approx(0.6, abs=0.015)


def test_the_band_is_the_distribution_functions_at_one_trial_by_hand():
    """One score s: D₁ ≤ d with chance 2d − 1, so F̂ ± 0.975; F₊ = 0.975 below s and 1 above, F₋ = 0 and 0.025."""
    low, high = tuning_band([0.4], [1, 2])
    assert low == pytest.approx([0.4 * 0.025, 0.4 * (1 - 0.975**2)])
    assert high == pytest.approx([1 - 0.6 * 0.025, 1 - 0.6 * 0.025**2])


def test_the_band_stays_within_the_bounds_and_needs_scores():
    low, high = tuning_band([0.2, NAN, 0.9], [1, 5, 100])
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    assert np.isnan(tuning_band([NAN], [1, 2])).all()
