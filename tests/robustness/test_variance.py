"""Against expected mean squares by hand, statsmodels, and worlds made of known components."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols

from posweep.errors import ShapeError
from posweep.robustness import variance_components

NAN = math.nan
TERMS = ["configuration", "seed", "prompt", "configuration×seed", "configuration×prompt", "seed×prompt",
         "configuration×seed×prompt"]  # fmt: skip


def world(rng, shape, deviations):
    """Scores whose every term has the given standard deviation."""
    table = np.zeros(shape)
    for name, deviation in deviations.items():
        axes = name.split("×")
        kept = [n if a in axes else 1 for a, n in zip(("configuration", "seed", "prompt"), shape, strict=True)]
        table = table + rng.normal(0, deviation, kept)
    return table


def mean_squares(table):
    """Mean squares of the saturated crossed layout, from statsmodels' sequential sums of squares."""
    names = ("c", "s", "p")
    places = np.indices(table.shape).reshape(3, -1)
    data = pd.DataFrame({**dict(zip(names, places, strict=True)), "x": table.ravel()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sm.stats.anova_lm(ols("x ~ (C(c) + C(s) + C(p))**2", data).fit())
    return dict(zip(("c", "s", "p", "cs", "cp", "sp", "csp"), found["mean_sq"], strict=True))


def test_expected_mean_squares_by_hand():
    """Solved term by term from E MS_c = σ² + P σ_cs² + S σ_cp² + SP σ_c² and its kin, with mean squares of statsmodels."""
    c, s, p = 4, 3, 5
    table = world(np.random.default_rng(0), (c, s, p), dict.fromkeys(TERMS, 1.0))
    ms = mean_squares(table)
    expected = {
        "configuration": (ms["c"] - ms["cs"] - ms["cp"] + ms["csp"]) / (s * p),
        "seed": (ms["s"] - ms["cs"] - ms["sp"] + ms["csp"]) / (c * p),
        "prompt": (ms["p"] - ms["cp"] - ms["sp"] + ms["csp"]) / (c * s),
        "configuration×seed": (ms["cs"] - ms["csp"]) / p,
        "configuration×prompt": (ms["cp"] - ms["csp"]) / s,
        "seed×prompt": (ms["sp"] - ms["csp"]) / c,
        "configuration×seed×prompt": ms["csp"],
    }
    found = variance_components(table)
    assert list(found.terms) == TERMS
    assert found.terms == pytest.approx({name: max(value, 0) for name, value in expected.items()})
    assert set(found.cut) == {name for name, value in expected.items() if value < 0}
    assert (found.merged, found.unseen, found.dropped) == ({}, (), 0)


def test_known_components_are_found_without_bias():
    truth = dict(zip(TERMS, (0.10, 0.04, 0.15, 0.03, 0.08, 0.05, 0.30), strict=True))
    rng = np.random.default_rng(1)
    found = [variance_components(world(rng, (12, 6, 40), truth)).terms for _ in range(300)]
    for name, deviation in truth.items():
        values = np.array([terms[name] for terms in found])
        assert values.mean() == pytest.approx(deviation**2, abs=4 * values.std() / math.sqrt(len(values)) + 1e-5)


def test_one_seed_merges_what_it_cannot_tell_apart_and_says_so():
    table = world(
        np.random.default_rng(2), (5, 1, 8), {"configuration": 1.0, "prompt": 1.0, "configuration×prompt": 1.0}
    )
    effects = table[:, 0]
    residual = effects - effects.mean(0) - effects.mean(1, keepdims=True) + effects.mean()
    noise = (residual**2).sum() / (4 * 7)
    found = variance_components(table)
    assert found.terms["configuration×prompt"] == pytest.approx(noise)
    assert found.terms["configuration"] == pytest.approx(effects.mean(1).var(ddof=1) - noise / 8)
    assert found.merged["configuration"] == ("configuration×seed",)
    assert found.merged["configuration×prompt"] == ("configuration×seed×prompt",)
    assert found.unseen == ("seed",)
    parts = found.of_a_run()
    assert math.isnan(parts["seeds"])
    assert parts["residual"] == pytest.approx(noise / 8)


def test_without_prompts_the_interaction_is_the_residual():
    found = variance_components(np.random.default_rng(3).random((6, 4, 1)))
    assert list(found.terms) == ["configuration", "seed", "configuration×seed"]
    assert found.unseen == ("prompt",)
    assert found.of_a_run()["residual"] == found.terms["configuration×seed"]
    assert math.isnan(found.of_a_run()["prompts"])


def test_the_parts_of_a_runs_score_are_what_another_run_would_vary_by():
    truth = dict(zip(TERMS, (0.10, 0.04, 0.15, 0.03, 0.08, 0.05, 0.30), strict=True))
    squares = {name: deviation**2 for name, deviation in truth.items()}
    rng = np.random.default_rng(4)
    found = [variance_components(world(rng, (12, 6, 40), truth)).of_a_run() for _ in range(100)]
    parts = {name: np.mean([one[name] for one in found]) for name in found[0]}
    assert parts["hyperparameters"] == pytest.approx(squares["configuration"], rel=0.1)
    assert parts["seeds"] == pytest.approx(squares["seed"] + squares["configuration×seed"], rel=0.2)
    assert parts["prompts"] == pytest.approx((squares["prompt"] + squares["configuration×prompt"]) / 40, rel=0.1)
    assert parts["residual"] == pytest.approx((squares["seed×prompt"] + squares[TERMS[-1]]) / 40, rel=0.1)


def test_negative_estimates_are_cut_and_named():
    """Seed means that lie closer together than chance allows."""
    table = np.random.default_rng(5).normal(size=(5, 3, 10))
    table -= table.mean(axis=(0, 2), keepdims=True)
    found = variance_components(table)
    assert found.terms["seed"] == 0
    assert "seed" in found.cut


def test_incomplete_configurations_are_dropped_and_counted():
    table = np.random.default_rng(6).random((5, 3, 4))
    whole = variance_components(table[1:4])
    table[0, 1], table[4] = NAN, NAN
    found = variance_components(table)
    assert (found.complete, found.dropped) == (3, 2)
    assert found.terms == pytest.approx(whole.terms)


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 1, 1), (1, 1, 9), (1, 1, 1)])
def test_where_nothing_can_be_told_apart_there_are_no_terms(shape):
    found = variance_components(np.random.default_rng(7).random(shape))
    assert found.terms == {}
    assert all(math.isnan(value) for value in found.of_a_run().values())


def test_all_lost():
    found = variance_components(np.full((3, 2, 4), NAN))
    assert (found.terms, found.complete, found.dropped) == ({}, 0, 3)


def test_what_never_varies_has_no_variance():
    assert set(variance_components(np.full((3, 2, 4), 0.5)).terms.values()) == {0.0}


def test_a_table_of_another_shape_is_named():
    with pytest.raises(ShapeError, match="configurations, seeds, prompts"):
        variance_components(np.zeros((2, 3)))
