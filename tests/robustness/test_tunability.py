"""Defaults and what tuning adds to them: brute force, identical configurations, a planted gain."""

import itertools
import math

import numpy as np
import pytest

from posweep.robustness import (
    Sample,
    cross_fitted_best,
    cross_fitted_reach,
    crossed_interval,
    halves,
    nearest,
    one_changed,
    tunability,
)

GRID = {"beta": [b for b in (0.03, 0.1, 0.3) for _ in range(3)], "rate": [2e-4, 8e-4, 3e-3] * 3}
LOGS = frozenset(GRID)


def wins(rates, seeds, prompts, rng):
    """(configurations, seeds, prompts) of coin tosses."""
    return (rng.random((len(rates), seeds, prompts)) < np.asarray(rates)[:, None, None]).astype(float)


def test_the_nearest_configuration_is_nearest_on_log_axes():
    """3e-4 lies 1.5 times above 2e-4 and 2.7 times below 8e-4; 0.17 is nearer to 0.1 in steps, to 0.3 in ratio 1.76."""
    assert nearest(GRID, {"beta": 0.1, "rate": 3e-4}, LOGS) == 3
    assert nearest(GRID, {"beta": 0.19, "rate": 3e-3}, LOGS) == 8
    assert nearest(GRID, {"beta": 0.19, "rate": 3e-3}) == 5
    assert nearest(GRID, {"beta": 5.0, "other": 7}, LOGS) == 6  # a name the grid lacks says nothing


def test_on_a_full_grid_it_is_the_nearest_level_of_each_for_itself():
    rng = np.random.default_rng(0)
    for beta, rate in 10 ** rng.uniform([-3, -5], [1, -1], (50, 2)):
        each = [
            min(range(3), key=lambda i, v=v, x=x: abs(math.log(sorted(set(v))[i] / x)))
            for v, x in zip(GRID.values(), (beta, rate), strict=True)
        ]
        assert nearest(GRID, {"beta": beta, "rate": rate}, LOGS) == 3 * each[0] + each[1]


def test_words_constants_and_nothing_at_all():
    assert nearest({"schedule": ["linear", "cosine"], "x": [1.0, 1.0]}, {"schedule": "cosine", "x": 3.0}) == 1
    assert nearest({"x": [0.0, 2.0]}, {"x": 1.0}, LOGS) == 0
    assert nearest({"x": []}, {"x": 1.0}) is None
    assert nearest({}, {}) is None


def test_one_changed_leaves_all_others_at_the_default():
    found = one_changed(GRID, 4)
    assert {name: rows.tolist() for name, rows in found.items()} == {"beta": [1, 4, 7], "rate": [3, 4, 5]}
    assert one_changed({"x": [1.0, 2.0, None]}, 2)["x"].tolist() == [0, 1, 2]
    assert one_changed({"x": [1, 2], "y": [None, float("nan")]}, 0)["x"].tolist() == [0, 1]


def test_the_data_as_they_are_give_what_cross_fitted_best_gives():
    table = wins(np.linspace(0.4, 0.6, 9), 1, 61, np.random.default_rng(1))
    split = halves(61, np.random.default_rng(0), 8)
    mine = cross_fitted_reach(table, Sample.everything(1, 61), [np.arange(9)], split)
    expected = cross_fitted_best(table[:, 0], np.random.default_rng(0), splits=8).value
    assert mine.shape == (1, 1, 2)
    assert mine[0, 0, 0] == pytest.approx(expected, abs=1e-12)


def test_every_replicate_is_a_double_loop():
    rng = np.random.default_rng(2)
    table = rng.random((6, 3, 10))
    table[1, 2] = math.nan  # a run that diverged
    sample = Sample(Sample.of_seeds(rng, 3, 10, 5).seeds, Sample.of_prompts(rng, 3, 10, 5).prompts)
    split, chosen = halves(10, rng, 3), np.array([0, 1, 4])
    found = cross_fitted_reach(table, sample, [chosen], split)
    for replicate in range(5):
        seeds, prompts = sample.seeds[replicate], sample.prompts[replicate]
        total = []
        for first, second in split:
            for choose, score in ((first, second), (second, first)):
                mean = np.full((2, 6), math.nan)
                for half, c in itertools.product((0, 1), chosen):
                    which = (choose, score)[half]
                    runs = {j: np.average(table[c, j, which], weights=prompts[which]) for j in range(3 - (c == 1))}
                    weights = [seeds[j] for j in runs]
                    values = list(runs.values())
                    mean[half, c] = np.average(values, weights=weights) if sum(weights) else np.mean(values)
                total.append([mean[1, np.nanargmax(mean[0])], mean[1, np.nanargmin(mean[0])]])
        assert found[replicate, 0] == pytest.approx(np.mean(total, axis=0), abs=1e-12)


def test_identical_configurations_have_nothing_to_tune_where_the_maximum_promises_a_gain():
    rng = np.random.default_rng(3)
    found, flattering, lost = [], [], []
    for _ in range(300):
        table = wins([0.55] * 24, 1, 128, rng)
        split = halves(128, rng, 2)
        sample = Sample.everything(1, 128)
        gain, loss = tunability(cross_fitted_reach(table, sample, [np.array([0]), np.arange(24)], split))[0, 0]
        found.append(gain)
        lost.append(loss)
        flattering.append(table.mean(axis=(1, 2)).max() - table[0].mean())
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / math.sqrt(300))
    assert np.mean(lost) == pytest.approx(0, abs=4 * np.std(lost) / math.sqrt(300))
    assert np.mean(flattering) > 0.06


def test_a_planted_gain_is_found_jointly_and_where_it_lies():
    """β alone is worth 0.2, the rate nothing; away from the default the worst is 0.3 lower."""
    rates = np.add.outer([0.2, 0.5, 0.7], [0.0, 0.0, 0.0]).ravel()
    table = wins(rates, 2, 400, np.random.default_rng(4))
    choices = [np.array([4]), np.arange(9), *one_changed(GRID, 4).values()]
    split = halves(400, np.random.default_rng(0), 4)
    sample = Sample.everything(2, 400)
    won, lost = tunability(cross_fitted_reach(table, sample, choices, split))[0].T
    assert won == pytest.approx([0.2, 0.2, 0.0], abs=0.05)
    assert lost == pytest.approx([-0.3, -0.3, 0.0], abs=0.05)


def test_the_interval_of_a_gain_that_is_not_there_holds_nought():
    """Identical configurations, 3 seeds that differ in luck: 0 lies in about 19 of 20 intervals."""
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = 0.5 + 0.03 * rng.normal(size=(9, 3, 1)) + 0.3 * rng.normal(size=(9, 3, 60))
        split = halves(60, rng, 2)
        found = crossed_interval(
            lambda s, t=table, h=split: tunability(cross_fitted_reach(t, s, [np.array([4]), np.array([4, 1])], h))[
                ..., 0
            ],
            3,
            60,
            rng,
            100,
        )
        held.append(found.low[0] <= 0 <= found.high[0])
    assert np.mean(held) >= 0.85


def test_without_rows_the_plain_maximum_is_all_there_is():
    table = np.array([[[0.5]], [[0.7]], [[np.nan]]])
    sample, nothing = Sample.everything(1, 1), halves(1, np.random.default_rng(0), 4)
    reach = cross_fitted_reach(table, sample, [np.array([0]), np.arange(3)], nothing)
    assert tunability(reach)[0, 0] == pytest.approx([0.2, 0.0])


def test_where_nothing_finished_there_is_no_number():
    table = np.full((3, 2, 8), math.nan)
    table[1] = 0.5
    sample, split = Sample.everything(2, 8), halves(8, np.random.default_rng(0), 2)
    assert np.isnan(tunability(cross_fitted_reach(table, sample, [np.array([0]), np.arange(3)], split))).all()
    scores = cross_fitted_reach(table, sample, [np.arange(3), np.array([0, 2]), np.array([], dtype=int)], split)
    np.testing.assert_array_equal(scores, [[[0.5] * 2, [math.nan] * 2, [math.nan] * 2]])


def test_a_replicate_without_a_prompt_of_one_half_still_has_scores():
    table = np.random.default_rng(0).random((3, 1, 2))
    sample = Sample(np.ones((1, 1)), np.array([[1.0, 0.0]]))
    assert np.isfinite(cross_fitted_reach(table, sample, [np.arange(3)], halves(2, np.random.default_rng(0), 1))).all()


def test_a_value_that_is_missing_is_taken_to_be_the_points():
    assert nearest({"epochs": [2.0, None, 4.0]}, {"epochs": 1.0}) == 1
    assert nearest({"epochs": [2.0, float("nan")], "x": [1, 9]}, {"epochs": 1.0, "x": 1}) == 0
