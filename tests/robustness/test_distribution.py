"""Against closed forms, brute force and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import scoreatpercentile

from posweep.robustness import (
    describe,
    interquartile_mean,
    percentile,
    performance_profile,
    share_above,
    spread,
    with_score,
)

NAN = math.nan


def test_interquartile_mean_of_eight_is_the_mean_of_the_middle_four():
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -100]) == pytest.approx((2 + 3 + 4 + 5) / 4)


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_cuts_a_whole_quarter_from_each_end(count):
    scores = np.random.default_rng(count).normal(size=count)
    cut = count // 4
    assert interquartile_mean(scores) == pytest.approx(np.sort(scores)[cut : count - cut].mean())


@pytest.mark.parametrize("percent", [0, 10, 37.5, 50, 100])
def test_percentile_agrees_with_scipy(percent):
    scores = np.random.default_rng(0).normal(size=11)
    assert percentile(scores, percent) == pytest.approx(scoreatpercentile(scores, percent))


def test_tenth_percentile_of_0_to_10_is_1():
    assert percentile(np.arange(11), 10) == pytest.approx(1.0)


def test_share_above_is_strict():
    assert share_above([0.4, 0.5, 0.5, 0.6], 0.5) == pytest.approx(0.25)


def test_scores_that_are_missing_do_not_count():
    assert with_score([0.1, NAN, 0.3]).tolist() == [0.1, 0.3]
    assert interquartile_mean([NAN, 0.2, 0.4]) == pytest.approx(0.3)
    assert share_above([NAN, 0.6], 0.5) == 1.0
    assert describe([NAN, 0.2, 0.4]).count == 2


@pytest.mark.parametrize("scores", [[], [NAN, NAN]])
def test_without_scores_every_number_is_nan(scores):
    found = describe(scores)
    numbers = (found.median, found.interquartile_mean, found.tenth_percentile, found.maximum, share_above(scores, 0.5))
    assert found.count == 0
    assert all(math.isnan(number) for number in numbers)


def test_describe_of_one_score_is_that_score():
    found = describe([0.7])
    assert (found.median, found.interquartile_mean, found.tenth_percentile, found.maximum) == (0.7, 0.7, 0.7, 0.7)


def test_the_profile_is_the_share_above_each_threshold():
    scores = np.random.default_rng(0).choice([0.1, 0.2, 0.3, np.nan], size=(3, 2, 9))
    thresholds = [0.3, 0.05, 0.2, 0.15]
    found = performance_profile(scores, thresholds)
    expected = [[[share_above(row, t) for t in thresholds] for row in block] for block in scores]
    assert found == pytest.approx(np.array(expected), nan_ok=True)


def test_the_profile_keeps_its_shape_without_scores_or_thresholds():
    assert np.isnan(performance_profile([NAN, NAN], [0.1, 0.2])).all()
    assert np.isnan(performance_profile(np.empty((2, 0)), [0.1])).all()
    assert performance_profile([[0.1, 0.2]], []).shape == (1, 0)
    assert performance_profile([0.1, 0.6], [0.5]).tolist() == [0.5]


def world(rng, seeds, prompts, apart):
    """Scores with luck of every kind: of seeds and prompts, for all and for each configuration, and of single runs."""
    part = rng.normal
    common = part(0, 0.3, (1, seeds, 1)) + part(0, 0.5, (1, 1, prompts)) + part(0, 0.2, (1, seeds, prompts))
    own = part(0, 0.1, (10, seeds, 1)) + part(0, 0.3, (10, 1, prompts)) + part(0, 0.4, (10, seeds, prompts))
    return part(0, apart, (10, 1, 1)) + common + own


@pytest.mark.parametrize(("seeds", "prompts"), [(1, 20), (3, 20), (4, 1)])
def test_spread_is_freed_of_luck(seeds, prompts):
    """One seed (or prompt) is given: what it does to single configurations is then part of their spread."""
    rng = np.random.default_rng(seeds)
    given = {(1, 20): 0.1**2, (3, 20): 0.0, (4, 1): 0.3**2}[seeds, prompts]
    found = np.array([spread(world(rng, seeds, prompts, 1.0)) for _ in range(500)])
    error = (found**2).std() / np.sqrt(len(found))
    assert (found**2).mean() == pytest.approx(1.0 + given, abs=4 * error)


def test_identical_configurations_have_hardly_any_spread():
    """24 configurations at 0.55 on 256 prompts: their standard deviation is 0.031, of which nothing is real."""
    tables = np.random.default_rng(0).random((200, 24, 1, 256)) < 0.55
    assert np.mean([table.mean(axis=(1, 2)).std(ddof=1) for table in tables]) == pytest.approx(0.031, abs=0.001)
    assert np.mean([spread(table.astype(float)) for table in tables]) < 0.008


def test_spread_without_luck_is_the_standard_deviation():
    """Luck that all share is none: it moves no configuration away from the others."""
    table = np.array([0.1, 0.5, 0.9])[:, None, None] + np.random.default_rng(0).normal(size=(1, 3, 8))
    assert spread(table) == pytest.approx(np.std([0.1, 0.5, 0.9], ddof=1))


@pytest.mark.parametrize("shape", [(1, 2, 8), (0, 2, 8), (3, 1, 1)])
def test_no_spread_where_luck_cannot_be_told(shape):
    assert math.isnan(spread(np.zeros(shape)))
