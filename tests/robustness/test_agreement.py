"""Against closed forms, naive loops, and a simulation whose spread over prompts is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from posweep.errors import ShapeError
from posweep.robustness import agreement, kappa, rank_agreement

NOTHING = ([], [math.nan], np.empty((0, 3)), np.full((2, 2), math.nan))


def judged(rng: np.random.Generator, gains: np.ndarray, prompts: int, opponents: int = 4, own: float = 0.5):
    """Wins of configurations (gain under each judge) against some opponents; what judges see is in part their own.

    Args:
        gains: (2, configurations), standard deviations of a response's quality.
        own: share of that quality's variance that is one judge's alone.
    """
    prompt = rng.normal(size=prompts)
    shared = rng.normal(size=(gains.shape[1], prompts)), rng.normal(size=(prompts, opponents))
    tables = []
    for gain in gains:
        ours, theirs = (math.sqrt(1 - own) * part + math.sqrt(own) * rng.normal(size=part.shape) for part in shared)
        scores = gain[:, None] + prompt + ours
        tables.append((scores[:, :, None] > theirs + prompt[:, None]).mean(axis=2))
    return tables


def tau_by_hand(one, other) -> float:
    """Kendall's definition, pair by pair."""
    concordant = one_differs = other_differs = 0
    for i, j in combinations(range(len(one)), 2):
        a, b = np.sign(one[i] - one[j]), np.sign(other[i] - other[j])
        concordant, one_differs, other_differs = concordant + a * b, one_differs + abs(a), other_differs + abs(b)
    return concordant / math.sqrt(one_differs * other_differs)


# --- agreement


def test_one_of_each_kind_of_comparison():
    """Same side 1, both tie 1, one ties ½, opposite sides 0; how far a win lies from ½ does not matter."""
    one = [1.0, 0.75, 0.25, 0.5, 0.5, 1.0, 0.0]
    other = [0.51, 1.0, 0.0, 0.5, 0.75, 0.5, 1.0]
    each = [agreement([a], [b]) for a, b in zip(one, other, strict=True)]
    assert each == [1, 1, 1, 1, 0.5, 0.5, 0]
    assert agreement(one, other) == pytest.approx(sum(each) / 7)


def test_judges_are_interchangeable_and_sides_too():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (2, 40, 7)) / 4
    for statistic in (agreement, kappa):
        assert [statistic(other, one), statistic(1 - one, 1 - other)] == pytest.approx([statistic(one, other)] * 2)


def test_comparisons_that_one_judge_lacks_are_dropped():
    one, other = np.array([1, 0, math.nan, 0.5]), np.array([1, 1, 1, math.nan])
    assert agreement(one, other) == 0.5
    assert kappa(one, other) == kappa([1, 0], [1, 1])


# --- kappa


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # win/loss only: observed 0.7, by chance 0.5·0.6 + 0.5·0.4 = 0.5
        ({(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15}, 0.4),
        # thirds, always the same: chance is 1 − E|v − v′| = 1 − 4/9
        ({(1, 1): 5, (0.5, 0.5): 5, (0, 0): 5}, 1.0),
        # opposite: observed 0, chance ½
        ({(1, 0): 8, (0, 1): 8}, -1.0),
        # independent: every combination as often as its margins say
        ({(1, 1): 6, (1, 0.5): 2, (1, 0): 4, (0, 1): 3, (0, 0.5): 1, (0, 0): 2}, 0.0),
        # one judge always ties: right by half whatever the other says
        ({(0.5, 1): 4, (0.5, 0): 3}, 0.0),
        # a tie for a win once in four: observed 7/8; by chance ¼·½ + ¼·½·½ + ¼·½·½ + ½·½ = ½
        ({(1, 1): 1, (0.5, 1): 1, (0, 0): 2}, 0.75),
    ],
)
def test_tables_worked_by_hand(counts, expected):
    one, other = zip(*(pair for pair, count in counts.items() for _ in range(count)), strict=True)
    assert kappa(one, other) == pytest.approx(expected)


def test_kappa_is_agreement_against_that_of_strangers():
    """By chance: every verdict of one judge beside every verdict of the other, whatever they were about."""
    rng = np.random.default_rng(1)
    one = rng.integers(0, 5, 60) / 4
    other = np.where(rng.random(60) < 0.6, one, rng.integers(0, 5, 60) / 4)
    strangers = np.mean([agreement([a], [b]) for a in one for b in other])
    assert kappa(one, other) == pytest.approx((agreement(one, other) - strangers) / (1 - strangers))
    assert kappa(one, other) > 0.3


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.filterwarnings("error")
def test_without_comparisons_there_is_no_agreement(nothing):
    assert math.isnan(agreement(nothing, nothing))
    assert math.isnan(kappa(nothing, nothing))


@pytest.mark.parametrize("verdict", [0.0, 0.5, 1.0])
def test_judges_with_one_verdict_for_everything_agree_without_merit(verdict):
    assert agreement([verdict] * 3, [verdict] * 3) == 1
    assert math.isnan(kappa([verdict] * 3, [verdict] * 3))


# --- the order of configurations


def test_tau_is_that_of_the_definition_and_of_scipy():
    rng = np.random.default_rng(2)
    for count in (2, 3, 8, 25):
        one, other = (rng.integers(0, 2, (2, count, 6)) / 2) + rng.integers(0, 2, (count, 6)) / 2
        rates = one.mean(axis=1), other.mean(axis=1)
        if min(map(np.ptp, rates)) > 0:
            found = rank_agreement(one, other, rng, replicates=2).tau
            assert found == pytest.approx(tau_by_hand(*rates))
            assert found == pytest.approx(kendalltau(*rates).statistic)


def test_the_same_wins_in_another_order_are_level():
    """Thirds add up differently from the left and from the right; that must not order two configurations."""
    rng = np.random.default_rng(3)
    row = rng.integers(0, 4, 50) / 3
    one = np.stack([row, row[::-1], rng.permutation(row), row * 0.5])
    other = np.stack([row * 0.25, row * 0.5, row * 0.75, row * 0])
    found = rank_agreement(one, other, rng, replicates=2).tau
    assert found == pytest.approx(3 / math.sqrt(3 * 6))


def test_the_interval_is_that_of_one_draw_of_prompts_for_all():
    """The same draws with explicit indices: both judges and all configurations see the same prompts."""
    gains = np.linspace(0, 1, 6) * np.ones((2, 1))
    one, other = judged(np.random.default_rng(4), gains, 30)
    found = rank_agreement(one, other, np.random.default_rng(5), replicates=200)
    counts = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), 200)
    drawn = [np.repeat(np.arange(30), count) for count in counts]
    taus = [tau_by_hand(*(table[:, p].mean(axis=1).round(9) for table in (one, other))) for p in drawn]
    margin = 1.96 * np.std(taus, ddof=1)
    assert (found.low, found.high) == pytest.approx((found.tau - margin, min(found.tau + margin, 1)))


@pytest.mark.parametrize(
    ("configurations", "prompts", "spread"),
    [
        (12, 256, 0.3),
        pytest.param(36, 96, 0.3, marks=pytest.mark.torture),
        pytest.param(60, 96, 0.1, marks=pytest.mark.torture),
    ],
)
def test_the_interval_covers_what_other_prompts_say(configurations, prompts, spread):
    """About 95 % of the intervals hold the mean of τ-b over fresh prompts, and they are as wide as its spread."""
    rng = np.random.default_rng(6)
    base = rng.normal(size=(2, configurations)) * spread
    gains = np.stack([base[0], 0.9 * base[0] + 0.4 * base[1]])
    found = [rank_agreement(*judged(rng, gains, prompts), rng, replicates=60) for _ in range(120)]
    truth = np.mean([one.tau for one in found])
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.87 <= covered <= 0.995  # 95 % within four standard errors of 120 worlds
    assert np.mean([one.high - one.tau for one in found]) == pytest.approx(
        1.96 * np.std([o.tau for o in found]), rel=0.25
    )


def test_drawn_prompts_order_close_configurations_less_alike():
    """Why the interval stands around τ-b itself: 97 % of what resampling gives lies below it."""
    rng = np.random.default_rng(9)
    one, other = judged(rng, rng.normal(size=100) * np.full((2, 1), 0.3), 200, own=0.2)
    drawn = rng.integers(0, 200, (60, 200))
    taus = [kendalltau(one[:, p].mean(axis=1), other[:, p].mean(axis=1)).statistic for p in drawn]
    assert np.percentile(taus, 97) < rank_agreement(one, other, rng).tau


def test_judges_of_one_mind_and_of_opposite_minds():
    rng = np.random.default_rng(7)
    wins = (rng.random((9, 200)) < np.linspace(0.1, 0.9, 9)[:, None]).astype(float)
    same, opposite = rank_agreement(wins, wins, rng), rank_agreement(wins, 1 - wins, rng)
    assert (same.tau, same.low, same.high) == pytest.approx((1, 1, 1))
    assert (opposite.tau, opposite.high) == pytest.approx((-1, -1))


def test_a_configuration_without_wins_under_one_judge_is_dropped():
    rng = np.random.default_rng(8)
    one, other = judged(rng, np.array([[0, 1, 2, 3.0]] * 2), 40)
    holed = other.copy()
    holed[1, 3] = math.nan
    left = rank_agreement(np.delete(one, 1, 0), np.delete(other, 1, 0), np.random.default_rng(0))
    assert rank_agreement(one, holed, np.random.default_rng(0)) == left


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.zeros((3, 0)), np.zeros((3, 0))),
        (np.ones((1, 4)), np.ones((1, 4))),
        (np.full((3, 4), 0.5), np.eye(3, 4)),
        (np.eye(4), np.cumsum(np.eye(4), axis=1)),
        (np.full((3, 4), math.nan), np.ones((3, 4))),
    ],
)
@pytest.mark.filterwarnings("error")
def test_where_there_is_no_order_there_is_no_tau(one, other):
    found = rank_agreement(one, other, np.random.default_rng(0))
    assert all(map(math.isnan, (found.tau, found.low, found.high)))


@pytest.mark.filterwarnings("error")
def test_one_prompt_orders_but_says_nothing_of_others():
    found = rank_agreement(np.array([[0.0], [1.0]]), np.array([[0.25], [0.5]]), np.random.default_rng(0))
    assert found.tau == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_tables_that_do_not_match_are_named():
    with pytest.raises(ShapeError, match=r"both judges must have the same comparisons, got \(2,\) and \(3,\)"):
        agreement([0, 1], [0, 1, 1])
    with pytest.raises(ShapeError, match=r"wins must have shape \(configurations, prompts\), got \(4,\)"):
        rank_agreement(np.zeros(4), np.zeros(4), np.random.default_rng(0))
