"""Against brute force, and worlds in which every learning rate is as good as the other."""

import math

import numpy as np
import pytest

from posweep.robustness import Sample, at_chosen_levels, chosen_levels, crossed_interval, halves, typical

NAN = math.nan
RATES = [1e-4, 1e-4, 3e-4, 3e-4, 1e-3, 1e-3]


def table(seed=0, seeds=2, prompts=9, means=(0, 0, 0, 0, 0, 0)):
    return np.random.default_rng(seed).random((6, seeds, prompts)) + np.array(means)[:, None, None]


def value(scores, splits, statistic=typical):
    choices = chosen_levels(scores, RATES, splits)
    return at_chosen_levels(scores, RATES, choices, statistic, Sample.everything(*scores.shape[1:]))[0]


def test_each_half_chooses_and_the_other_scores_by_brute_force():
    scores, splits = table(), halves(9, np.random.default_rng(1), 3)
    expected = []
    for pair in splits:
        for half, other in (pair, pair[::-1]):
            by_rate = {
                rate: np.mean([scores[c, j, p] for c in range(6) if RATES[c] == rate for j in range(2) for p in half])
                for rate in RATES
            }
            best = max(by_rate, key=by_rate.get)
            expected.append(np.mean([scores[c][:, other].mean() for c in range(6) if RATES[c] == best]))
    assert value(scores, splits) == pytest.approx(np.mean(expected))


def test_a_clearly_best_rate_is_chosen_by_all():
    scores = table(means=(0, 0, 2, 2, 0, 0))
    splits = halves(9, np.random.default_rng(1), 4)
    assert {level for level, _ in chosen_levels(scores, RATES, splits)} == {3e-4}
    assert value(scores, splits[:1]) == pytest.approx(scores[2:4].mean(), abs=0.05)


def test_equal_rates_are_not_flattered():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(200):
        scores = rng.normal(0.5, 0.3, (6, 1, 30))
        found.append(value(scores, halves(30, rng, 4)))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / math.sqrt(200))


def test_a_rate_at_which_everything_diverged_is_never_chosen():
    scores = table(means=(0, 0, 0, 0, 3, 3))
    scores[4:] = NAN
    scores[0, 0] = NAN
    choices = chosen_levels(scores, RATES, halves(9, np.random.default_rng(1), 2))
    assert {level for level, _ in choices} <= {1e-4, 3e-4}
    assert len(choices) == 4


def test_nothing_finished():
    lost = np.full((6, 2, 9), NAN)
    splits = halves(9, np.random.default_rng(1))
    assert chosen_levels(lost, RATES, splits) == []
    assert math.isnan(value(lost, splits))


def test_an_interval_given_the_choices():
    scores = table(seeds=4, prompts=40)
    choices = chosen_levels(scores, RATES, halves(40, np.random.default_rng(1), 2))
    found = crossed_interval(
        lambda sample: at_chosen_levels(scores, RATES, choices, typical, sample), 4, 40, np.random.default_rng(0)
    )
    assert found.low < found.value < found.high
    few = at_chosen_levels(scores[:, :, :2], RATES, [(1e-4, np.array([0])), (1e-4, np.array([1]))], typical,
                           Sample.of_prompts(np.random.default_rng(0), 4, 2, 50))  # fmt: skip
    assert np.isfinite(few).all()
