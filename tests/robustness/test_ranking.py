"""What may be printed of an order: by hand, and against scipy's trimmed mean."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import trim_mean, ttest_rel

from posweep.robustness import interquartile_mean, ranking, typical, typical_differences, typical_of
from posweep.robustness.ranking import order, reversals, tiers

NAN = math.nan


def matrix(count, **significant):
    """Adjusted p-values: 0.01 for the pairs named like `p02`, 0.5 elsewhere."""
    found = np.full((count, count), 0.5)
    for name, p in significant.items():
        i, j = int(name[1]), int(name[2])
        found[i, j] = found[j, i] = p
    return found


def test_the_order_is_best_first_without_methods_that_have_no_score():
    assert order(np.array([0.2, NAN, 0.5, 0.3])) == (2, 3, 0)
    assert order(np.array([0.2, 0.2])) == (0, 1)
    assert order(np.array([NAN])) == ()


def test_a_cut_asks_for_all_pairs_across_it():
    """0 beats 2, 1 beats 2, but 0 and 1 are alike."""
    assert tiers((0, 1, 2), matrix(3, p02=0.01, p12=0.01)) == ((0, 1), (2,))
    assert tiers((0, 1, 2), matrix(3, p12=0.01)) == ((0, 1, 2),)
    assert tiers((0, 1, 2), matrix(3, p01=0.01, p02=0.01, p12=0.01)) == ((0,), (1,), (2,))
    assert tiers((), matrix(0)) == ()
    assert tiers((0, 1), np.full((2, 2), NAN)) == ((0, 1),)


def test_only_what_is_claimed_can_be_turned_round():
    claims = ((0, 2), (1, 2))
    assert reversals(claims, np.array([0.3, 0.4, 0.2])) == ()
    assert reversals(claims, np.array([0.5, 0.1, 0.2])) == ((1, 2),)
    assert reversals(claims, np.array([0.2, 0.2, 0.2])) == ()
    assert reversals(claims, np.array([NAN, 0.3, 0.2])) == ()


def test_a_ranking_survives_variants_that_keep_its_claims():
    values, adjusted = np.array([0.6, 0.5, 0.4]), matrix(3, p02=0.01, p12=0.01)
    found = ranking(values, adjusted, {"swaps equals": np.array([0.5, 0.6, 0.4])})
    assert (found.tiers, found.claims) == (((0, 1), (2,)), ((0, 2), (1, 2)))
    assert found.survives
    assert found.kept == found.claims


def test_a_ranking_names_the_variants_that_break_it():
    values, adjusted = np.array([0.6, 0.5, 0.4]), matrix(3, p02=0.01, p12=0.01)
    found = ranking(values, adjusted, {"fine": values, "worst": np.array([0.1, 0.5, 0.4])})
    assert found.broken == {"worst": ((0, 2),)}
    assert not found.survives
    assert found.kept == ((1, 2),)


def test_a_significant_difference_across_no_cut_is_a_claim_all_the_same():
    found = ranking(np.array([0.6, 0.5, 0.4]), matrix(3, p02=0.01), {})
    assert (found.tiers, found.claims) == (((0, 1, 2),), ((0, 2),))
    assert found.survives


def test_without_a_significant_difference_there_is_nothing_to_print():
    assert not ranking(np.array([0.6, 0.5]), matrix(2), {}).survives
    assert not ranking(np.array([NAN, NAN]), matrix(2), {}).survives
    assert not ranking(np.array([0.6]), matrix(1), {}).survives


# --- the statistic that is ordered


def test_the_typical_score_is_scipys_trimmed_mean_along_the_last_axis():
    scores = np.random.default_rng(0).random((5, 11))
    lost = np.insert(scores, 4, NAN, axis=1)
    assert typical(lost) == pytest.approx(trim_mean(scores, 0.25, axis=1))
    assert typical(lost[0]) == pytest.approx(interquartile_mean(lost[0]))


def test_without_scores_there_is_no_typical_one():
    assert np.isnan(typical(np.full((3, 2), NAN))).all()
    assert np.isnan(typical(np.empty((3, 0)))).all()
    assert math.isnan(typical(np.empty(0)))


def test_differences_are_paired_over_seeds_and_prompts():
    """Two methods apart by exactly 0.1 on every prompt and seed: no error, however much both move together."""
    table = np.random.default_rng(1).random((5, 3, 9))
    found = typical_differences([table + 0.1, table, np.full((2, 3, 9), NAN)], np.random.default_rng(0))
    assert found.value[:2, :2] == pytest.approx(np.array([[0, 0.1], [-0.1, 0]]), abs=1e-12)
    assert found.p[0, 1] == pytest.approx(0, abs=1e-12)
    assert np.isnan(found.value[2]).all()
    assert np.isnan(found.adjusted[2]).all()
    assert np.isnan(np.diag(found.p)).all()


def equal_methods(rng, count, seeds, prompts=60):
    """Methods of the same true scores that move with the seed, each in its own way, and share prompts."""
    levels, luck = np.linspace(0.3, 0.6, 8)[:, None, None], rng.normal(0, 0.15, prompts)
    own = [rng.normal(0, 0.03, (1, seeds, 1)) + rng.normal(0, 0.05, (8, seeds, 1)) for _ in range(count)]
    return [levels + luck + mine + rng.normal(0, 0.3, (8, seeds, prompts)) for mine in own]


@pytest.mark.parametrize("seeds", [2, 5])
def test_of_many_equal_methods_hardly_ever_is_one_found_better(seeds):
    """Two seeds: some of 45 pairs show no variance over seeds by luck; taken at their word they would all be certain."""
    rng, worlds = np.random.default_rng(seeds), 30
    found = [typical_differences(equal_methods(rng, 10, seeds), rng, 100) for _ in range(worlds)]
    assert np.mean([np.nanmin(one.adjusted) < 0.05 for one in found]) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / worlds)
    assert 0.01 < np.mean([one.p[np.triu_indices(10, 1)] < 0.05 for one in found]) < 0.09


def test_p_of_two_methods_with_one_seed_is_that_of_paired_prompts():
    rng = np.random.default_rng(3)
    tables = [rng.normal(0.5 + shift, 0.3, (1, 1, 50)) for shift in (0, 0.1)]
    expected = ttest_rel(tables[0][0, 0], tables[1][0, 0]).pvalue
    found = typical_differences(tables, rng, 40_000)
    assert found.p[0, 1] == pytest.approx(expected, rel=0.05)
    assert found.over.startswith("50 prompts, given this seed")


def test_nothing_drawn_is_no_p_value():
    found = typical_differences([np.full((3, 1, 1), 0.5), np.full((2, 1, 1), 0.4)], np.random.default_rng(0))
    assert np.isnan(found.p).all()


def test_fewer_configurations_by_all_subsets():
    scores = np.array([0.1, 0.4, NAN, 0.5, 0.9, 0.95])
    expected = np.mean([trim_mean(chosen, 0.25) for chosen in combinations(scores[~np.isnan(scores)], 4)])
    assert typical_of(scores, 4, np.random.default_rng(0), draws=20_000) == pytest.approx(expected, abs=2e-3)
    assert typical_of(scores, 9, np.random.default_rng(0)) == pytest.approx(interquartile_mean(scores))
    assert math.isnan(typical_of(np.array([NAN]), 1, np.random.default_rng(0)))
