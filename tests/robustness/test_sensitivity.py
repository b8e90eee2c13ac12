"""ANOVA by hand and against statsmodels; PED-ANOVA against Optuna called directly and a planted order."""

import itertools
import logging
import math
import warnings

import numpy as np
import optuna
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from posweep.errors import ShapeError
from posweep.robustness import anova, configuration_scores, crossed_interval, effects, ped_anova

TWO = {"beta": [0.1, 0.1, 0.3, 0.3], "rate": [1, 2, 1, 2]}


def product(**axes):
    """The columns of a full grid."""
    return dict(zip(axes, map(list, zip(*itertools.product(*axes.values()), strict=True)), strict=True))


def shares(found):
    return dict(zip(found.terms, found.shares.tolist(), strict=True))


def test_two_by_two_by_hand():
    """Scores 1 2 / 3 6, mean 3: effects ±1½ of β, ±1 of the rate, ±½ together; squares 9/4 + 1 + 1/4 = 7/2 = variance."""
    found = anova(np.array([1.0, 2, 3, 6]), TWO)
    assert shares(found) == pytest.approx({("beta",): 9 / 14, ("rate",): 4 / 14, ("beta", "rate"): 1 / 14})
    assert found.residual == ("beta", "rate")
    assert anova(np.array([1.0, 2, 3, 6]), TWO, seeds=2).residual is None


def test_three_by_two_by_hand():
    """Rows 0 2 / 1 3 / 5 1 of a 3 × 2 grid, mean 2, variance 8/3.

    Row means 1, 2, 3: squares (1 + 0 + 1)/3 = 2/3. Column means 2, 2: 0. The rest, 8/3 − 2/3 = 2, is the interaction.
    """
    found = anova(np.array([0.0, 2, 1, 3, 5, 1]), product(a=[1, 2, 3], b=["x", "y"]))
    assert shares(found) == pytest.approx({("a",): 1 / 4, ("b",): 0, ("a", "b"): 3 / 4}, abs=1e-12)


def test_the_order_of_configurations_does_not_matter():
    rng = np.random.default_rng(0)
    columns, scores = product(a=[1, 2, 3], b=[4, 5], c=[6, 7, 8, 9]), rng.random(24)
    order = rng.permutation(24)
    mixed = {name: [values[i] for i in order] for name, values in columns.items()}
    assert shares(anova(scores[order], mixed)) == pytest.approx(shares(anova(scores, columns)))


def test_sums_of_squares_are_those_of_statsmodels():
    rng = np.random.default_rng(1)
    columns, scores = product(a=[1, 2, 3], b=[4, 5], c=[6, 7, 8, 9]), rng.random(24)
    frame = pd.DataFrame(columns).assign(score=scores)
    table = anova_lm(ols("score ~ C(a) * C(b) * C(c)", frame).fit())["sum_sq"].drop("Residual")
    expected = {tuple(name[2] for name in row.split(":")): value for row, value in table.items()}
    total = scores.var() * 24
    assert {term: share * total for term, share in shares(anova(scores, columns)).items()} == pytest.approx(expected)


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_shares_add_up_to_one_for_every_replicate(axes):
    columns = product(**{f"x{i}": list(range(2 + i % 2)) for i in range(axes)})
    scores = np.random.default_rng(2).random((3, 5, len(columns["x0"])))
    found = anova(scores, columns)
    assert found.shares.shape == (3, 5, 2**axes - 1)
    np.testing.assert_allclose(found.shares.sum(axis=-1), 1)
    np.testing.assert_allclose(found.shares[1, 2], anova(scores[1, 2], columns).shares)


def test_on_two_levels_the_shares_are_those_of_yates():
    rng = np.random.default_rng(3)
    columns, wins = product(a=[0, 1], b=[0, 1], c=[0, 1]), rng.random((8, 30))
    on = {name: np.array(values, dtype=bool) for name, values in columns.items()}
    expected = {tuple(name.split(" × ")): effect.share for name, effect in effects(wins, on).items()}
    assert shares(anova(wins.mean(axis=1), columns)) == pytest.approx(expected)


def test_a_single_hyperparameter_explains_everything_and_a_constant_one_is_no_axis():
    assert shares(anova(np.array([1.0, 2]), {"a": [1, 2], "b": [3, 3]})) == {("a",): 1.0}


def test_equal_scores_have_no_shares():
    assert np.isnan(anova(np.full(4, 0.1 + 0.2), TWO).shares).all()


@pytest.mark.parametrize("gone", ["cell", "score", "grid", "everything"])
def test_what_is_no_full_grid_is_refused(gone):
    scores, columns = np.array([1.0, 2, 3, 6]), dict(TWO)
    if gone == "cell":
        scores, columns = scores[:3], {name: values[:3] for name, values in TWO.items()}
    elif gone == "score":
        scores[1] = math.nan
    elif gone == "grid":
        columns["rate"] = [1, 2, 3, 4]
    else:
        scores, columns = np.array([]), {"beta": [], "rate": []}
    with pytest.raises(ShapeError, match="full grid"):
        anova(scores, columns)


def test_an_interval_of_a_share_holds_the_share_of_the_truth():
    """A rate that explains 0.9 of what is true, 5 seeds of some luck: the interval holds 0.9 in about 19 of 20 sweeps."""
    columns = product(beta=[1, 2, 3], rate=[1, 2, 3])
    truth = np.add.outer([-0.05, 0, 0.05], [-0.15, 0, 0.15]).ravel()
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        table = truth[:, None, None] + 0.01 * rng.normal(size=(9, 5, 1)) + 0.3 * rng.normal(size=(9, 5, 200))
        found = crossed_interval(
            lambda s, t=table: anova(configuration_scores(t, s), columns, 5).shares, 5, 200, rng, 100
        )
        held.append(found.low[1] <= 0.9 <= found.high[1])
    assert np.mean(held) >= 0.88


def planted(count=300, seed=0):
    """a matters much, b some, c not at all."""
    rng = np.random.default_rng(seed)
    columns = {name: (10 ** rng.uniform(-2, 0, count)).tolist() for name in "abc"}
    far = {name: (np.log10(values) + 1) ** 2 for name, values in columns.items()}
    return columns, -(far["a"] + 0.15 * far["b"])


def test_ped_anova_finds_the_planted_order():
    columns, scores = planted()
    found = ped_anova(scores, columns, logs=frozenset("abc"))
    assert found.refused == ""
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares) == ["a", "b", "c"]
    assert found.shares["a"] > 2 * found.shares["b"] > 4 * found.shares["c"]


def test_ped_anova_is_optunas():
    columns, scores = planted(120, seed=1)
    space = {name: optuna.distributions.FloatDistribution(min(v), max(v), log=True) for name, v in columns.items()}
    study = optuna.create_study(direction="minimize")
    for row, score in enumerate(scores):
        params = {name: values[row] for name, values in columns.items()}
        study.add_trial(optuna.create_trial(value=-score, params=params, distributions=space))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1)
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert dict(ped_anova(scores, columns, logs=frozenset("abc")).shares) == pytest.approx(expected)


def test_a_hyperparameter_that_only_some_have_counts_where_having_it_helps():
    rng = np.random.default_rng(2)
    x = rng.random(200)
    extra = [float(value) if i % 2 else None for i, value in enumerate(rng.random(200))]
    scores = np.array(
        [0.01 * value + (1 - abs(e - 0.5) if e is not None else 0) for value, e in zip(x, extra, strict=True)]
    )
    found = ped_anova(scores, {"x": x.tolist(), "extra": extra})
    assert found.shares["extra"] > 0.7


def test_words_and_lost_scores_are_taken():
    rng = np.random.default_rng(3)
    words = [["linear", "cosine"][i] for i in rng.integers(0, 2, 100)]
    scores = np.array([float(word == "cosine") for word in words]) + 0.01 * rng.random(100)
    scores[:20] = math.nan
    found = ped_anova(scores, {"schedule": words, "x": rng.random(100).tolist(), "same": [1.0] * 100})
    assert list(found.shares) == ["schedule", "x"]
    assert found.shares["schedule"] > found.shares["x"]


@pytest.mark.parametrize("count", [0, 1, 49])
def test_fewer_than_fifty_configurations_are_refused_with_a_sentence(count):
    found = ped_anova(np.arange(count, dtype=float), {"x": list(range(count))})
    assert found.shares == {}
    assert found.refused == f"PED-ANOVA needs 50 configurations with a score, there are {count}"
    assert ped_anova(np.arange(50.0), {"x": [1.0] * 50}).refused == "no hyperparameter varies"


def test_optuna_says_nothing_and_its_settings_stay(caplog):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        ped_anova(np.arange(60.0), {"x": list(range(60))})
    assert optuna.logging.get_verbosity() == before
    assert not caplog.records


def test_the_same_scores_give_the_same_shares():
    columns, scores = planted(60)
    assert dict(ped_anova(scores, columns).shares) == dict(ped_anova(scores, columns).shares)
