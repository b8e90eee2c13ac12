"""Against closed forms, brute force and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import scoreatpercentile

from posweep.robustness import describe, interquartile_mean, percentile, share_above, with_score

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
