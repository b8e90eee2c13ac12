"""Against hand-drawn frontiers, brute force over pairs, subsets and grids, and Optuna's hypervolume."""

import math
from itertools import combinations

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from posweep.robustness import best_of_draws, best_within, frontier_weights, hypervolume, non_dominated, regret

KL = np.array([1.0, 4.0, 9.0, 16.0, 4.0, 25.0])
WIN = np.array([0.55, 0.65, 0.60, 0.70, 0.65, 0.45])


def made(seed: int, count: int, ties: bool = False):
    """Random configurations in (0, 40) nats, some of which lose to the SFT model."""
    rng = np.random.default_rng(seed)
    kl, win = rng.gamma(1.5, 6, count), rng.uniform(0.35, 0.75, count)
    return (np.round(kl / 5) * 5, np.round(win * 20) / 20) if ties else (kl, win)


def dominated_by_hand(kl, win):
    pairs = list(zip(kl, win, strict=True))
    return [any(k <= a and w >= b and (k < a or w > b) for k, w in pairs) for a, b in pairs]


def area_by_grid(kl, win, reference, points=40_001):
    """The definition: the mean over budgets, evenly spaced in √KL, of what the best within each wins above ½."""
    edges = np.linspace(0, math.sqrt(reference), points)
    budgets = ((edges[1:] + edges[:-1]) / 2) ** 2
    best = [max([0.5, *(w for k, w in zip(kl, win, strict=True) if k <= budget)]) for budget in budgets]
    return float(np.mean(best)) - 0.5


# --- who is on it


def test_a_frontier_drawn_by_hand():
    """(1, .55), then (4, .65) twice, then (16, .70); 9 nats for .60 and 25 for .45 are beaten for less."""
    assert non_dominated(KL, WIN).tolist() == [True, True, False, True, True, False]
    assert regret(KL, WIN) == pytest.approx([0, 0, 0.05, 0, 0, 0.25])
    assert best_within(KL, WIN).tolist() == [0, 1, 1, 3, 1, 3]


@pytest.mark.parametrize("seed", range(12))
def test_every_pair_compared(seed):
    kl, win = made(seed, 25, ties=seed % 2 == 1)
    assert non_dominated(kl, win).tolist() == [not beaten for beaten in dominated_by_hand(kl, win)]
    offered = [max(0.5, win[kl <= own].max()) for own in kl]
    assert regret(kl, win) == pytest.approx(np.array(offered) - win)
    for own, chosen, best in zip(kl, best_within(kl, win), offered, strict=True):
        assert best == 0.5 if chosen < 0 else (win[chosen], kl[chosen] <= own) == (best, True)


def test_replicates_are_taken_one_by_one():
    worlds = [made(seed, 9, ties=True) for seed in range(6)]
    kl, win = (np.array(part).reshape(2, 3, 9) for part in zip(*worlds, strict=True))
    for statistic in (non_dominated, regret, best_within, lambda k, w: frontier_weights(k, w, 20.0, 4)):
        together = statistic(kl, win).reshape(6, 9)
        assert np.array_equal(together, [statistic(*world) for world in worlds])


def test_what_has_no_number_is_on_no_frontier():
    kl, win = np.array([1.0, math.nan, 2.0, 3.0]), np.array([0.6, 0.9, math.nan, 0.7])
    assert non_dominated(kl, win).tolist() == [True, False, False, True]
    assert regret(kl, win)[[0, 3]].tolist() == [0, 0]
    assert np.isnan(regret(kl, win)[2])
    assert frontier_weights(kl, win, 9.0)[[1, 2]].tolist() == [0, 0]
    assert not non_dominated([math.nan], [0.5]).any()


@pytest.mark.parametrize("statistic", [non_dominated, regret, best_within, lambda k, w: frontier_weights(k, w, 4.0)])
def test_nothing_is_nothing(statistic):
    assert statistic(np.empty(0), np.empty(0)).shape == (0,)
    assert hypervolume(np.empty(0), np.empty(0), 4.0) == 0


# --- its area


def test_a_hypervolume_by_hand():
    """√KL 1–2 at .05, 2–4 at .15, 4–5 at .20: 0.05 + 0.30 + 0.20 over 5."""
    assert hypervolume(KL, WIN, 25.0) == pytest.approx(0.55 / 5)
    assert frontier_weights(KL[:4], WIN[:4], 25.0) == pytest.approx([0.2, 0.4, 0, 0.2])


@pytest.mark.parametrize("seed", range(6))
def test_the_grid_and_optuna_agree(seed):
    kl, win = made(seed, 14, ties=seed % 2 == 1)
    found = float(hypervolume(kl, win, 30.0))
    assert found == pytest.approx(area_by_grid(kl, win, 30.0), abs=1e-4)
    losses = np.column_stack([np.sqrt(kl), -win])
    inside = losses[(losses[:, 0] < math.sqrt(30)) & (win > 0.5)]
    reference = np.array([math.sqrt(30), -0.5])
    assert found * math.sqrt(30) == pytest.approx(compute_hypervolume(inside, reference), rel=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 8])
def test_the_mean_over_all_subsets(draws):
    kl, win = made(3, 8, ties=True)
    subsets = [list(subset) for subset in combinations(range(8), draws)]
    expected = np.mean([hypervolume(kl[subset], win[subset], 30.0) for subset in subsets])
    assert hypervolume(kl, win, 30.0, draws) == pytest.approx(expected, abs=1e-12)


def test_more_configurations_are_no_advantage_at_equal_draws():
    """From one distribution, 8 of 40 are worth as much as all of 8; all of 40 are worth more."""
    few = [float(hypervolume(*made(seed, 8), 30.0)) for seed in range(400)]
    many = [float(hypervolume(*made(seed, 40), 30.0, 8)) for seed in range(400, 800)]
    unfair = [float(hypervolume(*made(seed, 40), 30.0)) for seed in range(400, 800)]
    error = math.hypot(np.std(few), np.std(many)) / 20
    assert np.mean(many) == pytest.approx(np.mean(few), abs=4 * error)
    assert np.mean(unfair) > np.mean(few) + 10 * error


def test_losers_and_spenders_have_no_area():
    assert hypervolume([1.0, 2.0], [0.5, 0.3], 9.0) == 0
    assert hypervolume([10.0], [0.9], 9.0) == 0
    assert hypervolume([0.0], [0.9], 9.0) == pytest.approx(0.4)


@pytest.mark.parametrize(("count", "draws"), [(1, 1), (5, 1), (5, 2), (5, 5), (30, 7)])
def test_chances_of_being_the_best_drawn(count, draws):
    expected = [math.comb(count - rank, draws - 1) / math.comb(count, draws) for rank in range(1, count + 1)]
    assert best_of_draws(count, draws) == pytest.approx(expected, abs=1e-15)
