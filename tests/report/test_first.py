"""The chapter on what to try first: defaults, starts, gains and the ends of the grid."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from posweep.report.chapters import first
from posweep.report.chapters.first.numbers import starts
from posweep.report.drawing.style import publication
from posweep.report.points import default_point, ends_of_grid, written
from posweep.report.tables import SPLIT_SEED, SPLITS, Tables, best
from posweep.robustness import cross_fitted_best


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """The chapter without its figure, which takes most of the time; `drawn` marks the tests that look at it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(first, "tornado", lambda *_: None)


@pytest.fixture
def drawn():
    """The figure is made."""


def told(record):
    with publication():
        return first.chapter(Tables.of(record))


def renamed(record, *names):
    """The record with its trials once under each of other methods' names."""
    many = [
        (dataclasses.replace(s, method=name, key=f"{name} {s.key}", configuration=f"{name} {s.configuration}"), s.key)
        for name in names
        for s in record.plan
    ]
    results = {new.key: dataclasses.replace(record.results[old], key=new.key) for new, old in many}
    responses = {new.key: record.responses[old] for new, old in many}
    return dataclasses.replace(record, plan=tuple(new for new, _ in many), results=results, responses=responses)


def scored(made, score, methods=("dpo",), seeds=(0,), prompts=64, **ended):
    """A sweep whose win-rates are a function of the trial, with a little noise."""
    record = made.record(made.specs(methods, seeds), prompts=prompts, **ended)
    rng, rows = np.random.default_rng(0), {}
    for spec in record.plan:
        if spec.key in record.responses:
            own = np.clip(score(spec) + rng.normal(0, 0.05, prompts), 0, 1)
            mine = [row for row in record.responses[spec.key] if row.set == "ood"]
            rows[spec.key] = tuple(
                dataclasses.replace(r, wins={"vs_sft": float(v)}) for r, v in zip(mine, own, strict=True)
            )
    return dataclasses.replace(record, responses=rows)


def row_of(record, method="dpo"):
    found = starts(Tables.of(record)).methods
    return found[found["method"] == method].iloc[0]


def test_a_default_is_the_methods_own_and_the_settings(made):
    """DPO's β 0.1 and γ 0, and a learning rate of 3e-4 unless a fact of the sweep says otherwise."""
    record = made.record(made.specs(("dpo",)))
    assert default_point(Tables.of(record), "dpo") == {"beta": 0.1, "gamma": 0.0, "learning_rate": 3e-4}
    other = dataclasses.replace(record, facts={"learning rate by default": 1e-3})
    assert default_point(Tables.of(other), "dpo")["learning_rate"] == 1e-3
    assert row_of(record)["default"] == "β 0.1, learning rate 3e-4"
    assert row_of(record)["default_is_cited"]
    assert row_of(other)["default"] == "β 0.1, learning rate 1e-3"
    assert "β: " in row_of(record)["source"]


def test_a_default_the_grid_lacks_is_the_nearest_of_it_and_said_so(made):
    record = dataclasses.replace(made.record(made.specs(("dpo",))), facts={"learning rate by default": 2.5e-4})
    assert row_of(record)["default"] == "β 0.1, learning rate 3e-4"
    assert not row_of(record)["default_is_cited"]
    said = "the nearest on this grid to its default, β 0.1, learning rate 2.5e-4"
    assert any(said in words for words in told(record).words)


def test_where_nothing_is_gained_the_default_is_the_start(made):
    chapter = told(scored(made, lambda spec: 0.6, prompts=128))
    (row,) = chapter.sheets[0].data.to_dict("records")
    assert row["start_is_default"]
    assert row["start"] == row["default"]
    assert abs(row["gain"]) < 0.01
    assert chapter.words[0].startswith("For DPO start at β 0.1, learning rate 3e-4: it scored 0.6")
    assert "no gain is shown" in chapter.words[0]
    assert re.match(r"What to try first: DPO at β 0.1, learning rate 3e-4, 0\.\d+ \[", chapter.finding)


def test_a_gain_that_is_no_luck_moves_the_start(made, drawn):
    """β 0.3 at the default learning rate is worth 0.2 more."""

    def at(spec):
        return 0.75 if (spec.hyperparameters["beta"], spec.train["learning_rate"]) == (0.3, 3e-4) else 0.55

    chapter = told(scored(made, at))
    (row,) = chapter.sheets[0].data.to_dict("records")
    assert row["start"] == row["best"] == "β 0.3, learning rate 3e-4"
    assert row["gain"] == pytest.approx(0.2, abs=0.02)
    assert row["gain_low"] > 0.15
    assert row["ends_of_grid"] == ""
    gains = chapter.drawings[0].data.set_index("hyperparameter")
    assert gains["gain"].to_dict() == pytest.approx({"": 0.2, "beta": 0.2, "learning_rate": 0.0}, abs=0.02)
    assert "adds" not in chapter.finding
    assert "β 0.3, learning rate 3e-4" in chapter.finding


def test_the_best_is_the_same_number_as_in_the_summary(record):
    tables = Tables.of(record)
    found = starts(tables).methods.set_index("method")["best_score"]
    for method in tables.methods:
        assert found[method] == pytest.approx(best(tables, method)[0], abs=1e-12)
    by_prompt = np.nanmean(tables.scores("ln_dpo")[np.isfinite(tables.scores("ln_dpo")).all(axis=(1, 2))], axis=1)
    again = cross_fitted_best(by_prompt, np.random.default_rng(SPLIT_SEED), splits=SPLITS).value
    assert found["ln_dpo"] == pytest.approx(again, abs=1e-12)


def test_the_summary_names_who_cannot_be_told_apart_and_who_can(made):
    level = told(scored(made, lambda spec: 0.6, made.methods)).finding
    assert re.search(r"; the starting points of [\w-]+ and [\w-]+ cannot be told from it\.$", level)
    apart = told(scored(made, lambda spec: 0.8 if spec.method == "simpo" else 0.6, made.methods)).finding
    assert apart.startswith("What to try first: SimPO at ")
    assert apart.endswith("; the starting point of every other method scores less.")


def test_nothing_that_does_not_beat_the_sft_model_is_recommended(made):
    assert told(scored(made, lambda spec: 0.5, made.methods)).finding == ""
    assert told(scored(made, lambda spec: 0.3, made.methods)).finding == ""


def test_the_ends_of_a_grid():
    columns = {"beta": [0.03, 0.1, 0.3], "gamma": [0.0, 0.5, 1.0], "schedule": ["a", "b", "c"], "epochs": [1.0] * 3}
    assert ends_of_grid("dpo", columns, 0) == ["β lowest"]  # a margin cannot be below 0
    assert ends_of_grid("dpo", columns, 1) == []
    assert ends_of_grid("dpo", columns, 2) == ["β highest", "γ highest"]


def test_a_point_in_words():
    assert written("dpo", {"beta": 0.1, "learning_rate": 2e-4, "epochs": None}) == "β 0.1, learning rate 2e-4"


def test_a_default_that_diverged_leaves_no_gain_and_says_so(made):
    chapter = told(made.record(made.specs(("dpo",)), diverged=(4,)))
    (row,) = chapter.sheets[0].data.to_dict("records")
    assert np.isnan(row["gain"])
    assert row["start"] == row["best"]
    assert "did not finish (1 diverged of 1)" in chapter.words[0]
    assert any("No trial at the default of DPO" in words for words in chapter.silences)


@pytest.mark.parametrize("case", ["foreign", "one configuration", "no rows", "silent method", "nothing"])
def test_what_cannot_be_said_is_not(made, case):
    plan = made.specs(("dpo", "ln_dpo"))
    records = {
        "foreign": renamed(made.record(made.specs(("dpo",))), "mine"),
        "one configuration": made.record(made.specs(("dpo",), configurations=1)),
        "no rows": dataclasses.replace(made.record(plan), responses={}),
        "silent method": made.record(plan, missing=range(12, 24)),
        "nothing": made.record(plan, diverged=range(24)),
    }
    chapter = told(records[case])
    if case == "nothing":
        assert chapter is None
        return
    rows = chapter.sheets[0].data
    if case in ("foreign", "one configuration"):
        assert rows["gain"].isna().all()
        assert not chapter.drawings
    if case == "foreign":
        assert any("The default of mine is not known" in words for words in chapter.silences)
    elif case == "no rows":
        assert chapter.finding == ""
        assert rows["gain_low"].isna().all()
        assert "the plain maximum of the grid, which flatters" in chapter.words[0]
    elif case == "silent method":
        assert list(rows["method"]) == ["dpo"]
        assert any("No trial of LN-DPO" in words for words in chapter.silences)


def test_a_plain_maximum_moves_no_start_however_many_seeds(made):
    """Without rows the best of twelve equal configurations lies above the default, by luck alone."""
    record = dataclasses.replace(made.record(made.specs(("dpo",), seeds=tuple(range(8)))), responses={})
    chapter = told(record)
    (row,) = chapter.sheets[0].data.to_dict("records")
    assert row["start_is_default"]
    assert row["gain"] >= 0
    assert np.isnan([row["gain_p"], row["gain_low"], row["best_score_low"]]).all()
    assert np.isfinite(row["default_score_low"])


def test_many_methods_are_counted(made):
    words = told(renamed(made.record(made.specs(("dpo",))), *(f"method {i}" for i in range(8)))).words
    assert words[0].endswith("for 0 of 0 methods.")
    assert "of 8 methods lies at an end of its grid" in words[1]


def test_the_same_record_gives_the_same_numbers(record):
    pd.testing.assert_frame_equal(told(record).sheets[0].data, told(record).sheets[0].data)
