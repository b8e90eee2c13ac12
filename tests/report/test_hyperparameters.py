"""The chapter on hyperparameters: what it says of made-up sweeps, and what it does not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from posweep.report.cells import cells
from posweep.report.chapters import hyperparameters
from posweep.report.chapters.hyperparameters.numbers import curve_table, designs, pair_table, share_table, step_table
from posweep.report.drawing.style import publication
from posweep.report.tables import Tables


def told(record):
    with publication():
        return hyperparameters.chapter(Tables.of(record))


@pytest.fixture
def undrawn(monkeypatch):
    """The chapter without its figures, which take most of the time."""
    monkeypatch.setattr(hyperparameters, "bars", lambda *_: None)
    for name in ("heatmaps", "held"):
        monkeypatch.setattr(hyperparameters, name, lambda *_: [])


def scored(made, score, methods=("dpo",), seeds=(0,), prompts=64, **ended):
    """A sweep whose win-rates are a function of trial and prompt noise alone."""
    record = made.record(made.specs(methods, seeds), prompts=prompts, **ended)
    rng, rows = np.random.default_rng(0), {}
    noise = rng.normal(0, 0.05, prompts)
    for spec in record.plan:
        if spec.key in record.responses:
            own = score(spec) + noise + rng.normal(0, 0.02, prompts)
            mine = [row for row in record.responses[spec.key] if row.set == "ood"]
            rows[spec.key] = tuple(
                dataclasses.replace(r, wins={"vs_sft": float(v)}) for r, v in zip(mine, own, strict=True)
            )
    results = {
        key: dataclasses.replace(
            r, measures={"ood/win_rate_vs_sft": float(np.mean([x.wins["vs_sft"] for x in rows[key]]))}
        )
        if key in rows
        else r
        for key, r in record.results.items()
    }
    return dataclasses.replace(record, responses=rows, results=results)


def by_rate(spec):
    """The learning rate decides, and 1e-3 is a cliff."""
    return {1e-4: 0.55, 3e-4: 0.6, 1e-3: 0.2}[spec.train["learning_rate"]]


def test_a_sweep_that_the_learning_rate_decides_is_told_so(made):
    chapter = told(scored(made, by_rate, made.methods))
    assert chapter.finding == (
        "What to tune: learning rate explains more than half of the variance over the grid for DPO, LN-DPO and SimPO "
        "(95 % intervals above one half)."
    )
    assert chapter.words[0].startswith("DPO: learning rate explains 100% [")
    assert any("12 of 54 steps between grid neighbours are cliffs" in words for words in chapter.words)
    shares = {sheet.name: sheet for sheet in chapter.sheets}["sensitivity"].data
    assert shares.groupby("method")["share"].sum().tolist() == pytest.approx([1, 1, 1])
    top = shares.loc[shares.groupby("method")["share"].idxmax()]
    assert set(top["hyperparameters"]) == {"learning_rate"}
    assert (top["share"] > 0.99).all()
    assert {drawing.name for drawing in chapter.drawings} == {"hyperparameter_shares", "hyperparameter_pairs", "ice"}


def test_a_sweep_in_which_nothing_matters_is_not_told_of(made, undrawn):
    chapter = told(scored(made, lambda spec: 0.5, made.methods))
    assert chapter.finding == ""
    assert not any("cliff" in words for words in chapter.words)


def test_the_residual_is_named_with_one_seed_only(made, undrawn):
    one, three = (told(scored(made, by_rate, seeds=seeds)) for seeds in ((0,), (0, 1, 2)))
    how = [chapter.sheets[0].data["how"].tolist() for chapter in (one, three)]
    assert how == [["ANOVA", "ANOVA", "ANOVA; holds the luck of the one seed"], ["ANOVA"] * 3]
    assert any("one seed" in words for words in one.silences)
    assert not three.silences


def test_a_cliff_is_named_with_what_is_held_and_goes_down(made, undrawn):
    chapter = told(scored(made, by_rate))
    sheet = {sheet.name: sheet for sheet in chapter.sheets}["cliffs"]
    assert len(sheet.data) == 17
    steep = sheet.data[sheet.data["cliff"] == "cliff"]
    assert len(steep) == 4
    assert (steep[["hyperparameter", "from", "to"]].to_numpy() == ["learning rate", "3e-4", "1e-3"]).all()
    assert set(steep["held"]) == {f"β {beta}" for beta in ("0.03", "0.1", "0.3", "0.9")}
    assert (sheet.data["drop"] >= 0).all()
    np.testing.assert_allclose(sheet.data["score_from"] - sheet.data["score_to"], sheet.data["drop"])
    assert ((sheet.data["low"] <= sheet.data["drop"]) & (sheet.data["drop"] <= sheet.data["high"])).all()
    assert cells(sheet)[0][:5] == ["DPO", "learning rate", "3e-4", "1e-3", steep["held"].iloc[0]]


def test_a_step_into_divergence_is_a_cliff(made):
    """At 1e-3 every trial diverged: those configurations score nothing, and count as 0 here."""
    found, _ = step_table(Tables.of(scored(made, by_rate, diverged=(2, 5, 8, 11))), 0.1)
    assert found["cliff"].sum() == 4
    assert (found["score_to"][:4] == 0).all()


def test_diverged_trials_leave_the_grid_whole_at_the_worst_score_and_failed_ones_do_not(made):
    tables = Tables.of(scored(made, by_rate, diverged=(2,)))
    shares, _ = share_table(tables, designs(tables))
    assert shares["how"].str.startswith("ANOVA, diverged trials at the worst score").all()
    tables = Tables.of(scored(made, by_rate, failed=(2,)))
    shares, _ = share_table(tables, designs(tables))
    assert shares["how"].tolist() == [
        "refused: no full grid, and PED-ANOVA needs 50 configurations with a score, there are 11"
    ]


def test_a_random_design_of_fifty_goes_to_ped_anova(made):
    rng = np.random.default_rng(0)
    (start, *_) = made.specs(("dpo",))
    plan = []
    for i, (beta, rate) in enumerate(10 ** rng.uniform([-2, -4], [0, -3], (60, 2))):
        train = {**start.train, "learning_rate": rate}
        changed = {"key": f"k{i}", "configuration": f"c{i}", "hyperparameters": {"beta": beta, "gamma": 0.0}}
        plan.append(dataclasses.replace(start, train=train, design="random", **changed))
    chapter = told(made.record(tuple(plan)))
    shares = chapter.sheets[0].data
    assert shares["how"].tolist() == ["PED-ANOVA"] * 2
    assert shares["share"].sum() == pytest.approx(1)
    assert "No interval can be drawn" in chapter.sheets[0].caption
    assert {drawing.name for drawing in chapter.drawings} == {"hyperparameter_shares", "hyperparameter_pairs"}
    assert "equal size" in next(d.caption for d in chapter.drawings if d.name == "hyperparameter_pairs")


def test_pairs_and_curves_are_means_of_the_scores(made):
    tables = Tables.of(scored(made, by_rate, ("simpo",)))
    found = designs(tables)
    scores = tables.points("simpo").set_index(["beta", "gamma", "learning_rate"])["ood/win_rate_vs_sft"]
    pairs = pair_table(found)
    assert len(pairs) == 2 * 2 + 2 * 3 + 2 * 3
    for row in pairs.itertuples():
        mean = scores.groupby([row.y, row.x]).mean()[row.y_level, row.x_level]
        assert row.score == pytest.approx(mean)
    curves = curve_table(found)
    mean = curves[(curves["context"] == "") & (curves["hyperparameter"] == "learning_rate")]
    assert mean["score"].tolist() == pytest.approx(scores.groupby("learning_rate").mean().tolist())
    assert len(curves[(curves["hyperparameter"] == "beta") & (curves["context"] == "γ 0.5, learning rate 1e-4")]) == 2


def test_blocks_that_vary_something_else_are_no_neighbours(made):
    """Four points are repeated with two epochs: no step leads from one epoch to two, which some trials do not name."""
    first = made.specs(("dpo",))
    again = [
        dataclasses.replace(
            spec, key=spec.key + "e", configuration=spec.configuration + "e", train={**spec.train, "epochs": 2.0},
            varied=("epochs",), block=1,
        )
        for spec in first[:4]
    ]  # fmt: skip
    tables = Tables.of(made.record((*first, *again)))
    found, _ = step_table(tables, 0.1)
    assert set(found["hyperparameter"]) == {"β", "learning rate"}
    assert found["held"].str.contains("epochs 2").sum() == 3
    assert told(made.record((*first, *again))) is not None


@pytest.mark.parametrize("case", ["one configuration", "all diverged", "nothing finished", "no such metric", "no rows"])
def test_what_cannot_be_said_is_not(made, case):
    everything = made.specs()
    records = {
        "one configuration": made.record(made.specs(configurations=1)),
        "all diverged": made.record(everything, diverged=range(36)),
        "nothing finished": made.record(everything, missing=range(36)),
        "no such metric": dataclasses.replace(made.record(everything), primary_metric="ood/mean_score"),
        "no rows": dataclasses.replace(made.record(everything), responses={}),
    }
    chapter = told(records[case])
    if case == "one configuration":
        assert chapter is None
    elif case == "no rows":
        assert chapter.finding == ""
        assert not chapter.words
        assert all(pd.isna(row) for sheet in chapter.sheets for row in sheet.data["low"])
    else:
        assert not chapter.sheets
        assert not chapter.drawings
        assert len(chapter.silences) == 1


def test_the_same_record_gives_the_same_numbers(record, undrawn):
    one, other = told(record), told(record)
    for first, second in zip(one.sheets, other.sheets, strict=True):
        pd.testing.assert_frame_equal(first.data, second.data)
