"""By hand and against simulations whose truth is known."""

import math

import numpy as np
import pytest

from posweep.robustness import Sample, beating, cross_fitted_ranks, crossed_interval, halves, robust_share
from posweep.robustness.crossed import Interval


def interval(value, margin) -> Interval:
    value = np.asarray(value, dtype=float)
    nothing = np.full_like(value, math.nan)
    return Interval(value, nothing, nothing, value - margin, value + margin, "")


def test_share_within_epsilon_by_hand():
    ranked = np.array([0.1, 0.5, 0.55, 0.6])
    assert robust_share(ranked, [0.0, 0.04, 0.05, 0.1, 0.5, 1.0]).tolist() == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_leading_axes_are_kept():
    ranked = np.array([[[0.1, 0.6]], [[0.5, 0.6]]])
    assert robust_share(ranked, [0.2, 0.9]).tolist() == [[[0.5, 1.0]], [[1.0, 1.0]]]


@pytest.mark.parametrize("ranked", [np.empty(0), np.empty((3, 0))])
def test_without_configurations_there_is_no_share(ranked):
    assert np.isnan(robust_share(ranked, [0.1, 0.2])).all()
    assert robust_share(ranked, [0.1, 0.2]).shape == (*ranked.shape[:-1], 2)


def test_one_configuration_is_within_any_distance_of_itself():
    assert robust_share(np.array([0.3]), 0.0).tolist() == [1.0]


def test_no_tolerances_give_no_shares():
    assert robust_share(np.array([[0.3]]), []).shape == (1, 0)


def test_equal_configurations_lie_near_the_best_once_its_luck_is_gone():
    """The docstring's example: by sorted scores 0.14 lie within 0.02 of the best of 24 equal ones, cross-fitted 0.80."""
    rng, splits = np.random.default_rng(0), halves(256, np.random.default_rng(1), 8)
    found = []
    for _ in range(150):
        table = (rng.random((24, 1, 256)) < 0.55).astype(float)
        fitted = cross_fitted_ranks(table, Sample.everything(1, 256), splits)[0]
        found.append([robust_share(row, 0.02)[0] for row in (np.sort(table.mean(axis=(1, 2))), fitted)])
    plain, fitted = np.mean(found, axis=0)
    assert plain == pytest.approx(0.14, abs=0.04)
    assert fitted == pytest.approx(0.80, abs=0.06)


def test_configurations_far_apart_are_told_apart():
    rng, splits = np.random.default_rng(0), halves(256, np.random.default_rng(1), 8)
    table = (rng.random((4, 1, 256)) < np.array([0.1, 0.4, 0.8, 0.82])[:, None, None]).astype(float)
    ranked = cross_fitted_ranks(table, Sample.everything(1, 256), splits)[0]
    assert robust_share(ranked, [0.1, 0.5]).tolist() == [0.5, 0.75]


def test_two_numbers_for_beating_and_two_for_harming():
    found = beating(interval([0.40, 0.48, 0.5, 0.52, 0.60], 0.05))
    assert (found.beats, found.surely_beats, found.harms, found.surely_harms) == (0.4, 0.2, 0.4, 0.2)


def test_without_intervals_nothing_is_sure():
    found = beating(interval([0.4, 0.6, 0.7], math.nan))
    assert (found.surely_beats, found.surely_harms) == (0.0, 0.0)
    assert found.beats == pytest.approx(2 / 3)


def test_without_configurations_there_are_no_shares_that_beat():
    assert math.isnan(beating(interval([], 0.1)).beats)


def test_configurations_equal_to_sft_surely_beat_it_as_often_as_the_level_says():
    rng = np.random.default_rng(5)
    table = (rng.random((2000, 1, 200)) < 0.5).astype(float)
    own = crossed_interval(lambda s: s.prompts @ table[:, 0].T, 1, 200, np.random.default_rng(0))
    found = beating(own)
    assert found.surely_beats == pytest.approx(0.025, abs=0.012)
    assert found.surely_harms == pytest.approx(0.025, abs=0.012)
