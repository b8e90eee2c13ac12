"""Against loops over splits and pairs, and simulations in which the truth is known."""

import math
from functools import partial

import numpy as np
import pytest

from posweep.errors import ShapeError
from posweep.robustness import (
    Sample,
    configuration_scores,
    cross_fitted_best,
    cross_fitted_choice,
    cross_fitted_regret,
    crossed_interval,
    filled,
    frontier_weights,
    halves,
    head_to_head,
    hypervolume,
    pick_best,
    pick_median,
    winner,
)


def table(seed: int, rates, seeds: int, prompts: int):
    """Wins against four opponents at known rates, by seed and prompt."""
    rng = np.random.default_rng(seed)
    return rng.binomial(4, np.array(rates)[:, None, None], (len(rates), seeds, prompts)) / 4


# --- choosing


def test_the_best_scored_on_the_other_half_is_the_cross_fitted_best():
    wins = table(0, np.full(9, 0.5), 1, 40)
    splits = halves(40, np.random.default_rng(3), 5)
    found = cross_fitted_choice(winner, wins, wins, [wins, 2 * wins], Sample.everything(1, 40), splits)
    expected = cross_fitted_best(wins[:, 0], np.random.default_rng(3), splits=5).value
    assert found == pytest.approx(np.array([[expected, 2 * expected]]), abs=1e-12)


def test_its_interval_covers_and_is_not_far_too_wide():
    """24 equal configurations at 0.55: what the best scores elsewhere is 0.55; its error is up to 1.4 times the spread."""
    found = []
    for seed in range(150):
        wins, splits = table(seed, np.full(24, 0.55), 1, 64), halves(64, np.random.default_rng(0), 2)
        statistic = partial(cross_fitted_choice, winner, wins, wins, [wins], splits=splits)
        found.append(crossed_interval(lambda s, f=statistic: f(sample=s), 1, 64, np.random.default_rng(1), 100)[0])
    assert np.mean([one.low <= 0.55 <= one.high for one in found]) > 0.93
    assert np.mean([one.error for one in found]) < 1.5 * np.std([one.value for one in found])


def test_an_area_without_luck():
    """Configurations as good as the SFT model: the plain area is above 0, the cross-fitted one is 0 on average."""
    plain, fitted = [], []
    for seed in range(150):
        wins = table(seed, np.full(12, 0.5), 1, 64)
        kl = np.broadcast_to(np.linspace(0.5, 9, 12)[:, None, None], wins.shape)
        plain.append(hypervolume(kl[:, 0, 0], wins.mean(axis=(1, 2)), 9.0))
        weigh = partial(frontier_weights, reference=9.0)
        splits = halves(64, np.random.default_rng(0), 4)
        fitted.append(cross_fitted_choice(weigh, kl, wins, [wins - 0.5], Sample.everything(1, 64), splits)[0, 0])
    assert np.mean(fitted) == pytest.approx(0, abs=4 * np.std(fitted) / math.sqrt(150))
    assert np.mean(plain) > 0.02


def test_the_middle_of_the_order():
    assert [pick_median(np.array(scores)) for scores in ([3, 1, 2], [4, 1, 3, 2], [5])] == [2, 3, 0]
    assert pick_best(np.array([1, 3, 3])) == 1


def test_one_prompt_chooses_for_itself():
    wins = np.array([[[0.25]], [[0.75]]])
    assert cross_fitted_choice(winner, wins, wins, [wins], Sample.everything(1, 1), []).tolist() == [[0.75]]
    assert cross_fitted_regret(np.array([1.0, 2.0]), wins, []).ravel().tolist() == [0.25, 0]


def test_a_lost_run_takes_the_mean_of_its_configurations_others():
    wins = np.array([[[0.0, 1.0], [math.nan] * 2, [1.0, 1.0]], [[0.5, 0.5]] * 3])
    assert filled(wins)[0, 1].tolist() == [0.5, 1.0]
    assert filled(wins)[1].tolist() == [[0.5, 0.5]] * 3


# --- regret


def test_regret_by_the_definition():
    wins, kl = table(1, [0.4, 0.6, 0.5, 0.7, 0.3], 2, 12), np.array([1.0, 2.0, 2.0, 5.0, 0.5])
    splits = halves(12, np.random.default_rng(0), 3)
    expected = np.zeros(wins.shape)
    for pair in splits:
        for half, other in (pair, pair[::-1]):
            for own in range(5):
                within = [c for c in range(5) if kl[c] <= kl[own]]
                best = max(within, key=lambda c: wins[c][:, half].mean())
                beaten = wins[best][:, half].mean() > 0.5
                for p in other:
                    expected[own, :, p] += (wins[best, :, p] if beaten else 0.5) - wins[own, :, p]
    assert cross_fitted_regret(kl, wins, splits) == pytest.approx(expected / 3)


def test_equal_configurations_leave_nothing_behind():
    """40 equal ones at 0.6: against the luckiest the mean regret is 0.05 and more; on other prompts it is 0."""
    found = []
    for seed in range(60):
        wins, kl = table(seed, np.full(40, 0.6), 1, 64), np.random.default_rng(seed).uniform(1, 9, 40)
        found.append(cross_fitted_regret(kl, wins, halves(64, np.random.default_rng(0), 4)).mean())
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / math.sqrt(60))


# --- head to head


def test_every_pair_of_different_seeds():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, (2, 1, 3, 10))  # one configuration each: nothing to pick
    selection = np.zeros((1, 10))
    splits = halves(10, np.random.default_rng(0), 2)
    wins, ties = head_to_head([ours * 1.0, theirs * 1.0], [selection] * 2, pick_best, splits)
    apart = [(j, k) for j in range(3) for k in range(3) if j != k]
    for found, outcome in ((wins, lambda a, b: (a > b) + 0.5 * (a == b)), (ties, lambda a, b: a == b)):
        expected = np.mean([outcome(ours[0, j], theirs[0, k]) for j, k in apart], axis=0)
        assert found[0, 1].mean(axis=0) == pytest.approx(expected)
        same = outcome(ours[0], theirs[0])
        moved = found[0, 1].mean(axis=1) - found[0, 1].mean()
        assert moved == pytest.approx(same.mean(axis=1) - same.mean())
    assert wins[0, 1] + wins[1, 0] == pytest.approx(np.ones((3, 10)))
    assert ties[0, 1] == pytest.approx(ties[1, 0])


def test_one_seed_is_compared_with_itself():
    scores = np.array([[[1.0, 2.0, 3.0, 3.0]]]), np.array([[[0.0, 2.0, 4.0, 4.0]]])
    wins, _ = head_to_head(scores, [np.zeros((1, 4))] * 2, pick_best, halves(4, np.random.default_rng(0)))
    assert wins[0, 1, 0].tolist() == [1, 0.5, 0, 0]
    assert wins[0, 0, 0].tolist() == [0.5] * 4


def test_the_configuration_is_picked_on_the_other_half():
    """Two configurations that win on opposite halves: each half picks the one that loses on the other."""
    (one, other), *_ = splits = halves(8, np.random.default_rng(0))
    scores = np.zeros((2, 1, 8))
    scores[0, 0, one], scores[1, 0, other] = 1.0, 1.0
    wins, _ = head_to_head([scores, np.full((1, 1, 8), 0.5)], [scores[:, 0], np.zeros((1, 8))], pick_best, splits)
    assert wins[0, 1].mean() == 0


def test_seeds_widen_the_interval_of_a_head_to_head():
    """Methods whose seeds differ by one unit in merit: the interval over seeds and prompts knows."""
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(1, 4, 1)) + rng.normal(size=(1, 4, 300)) for _ in range(2))
    wins, _ = head_to_head([ours, theirs], [np.zeros((1, 300))] * 2, pick_best, halves(300, np.random.default_rng(0)))
    draw = np.random.default_rng(1)
    found = crossed_interval(lambda s: configuration_scores(wins[0, 1][None], s), 4, 300, draw)
    prompts_only = wins[0, 1].mean(axis=0).std() / math.sqrt(300)
    assert found.error[0] > 2 * prompts_only
    assert configuration_scores(wins[0, 1][None], Sample.everything(4, 300))[0, 0] == pytest.approx(wins[0, 1].mean())


def test_methods_must_share_seeds_and_prompts():
    with pytest.raises(ShapeError, match="share seeds and prompts"):
        head_to_head([np.zeros((1, 1, 4)), np.zeros((1, 1, 5))], [np.zeros((1, 4))] * 2, pick_best, [])
