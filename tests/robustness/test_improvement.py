"""Against a double loop, scipy's Mann-Whitney U, and methods of which one is known to be better."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from posweep.errors import ShapeError
from posweep.robustness import Sample, improvement_matrix, probability_of_improvement
from posweep.robustness.improvement import all_pairs, improvement_of_runs
from posweep.robustness.ranking import holm_pairs

NAN = math.nan


def double_loop(one, other):
    """The definition, run by run."""
    found = [(x > y) + (x == y) / 2 for x in one for y in other if not (math.isnan(x) or math.isnan(y))]
    return sum(found) / len(found) if found else NAN


def coarse(rng, *shape):
    """Scores with many ties and some lost runs."""
    values = rng.integers(0, 6, shape) / 5
    values[rng.random(shape) < 0.2] = NAN
    return values


def test_the_double_loop_with_ties_and_lost_runs():
    rng = np.random.default_rng(0)
    one, other = coarse(rng, 50, 9), coarse(rng, 50, 13)
    expected = [double_loop(*pair) for pair in zip(one, other, strict=True)]
    assert probability_of_improvement(one, other) == pytest.approx(np.array(expected))


def test_mann_whitney():
    rng = np.random.default_rng(1)
    one, other = rng.normal(0.3, 1, 40), np.round(rng.normal(0, 1, 55), 1)
    expected = mannwhitneyu(one, other).statistic / (40 * 55)
    assert probability_of_improvement(one, other) == pytest.approx(expected, abs=1e-12)


def test_both_directions_add_up_to_one_and_equals_are_a_half():
    one, other = coarse(np.random.default_rng(2), 2, 3, 11)
    there, back = probability_of_improvement(one, other), probability_of_improvement(other, one)
    assert there.shape == (3,)
    assert there + back == pytest.approx(1)
    assert probability_of_improvement([0.5, 0.5], [0.5]) == 0.5
    assert probability_of_improvement([0.6, 0.7], [0.5, 0.1]) == 1


@pytest.mark.parametrize("pair", [([], [0.5]), ([NAN], [0.5]), ([], [])])
def test_without_runs_there_is_no_probability(pair):
    assert math.isnan(probability_of_improvement(*pair))


def test_other_leading_axes_are_named():
    with pytest.raises(ShapeError, match=r"\(3, 4\) and \(2, 4\)"):
        probability_of_improvement(np.zeros((3, 4)), np.zeros((2, 4)))


def test_all_pairs_are_the_pairs_in_one_piece_or_in_many(monkeypatch):
    rng = np.random.default_rng(3)
    runs, owner = coarse(rng, 7, 20), np.array([0] * 5 + [2] * 8 + [1] * 7)
    whole = all_pairs(runs, owner, np.ones_like(runs), 4)
    for x in range(3):
        for y in range(3):
            expected = probability_of_improvement(runs[:, owner == x], runs[:, owner == y])
            assert whole[:, x, y] == pytest.approx(expected)
    assert np.isnan(whole[:, 3]).all()
    monkeypatch.setattr("posweep.robustness.improvement.AT_ONCE", 100)
    assert all_pairs(runs, owner, np.ones_like(runs), 4) == pytest.approx(whole, nan_ok=True)


def test_drawn_seeds_bring_the_runs_of_drawn_seeds():
    rng = np.random.default_rng(4)
    table, owner = rng.random((7, 3, 5)), np.array([0, 0, 0, 1, 1, 1, 1])
    table[1, 2] = NAN
    drawn, prompts = np.array([2, 0, 2]), np.array([4, 4, 1, 0, 1])
    sample = Sample(np.bincount(drawn, minlength=3)[None] / 3, np.bincount(prompts, minlength=5)[None] / 5)
    runs = table[:, drawn][:, :, prompts].mean(axis=2)
    expected = double_loop(runs[:3].ravel(), runs[3:].ravel())
    assert improvement_of_runs(table, owner, sample, 2)[0, 0, 1] == pytest.approx(expected)


def test_a_method_none_of_whose_seeds_was_drawn_keeps_its_runs():
    table = np.random.default_rng(5).random((4, 2, 3))
    table[:2, 0] = NAN
    sample = Sample(np.array([[1.0, 0.0]]), np.full((1, 3), 1 / 3))
    runs = table.mean(axis=2)
    found = improvement_of_runs(table, np.array([0, 0, 1, 1]), sample, 2)[0, 0, 1]
    assert found == pytest.approx(double_loop(runs[:2, 1], runs[2:, 0]))


def world(rng, levels, configurations=6, seeds=3, prompts=40, spread=0.05):
    """Methods at known levels on common seeds and prompts."""
    luck = rng.normal(0, 0.05, (1, seeds, 1)) + rng.normal(0, 0.2, (1, 1, prompts))
    shape = (configurations, seeds, prompts)
    own = np.linspace(-spread, spread, configurations)[:, None, None]
    return [level + own + luck + rng.normal(0, 0.1, shape) for level in levels]


def test_the_matrix_is_the_definition_with_intervals_around_it():
    tables = world(np.random.default_rng(6), [0.5, 0.52, 0.7])
    found = improvement_matrix(tables, np.random.default_rng(0))
    runs = [table.mean(axis=2).ravel() for table in tables]
    means = [table.mean(axis=(1, 2)) for table in tables]
    for x in range(3):
        for y in range(3):
            assert found.runs.value[x, y] == pytest.approx(double_loop(runs[x], runs[y]))
            assert found.means.value[x, y] == pytest.approx(double_loop(means[x], means[y]))
    assert (np.nan_to_num(found.runs.low, nan=0) <= found.runs.value).all()
    assert np.nanmin(found.runs.low) >= 0
    assert np.nanmax(found.runs.high) <= 1
    assert np.isnan(np.diag(found.p)).all()
    assert found.adjusted == pytest.approx(found.adjusted.T, nan_ok=True)


def test_luck_that_methods_share_does_not_blur_their_comparison():
    """Seeds move both methods by 0.05 together, far more than the 0.02 between them: the pairing finds it all the same."""
    tables = world(np.random.default_rng(7), [0.50, 0.52], seeds=10, prompts=200)
    assert improvement_matrix(tables, np.random.default_rng(0)).p[0, 1] < 1e-3


def test_p_values_of_equal_methods_are_small_as_often_as_they_say():
    rng = np.random.default_rng(8)
    small = [improvement_matrix(world(rng, [0.5, 0.5], seeds=5), rng, replicates=100).p[0, 1] < 0.05 for _ in range(80)]
    assert np.mean(small) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 80)


def test_complete_separation_on_two_seeds_is_no_certainty():
    """Every run of X beats every run of Y in every draw, but two seeds of one prompt cannot prove it."""
    tables = [np.array([[[0.9], [0.7]]]), np.array([[[0.5], [0.55]]])]
    found = improvement_matrix(tables, np.random.default_rng(0))
    assert found.runs.value[0, 1] == 1
    assert np.isnan(found.runs.low[0, 1])
    assert found.p[0, 1] > 0.05


def test_winning_more_often_with_lower_means_is_no_improvement():
    """X's runs are ahead of Y's in 60 % of pairs, but four of its ten configurations fail, so that its IQM is lower."""
    levels = np.array([0.2] * 4 + [0.62] * 6), np.full(10, 0.6)
    rng = np.random.default_rng(0)
    tables = [one[:, None, None] + rng.normal(0, 0.01, (10, 1, 50)) for one in levels]
    found = improvement_matrix(tables, rng)
    assert found.runs.value[0, 1] == pytest.approx(0.6)
    assert found.p[0, 1] == 1


def test_nothing_drawn_is_no_p_value():
    found = improvement_matrix([np.full((3, 1, 1), 0.5), np.full((2, 1, 1), 0.4)], np.random.default_rng(0))
    assert found.runs.value[0, 1] == 1
    assert np.isnan(found.p).all()
    assert np.isnan(found.runs.low).all()


def test_a_method_without_scores_is_left_out():
    tables = [*world(np.random.default_rng(9), [0.5, 0.9]), np.full((2, 3, 40), NAN), np.empty((0, 3, 40))]
    found = improvement_matrix(tables, np.random.default_rng(0))
    assert np.isnan(found.adjusted[2:]).all()
    assert np.isnan(found.runs.value[2:]).all()
    assert found.adjusted[0, 1] == found.p[0, 1]


def test_one_method_has_no_pair():
    found = improvement_matrix(world(np.random.default_rng(9), [0.5]), np.random.default_rng(0))
    assert found.runs.value.tolist() == [[0.5]]
    assert np.isnan(found.adjusted).all()


def test_holm_counts_every_pair_once():
    p = np.array([[NAN, 0.01, 0.02], [0.01, NAN, 0.3], [0.02, 0.3, NAN]])
    assert holm_pairs(p)[0].tolist()[1:] == [pytest.approx(0.03), pytest.approx(0.04)]


def test_twenty_nine_methods_have_all_their_pairs():
    tables = world(np.random.default_rng(10), np.linspace(0.4, 0.6, 29), configurations=12, prompts=256)
    found = improvement_matrix(tables, np.random.default_rng(0))
    assert np.isfinite(found.adjusted[np.triu_indices(29, 1)]).all()
