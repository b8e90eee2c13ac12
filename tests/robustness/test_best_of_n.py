"""Against all subsets, with ties broken by hand, and the KL of small distributions worked out in full."""

import itertools
import math

import numpy as np
import pytest

from posweep.errors import ShapeError
from posweep.robustness import best_of_n, best_of_n_kl


def by_hand(scores, values, n):
    """The mean over all subsets of n; in each, of those with the highest score."""
    found = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        found.append(np.mean([values[i] for i in subset if scores[i] == top]))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(4))
def test_all_subsets(seed):
    rng = np.random.default_rng(seed)
    scores, values = rng.integers(0, 4, (5, 7)), rng.random((5, 7))
    expected = [[by_hand(s, v, n) for n in range(1, 8)] for s, v in zip(scores, values, strict=True)]
    assert best_of_n(scores, values) == pytest.approx(np.array(expected), abs=1e-12)
    assert best_of_n(scores, values, [2, 5]) == pytest.approx(np.array(expected)[:, [1, 4]], abs=1e-12)


def test_one_is_the_mean_and_all_is_the_best():
    scores, values = [3.0, 1.0, 2.0, 0.0], [0.25, 1.0, 0.5, 0.75]
    assert best_of_n(scores, values, [1, 4]).tolist() == [0.625, 0.25]
    assert best_of_n([1.0, 1.0], [0.0, 1.0]).tolist() == [0.5, 0.5]


def test_it_is_unbiased_for_fresh_responses():
    """Best of 2 of responses with uniform scores, valued by them: 2/3; of 4: 4/5; whatever the K at hand."""
    scores = np.random.default_rng(0).random((40_000, 6))
    found = best_of_n(scores, scores, [2, 4]).mean(axis=0)
    assert found == pytest.approx([2 / 3, 4 / 5], abs=0.005)


def test_more_than_there_are_is_not_known():
    assert np.isnan(best_of_n([1.0, 2.0], [1.0, 2.0], [3])).all()
    assert best_of_n(np.empty((3, 0)), np.empty((3, 0))).shape == (3, 0)
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        best_of_n([1, 2], [1, 2, 3])


# --- its KL


def test_the_bound_is_reached_without_ties_and_not_exceeded_with_them():
    """π_n(r) = (r/M)ⁿ − ((r−1)/M)ⁿ for M equally likely responses of distinct scores."""
    for n in (2, 4, 8):
        fine, coarse = (sum_kl(count, n) for count in (200_000, 5))
        assert fine == pytest.approx(float(best_of_n_kl(n)), abs=1e-4)
        assert coarse < best_of_n_kl(n)


def sum_kl(count: int, n: int) -> float:
    ranks = np.arange(1, count + 1) / count
    chosen = ranks**n - (ranks - 1 / count) ** n
    chosen = chosen[chosen > 0]
    return float((chosen * np.log(chosen * count)).sum())


def test_no_choice_costs_nothing():
    assert best_of_n_kl([1, 2]) == pytest.approx([0.0, math.log(2) - 0.5])
