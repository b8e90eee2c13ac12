"""Grids, curves along one axis, neighbours and cliffs, by hand."""

import itertools

import numpy as np
import pytest

from posweep.errors import ShapeError
from posweep.robustness import (
    Grid,
    Interval,
    Neighbours,
    cliffs,
    configuration_scores,
    crossed_interval,
    ice,
    neighbours,
    steps,
)

TWO = {"beta": [0.1, 0.1, 0.3, 0.3], "rate": [1, 2, 1, 2]}


def interval(value, error, freedom=np.inf):
    value, error = np.asarray(value, float), np.asarray(error, float)
    return Interval(value, error, np.full_like(value, freedom), value - 2 * error, value + 2 * error, "nothing")


@pytest.mark.parametrize(
    ("columns", "full"),
    [
        (TWO, True),
        ({name: values[::-1] for name, values in TWO.items()}, True),
        ({"beta": [1.0]}, True),
        ({name: values[:3] for name, values in TWO.items()}, False),  # a cell is missing
        ({name: [*values[:3], values[0]] for name, values in TWO.items()}, False),  # as many as cells, one twice
        ({name: [*values, values[0]] for name, values in TWO.items()}, False),  # one twice
        ({"beta": [0.1, None]}, False),
        ({"beta": [0.1, float("nan")]}, False),
        ({"beta": [], "rate": []}, False),
        ({}, False),
    ],
)
def test_a_full_grid_has_every_cell_once(columns, full):
    assert Grid.of(columns).full is full


def test_levels_are_ascending_numbers_or_words_as_they_appear():
    grid = Grid.of({"rate": [3, 1.0, 1], "schedule": ["linear", "cosine", "linear"], "flag": [True, False, None]})
    assert grid.levels == ((1.0, 3), ("linear", "cosine"), (True, False, None))
    assert grid.cells.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert grid.ordered == (True, False, False)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="one value for each"):
        Grid.of({"beta": [1.0], "rate": [1.0, 2.0]})


def test_curves_hold_all_other_hyperparameters():
    """Scores 1 2 / 3 6 at β × rate: along β they rise by 2 at rate 1 and by 4 at rate 2, on average from 1½ to 4½."""
    found = ice(np.array([1.0, 2, 3, 6]), TWO, "beta")
    assert found.along == (0.1, 0.3)
    assert found.contexts == ({"rate": 1}, {"rate": 2})
    assert found.scores.tolist() == [[1, 3], [2, 6]]
    assert found.mean.tolist() == [1.5, 4.5]


def test_a_context_with_a_gap_keeps_its_curve_and_does_not_bend_the_mean():
    """Without the cell (0.3, 2) the mean along β is the curve of rate 1 alone; with all points it would fall to ½(1+9)."""
    found = ice(np.array([1.0, 9, 3]), {name: values[:3] for name, values in TWO.items()}, "beta")
    np.testing.assert_array_equal(found.scores, [[1, 3], [9, np.nan]])
    assert found.mean.tolist() == [1, 3]
    lost = ice(np.array([1.0, 9, np.nan, 4]), TWO, "beta")
    np.testing.assert_array_equal(lost.scores, [[1, np.nan], [9, 4]])


def test_a_random_design_has_no_context_to_average_over():
    found = ice(np.array([1.0, 2, 3]), {"beta": [1, 2, 3], "rate": [4, 5, 6]}, "beta")
    assert np.isfinite(found.scores).sum() == 3
    assert np.isnan(found.mean).all()


def test_curves_of_every_replicate_are_the_curves_of_each():
    scores = np.random.default_rng(0).random((5, 24))
    cells = list(itertools.product([1, 2], [3, 4, 5], [6, 7, 8, 9]))
    columns = dict(zip("abc", map(list, zip(*cells, strict=True)), strict=True))
    found = ice(scores, columns, "b").scores
    for row, curves in zip(scores, found, strict=True):
        np.testing.assert_array_equal(curves, row.reshape(2, 3, 4).swapaxes(1, 2).reshape(8, 3))
    assert found.shape == (5, 8, 3)


def test_configurations_in_one_cell_are_averaged():
    assert ice(np.array([1.0, 3, 5]), {"beta": [1, 1, 2]}, "beta").scores.tolist() == [[2, 5]]


def named(pairs: Neighbours):
    return {(name, int(a), int(b)) for name, a, b in zip(pairs.names, pairs.lower, pairs.higher, strict=True)}


def brute_force(columns):
    """Pairs that differ in one number, with no configuration of the same rest between."""
    rows = list(zip(*columns.values(), strict=True))
    found = set()
    for (i, one), (j, other) in itertools.permutations(enumerate(rows), 2):
        differ = [k for k in range(len(one)) if one[k] != other[k]]
        if len(differ) == 1 and one[differ[0]] < other[differ[0]]:
            k = differ[0]
            rest = [row for row in rows if row[:k] + row[k + 1 :] == one[:k] + one[k + 1 :]]
            if not any(one[k] < row[k] < other[k] for row in rest):
                found.add((list(columns)[k], i, j))
    return found


def test_neighbours_differ_in_one_level_of_one_hyperparameter():
    assert named(neighbours(TWO)) == {("beta", 0, 2), ("beta", 1, 3), ("rate", 0, 1), ("rate", 2, 3)}
    rng = np.random.default_rng(1)
    for _ in range(20):
        cells = list(itertools.product([1, 2, 4], [3, 4, 5, 9], [0.1, 0.2]))
        kept = [cells[i] for i in rng.permutation(24)[: rng.integers(1, 25)]]
        columns = dict(zip("abc", map(list, zip(*kept, strict=True)), strict=True))
        assert named(neighbours(columns)) == brute_force(columns)


def test_words_have_no_order_so_that_any_two_are_neighbours():
    found = neighbours({"schedule": ["linear", "cosine", "constant"]})
    assert named(found) == {("schedule", 0, 1), ("schedule", 1, 2), ("schedule", 0, 2)}


def test_who_has_no_neighbour():
    for columns in ({"beta": []}, {"beta": [1.0]}, {}, {"a": [1, 2], "b": [3, 4]}):
        assert named(neighbours(columns)) == set()


def test_a_step_is_what_the_higher_level_adds():
    pairs = neighbours(TWO)
    found = dict(
        zip(zip(pairs.names, pairs.lower.tolist(), strict=True), steps(np.array([1.0, 2, 3, 6]), pairs), strict=True)
    )
    assert found == {("beta", 0): 2, ("beta", 1): 4, ("rate", 0): 1, ("rate", 2): 3}
    assert steps(np.zeros((7, 4)), pairs).shape == (7, 4)


def test_a_cliff_is_large_and_no_luck():
    """z = 5, 5, 1 and no error: the second is too small, the third may be luck, without an error nothing is known."""
    p, found = cliffs(interval([-0.5, -0.05, 0.5, 0.5], [0.1, 0.01, 0.5, np.nan]))
    assert found.tolist() == [True, False, False, False]
    assert p[0] == pytest.approx(3 * 5.733e-7, rel=1e-3)  # Holm over the three that are tests
    assert np.isnan(p[3])
    assert not cliffs(interval([-0.5], [0.1]), threshold=0.6)[1].any()


@pytest.mark.parametrize(("seeds", "most"), [(3, 0.22), (10, 0.07)])
def test_where_all_configurations_are_equal_cliffs_are_as_rare_as_the_docstring_says(seeds, most):
    """Twelve equal configurations, 17 steps, 100 prompts, threshold 0; with the threshold none is found at all."""
    columns = {"a": [a for a in range(4) for _ in range(3)], "b": list(range(3)) * 4}
    pairs = neighbours(columns)
    any_step, any_cliff = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        table = 0.5 + 0.02 * rng.normal(size=(12, seeds, 1)) + 0.3 * rng.normal(size=(12, seeds, 100))
        step = crossed_interval(lambda s, t=table: steps(configuration_scores(t, s), pairs), seeds, 100, rng, 60)
        any_step.append(cliffs(step, threshold=0.0)[1].any())
        any_cliff.append(cliffs(step)[1].any())
    assert np.mean(any_step) <= most
    assert np.mean(any_cliff) <= 0.02


def test_what_is_missing_is_next_to_nothing():
    assert named(neighbours({"epochs": [1.0, None, 2.0]})) == {("epochs", 0, 2)}
