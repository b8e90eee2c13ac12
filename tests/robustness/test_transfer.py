"""What one task says of another: against scipy, double loops, and simulated tasks whose truth is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from posweep.errors import ShapeError
from posweep.robustness.best import halves
from posweep.robustness.crossed import Sample, configuration_scores, crossed_interval
from posweep.robustness.transfer import PARTS, Tasks, rank_correlation, transfer, two_task_interval


def table(rng, truth, seeds=1, prompts=64, noise=0.4, run=0.0):
    """Scores around a truth per configuration, (configurations, seeds, prompts)."""
    runs = truth[:, None] + run * rng.standard_normal((len(truth), seeds))
    return runs[:, :, None] + noise * rng.standard_normal((len(truth), seeds, prompts))


def everything(one, other) -> tuple[Sample, Sample]:
    return Tasks.of(one, other).everything()


# --- rank correlation


@pytest.mark.parametrize("configurations", [3, 12, 100])
def test_rank_correlation_is_that_of_scipy(configurations):
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 8, (2, 5, configurations)).astype(float)
    assert rank_correlation(one, other) == pytest.approx(
        [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    )


def test_a_configuration_without_a_score_on_one_task_is_left_out():
    one, other = np.array([1.0, 2.0, np.nan, 3.0, 0.0]), np.array([1.0, 3.0, 9.0, 2.0, np.nan])
    assert rank_correlation(one, other) == pytest.approx(0.5)


@pytest.mark.parametrize("one", [[], [1.0], [2.0, 2.0, 2.0], [np.nan, np.nan]])
def test_without_an_order_there_is_no_correlation(one):
    assert np.isnan(rank_correlation(np.array(one), np.arange(len(one), dtype=float)))


def test_rounding_breaks_no_ties():
    assert rank_correlation(np.array([0.1 + 0.2, 0.3, 0.5]), np.array([0.0, 0.0, 1.0])) == pytest.approx(1.0)


# --- transfer


def by_hand(one, other, splits, default, same_prompts=False):
    """A loop over splits, directions and configurations; no configuration lacks a score."""
    sums = np.zeros(len(PARTS))
    for pair in splits:
        for half, rest in (pair, pair[::-1]):
            scored = [np.mean([run[rest].mean() for run in runs]) for runs in other]
            own = [np.mean([run[half].mean() for run in runs]) for runs in other]
            there = [np.mean([(run[half] if same_prompts else run).mean() for run in runs]) for runs in one]
            sums += [scored[np.argmax(there)], scored[np.argmax(own)], scored[default], np.mean(scored)]
    return sums / (2 * len(splits))


@pytest.mark.parametrize("same_prompts", [False, True])
def test_transfer_is_what_a_loop_finds(same_prompts):
    rng = np.random.default_rng(1)
    one, other = rng.random((6, 2, 10)), rng.random((6, 3, 10))
    splits = halves(10, rng, 5)
    found = transfer(one, other, everything(one, other), splits, 2, same_prompts)
    assert found[0] == pytest.approx(by_hand(one, other, splits, 2, same_prompts))


def test_replicates_are_what_they_are_one_by_one():
    rng = np.random.default_rng(2)
    one, other = rng.random((5, 2, 8)), rng.random((5, 2, 8))
    splits = halves(8, rng, 3)
    drawn = Sample(Sample.of_seeds(rng, 2, 8, 4).seeds, Sample.of_prompts(rng, 2, 8, 4).prompts)
    pair = drawn, Sample.of_prompts(rng, 2, 8, 4)
    together = transfer(one, other, pair, splits, 0)
    for r in range(4):
        alone = tuple(Sample(s.seeds[r : r + 1], s.prompts[r : r + 1]) for s in pair)
        assert transfer(one, other, alone, splits, 0)[0] == pytest.approx(together[r])


def test_only_configurations_with_a_score_on_both_tasks_count():
    rng = np.random.default_rng(3)
    one, other = rng.random((6, 1, 8)), rng.random((6, 1, 8))
    splits = halves(8, rng, 2)
    kept = [1, 3, 4, 5]
    expected = transfer(one[kept], other[kept], everything(one, other), splits, 1)
    one[0], other[2] = np.nan, np.nan
    found = transfer(one, other, everything(one, other), splits, 3)
    assert found == pytest.approx(expected)
    assert np.isnan(transfer(one, other, everything(one, other), splits, 2)[0, 2])


def test_scores_without_prompts_are_split_by_seeds():
    one = np.array([[[0.1], [0.1]], [[0.9], [0.9]]])
    other = np.array([[[0.2], [0.6]], [[0.4], [0.3]]])
    splits = halves(2, np.random.default_rng(0))
    found = transfer(one, other, everything(one, other), splits, 0)[0]
    assert found == pytest.approx([0.35, (0.3 + 0.2) / 2, 0.4, 0.375])


def test_where_nothing_can_be_split_there_is_no_own_best():
    one, other = np.array([[[0.1]], [[0.9]]]), np.array([[[0.2]], [[0.6]]])
    found = transfer(one, other, everything(one, other), [], 0)[0]
    assert found == pytest.approx([0.6, np.nan, 0.2, 0.4], nan_ok=True)


def test_nothing_in_common_is_nothing():
    one, other = np.full((2, 1, 4), np.nan), np.ones((2, 1, 4))
    assert np.isnan(transfer(one, other, everything(one, other), halves(4, np.random.default_rng(0)), 0)).all()
    empty = np.empty((0, 1, 4))
    assert np.isnan(transfer(empty, empty, everything(empty, empty), halves(4, np.random.default_rng(0)))).all()


def test_equal_configurations_have_no_regret():
    """A plain maximum would promise one: what is left is the luck of the sweep, and its mean is 0."""
    rng, regrets, plain = np.random.default_rng(4), [], []
    for _ in range(200):
        one, other = table(rng, np.full(12, 0.55)), table(rng, np.full(12, 0.55))
        found = transfer(one, other, everything(one, other), halves(64, rng, 4))[0]
        regrets.append(found[1] - found[0])
        plain.append(other.mean(axis=(1, 2)).max() - found[0])
    assert abs(np.mean(regrets)) < 4 * np.std(regrets) / np.sqrt(200)
    assert np.mean(plain) > 0.05


def test_regret_is_what_the_other_task_would_have_given():
    """The first task likes configuration 0, which is 0.2 below the best of the second."""
    rng = np.random.default_rng(5)
    one, other = np.array([0.9, 0.5, 0.4, 0.3]), np.array([0.5, 0.7, 0.4, 0.3])
    found = [
        transfer(a, b, everything(a, b), halves(64, rng, 2), 2)[0]
        for a, b in ((table(rng, one, noise=0.2), table(rng, other, noise=0.2)) for _ in range(100))
    ]
    assert np.mean(found, axis=0) == pytest.approx([0.5, 0.7, 0.4, 0.475], abs=0.01)


def test_the_same_prompts_do_not_flatter_what_is_lucky_with_them():
    """Configurations are equal; each has its own luck with each prompt, the same on both tasks."""
    rng, naive, fair = np.random.default_rng(6), [], []
    for _ in range(200):
        luck = 0.4 * rng.standard_normal((12, 1, 64))
        pair = everything(luck, luck)
        splits = halves(64, rng, 4)
        naive.append(transfer(luck, luck, pair, splits)[0, 0])
        fair.append(transfer(luck, luck, pair, splits, same_prompts=True)[0, 0])
    assert np.mean(naive) > 0.06
    assert abs(np.mean(fair)) < 4 * np.std(fair) / np.sqrt(200)


# --- the interval


def test_an_interval_of_one_task_alone_is_that_of_the_crossed_bootstrap():
    rng = np.random.default_rng(7)
    one, other = rng.random((3, 4, 30)), rng.random((3, 5, 20))
    found = two_task_interval(
        lambda a, _: configuration_scores(one, a), Tasks.of(one, other), np.random.default_rng(0), replicates=20_000
    )
    expected = crossed_interval(
        lambda a: configuration_scores(one, a), 4, 30, np.random.default_rng(1), replicates=20_000
    )
    assert found.value == pytest.approx(expected.value)
    assert found.error == pytest.approx(expected.error, rel=0.03)
    assert found.freedom == pytest.approx(expected.freedom, rel=0.1)


def test_errors_of_two_tasks_add_up():
    rng = np.random.default_rng(8)
    one, other = rng.random((1, 4, 30)), rng.random((1, 5, 20))
    tasks, draws = Tasks.of(one, other), np.random.default_rng(0)
    difference = two_task_interval(
        lambda a, b: configuration_scores(one, a) - configuration_scores(other, b), tasks, draws, 20_000
    )
    errors = [
        crossed_interval(lambda a, t=t: configuration_scores(t, a), *t.shape[1:], draws, 20_000).error
        for t in (one, other)
    ]
    assert difference.error == pytest.approx(np.hypot(*errors), rel=0.03)


def test_prompts_of_both_tasks_move_both():
    """On the same prompts equal tables differ by nothing but seeds; on prompts of their own they do."""
    scores = np.random.default_rng(9).random((1, 1, 40))

    def statistic(a, b):
        return configuration_scores(scores, a) - configuration_scores(scores, b)

    common = two_task_interval(statistic, Tasks.of(scores, scores, True), np.random.default_rng(0))
    apart = two_task_interval(statistic, Tasks.of(scores, scores), np.random.default_rng(0))
    assert common.error == pytest.approx(0)
    assert apart.error > 0.05
    assert "drawn once for both" in common.over


def test_one_seed_and_no_prompts_give_no_interval():
    one = np.array([[[0.1]], [[0.9]]])
    found = two_task_interval(lambda a, _: configuration_scores(one, a), Tasks.of(one, one), np.random.default_rng(0))
    assert found.value == pytest.approx([0.1, 0.9])
    assert np.isnan([found.error, found.low, found.high]).all()


@pytest.mark.parametrize(
    ("shapes", "same"), [(((2, 1, 4), (3, 1, 4)), False), (((2, 4), (2, 1, 4)), False), (((2, 1, 4), (2, 1, 5)), True)]
)
def test_tables_that_do_not_go_together_are_refused(shapes, same):
    with pytest.raises(ShapeError):
        Tasks.of(*map(np.zeros, shapes), same)


@pytest.mark.torture
def test_intervals_of_regret_cover_what_they_say():
    """Three configurations that are far apart: then the choice is certain, and the truth of the regret is 0.6."""
    rng, covered, count = np.random.default_rng(10), 0, 600
    for _ in range(count):
        one = table(rng, np.array([0.9, 0.5, 0.1]), 5, run=0.05, noise=0.2) + 0.4 * rng.standard_normal((3, 1, 64))
        other = table(rng, np.array([0.3, 0.9, 0.1]), 5, run=0.05, noise=0.2) + 0.4 * rng.standard_normal((3, 1, 64))
        splits = halves(64, rng, 2)

        def regret(a, b, one=one, other=other, splits=splits):
            found = transfer(one, other, (a, b), splits)
            return found[:, 1] - found[:, 0]

        interval = two_task_interval(regret, Tasks.of(one, other), rng, 200)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.92 < covered / count < 0.98
