import itertools

import numpy as np
import pytest

from posweep.robustness import effects

CORNERS = np.array(list(itertools.product([False, True], repeat=3)))


def factors(rows: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("abc", rows.T, strict=True))


def test_a_sum_of_effects_gives_them_back():
    """Scores 0.5 + 0.1a − 0.02b + 0.03ab with a, b = ±1: a switch from −1 to +1 is twice the coefficient."""
    a, b, _ = np.where(CORNERS, 1, -1).T
    wins = np.repeat((0.5 + 0.1 * a - 0.02 * b + 0.03 * a * b)[:, None], 4, axis=1)
    found = effects(wins, factors(CORNERS))
    expected = {"a": 0.2, "b": -0.04, "c": 0, "a × b": 0.06, "a × c": 0, "b × c": 0, "a × b × c": 0}
    assert {name: effect.difference for name, effect in found.items()} == pytest.approx(expected)
    total = 0.1**2 + 0.02**2 + 0.03**2
    assert found["a"].share == pytest.approx(0.1**2 / total)
    assert sum(effect.share for effect in found.values()) == pytest.approx(1)


def test_differences_are_those_of_means_and_shares_leave_the_rest_to_the_corners():
    rng = np.random.default_rng(0)
    rows = np.tile(CORNERS, (9, 1))
    wins = rng.random((72, 50)) + 0.3 * rows[:, :1]
    found = effects(wins, factors(rows))
    for i, name in enumerate("abc"):
        expected = wins[rows[:, i]].mean() - wins[~rows[:, i]].mean()
        assert found[name].difference == pytest.approx(expected)
    means = wins.mean(axis=1)
    within = np.mean([means[(rows == corner).all(axis=1)].var() for corner in CORNERS])
    assert sum(effect.share for effect in found.values()) == pytest.approx(1 - within / means.var())


def test_the_error_is_that_over_prompts():
    """Simulated again and again with fresh prompts, the effect of a null factor varies as its error says."""
    rng = np.random.default_rng(1)
    draws = [effects(rng.random((8, 40)) + rng.normal(size=40), factors(CORNERS))["b"] for _ in range(400)]
    assert np.std([d.difference for d in draws]) == pytest.approx(np.mean([d.error for d in draws]), rel=0.12)
    assert abs(np.mean([d.difference for d in draws])) < 0.02


@pytest.mark.parametrize("rows", [CORNERS[:7], np.vstack([CORNERS, CORNERS[:1]]), CORNERS[[0, 1, 6, 7]]])
def test_unbalanced_configurations_are_refused(rows):
    with pytest.raises(ValueError, match=f"the {len(rows)} configurations are not balanced over a, b, c"):
        effects(np.ones((len(rows), 3)), factors(rows))


def test_equal_scores_have_no_effect_and_no_variance_to_share():
    found = effects(np.full((8, 1), 0.5), factors(CORNERS))
    assert {(e.difference, e.share) for e in found.values()} == {(0.0, 0.0)}
    assert np.isnan(found["a"].error)
