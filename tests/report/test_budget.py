"""What a budget buys: the numbers against direct computation, the words against what is significant, sweeps with gaps."""

import dataclasses

import numpy as np
import pytest

from posweep.objectives import OBJECTIVES
from posweep.records import Response, TrialResult
from posweep.report.chapters.budget import chapter, leaders, silences
from posweep.report.chapters.budget.numbers import numbers
from posweep.report.chapters.budget.sheets import Unit, budget_sheet, shares_sheet
from posweep.report.drawing.style import publication
from posweep.report.tables import Tables, best
from posweep.robustness import tuning_curve


def world(made, rates, prompts=100, design="grid", seeds=(0,)):
    """A sweep with known win-rates: method → the rate of each of its configurations."""
    like = made.specs(("dpo",))[0]
    plan, results, rows = [], {}, {}
    rng = np.random.default_rng(0)
    for method, own in rates.items():
        for place, rate in enumerate(own):
            for seed in seeds:
                key, name = f"{method}-{place}-{seed}", f"{method}-{place}"
                ids = {"key": key, "response_key": key, "score_key": key}
                plan.append(
                    dataclasses.replace(like, **ids, method=method, configuration=name, seed=seed, design=design)
                )
                wins = (rng.random(prompts) < rate).astype(float)
                measures = {"ood/win_rate_vs_sft": float(wins.mean())}
                results[key] = TrialResult(*ids.values(), "finished", measures, seconds={"total": 7200.0})
                rows[key] = tuple(
                    Response("ood", i, "p", "t", 3, False, 0.1, 3, {}, {"vs_sft": win}) for i, win in enumerate(wins)
                )
    record = made.record(())
    return dataclasses.replace(record, plan=tuple(plan), results=results, responses=rows, facts={})


def tell(record):
    with publication():
        return chapter(Tables.of(record))


def finding(record):
    tables = Tables.of(record)
    return leaders(tables, numbers(tables))


def quiet(record):
    tables = Tables.of(record)
    return " ".join(silences(tables, numbers(tables)))


def table(record, name="budget"):
    """A sheet's data by method, without the figures."""
    tables = Tables.of(record)
    found = numbers(tables)
    made = budget_sheet(tables, found, Unit.of(tables, found)) if name == "budget" else shares_sheet(found, True)
    return made.data.set_index("method")


def sheet(told, name):
    return next(one for one in told.sheets if one.name == name)


def test_the_sheet_holds_the_mean_and_the_cross_fitted_best(record):
    tables, data = Tables.of(record), table(record)
    for method in tables.methods:
        scores = tables.scores(method)
        assert data.loc[method, "best_of_1"] == pytest.approx(np.nanmean(scores))
        assert data.loc[method, "best_of_all"] == pytest.approx(best(tables, method)[0])
        assert data.loc[method, "best_of_1_low"] < data.loc[method, "best_of_1"] < data.loc[method, "best_of_1_high"]


def test_without_rows_the_curve_is_that_of_the_numbers_and_no_interval_is_shown(record):
    bare = dataclasses.replace(record, responses={})
    told, tables = tell(bare), Tables.of(bare)
    data = sheet(told, "budget").data.set_index("method")
    expected = tuning_curve(tables.scores("dpo")[:, 0, 0], [3])[0]
    assert data.loc["dpo", "best_of_3"] == pytest.approx(expected)
    assert data[[name for name in data if name.endswith(("_low", "_high"))]].isna().all(axis=None)
    assert "cannot be freed of luck" in " ".join(told.silences)
    assert "no intervals and no comparisons" in " ".join(told.silences)
    assert told.finding == ""


def test_a_method_that_is_clearly_ahead_is_named_with_its_margin(made):
    rates = {"dpo": [0.3] * 5, "simpo": [0.75] * 5, "kto": [0.4] * 5}
    told = tell(world(made, rates))
    assert told.finding.startswith("With 1, 3 or 5 trials SimPO is ahead of every other method")
    assert "100 prompts, given this seed" in told.finding
    assert told.finding in told.words


def test_two_that_are_level_are_named_together_when_they_lead(made):
    rates = {"dpo": [0.2] * 5, "simpo": [0.7] * 5, "kto": [0.7] * 5}
    found = finding(world(made, rates))
    assert "SimPO and KTO" in found or "KTO and SimPO" in found
    assert "not significantly different" in found


def test_nothing_is_found_between_equals(made):
    assert finding(world(made, {"dpo": [0.4, 0.6], "simpo": [0.4, 0.6]})) == ""


def test_of_random_draws_other_draws_are_luck_too(made):
    """The same scores: on a grid the configurations are given, of a random search they might have been others."""
    rates = {"dpo": list(np.linspace(0.1, 0.7, 8)), "simpo": list(np.linspace(0.2, 0.8, 8))}
    assert "SimPO is ahead" in finding(world(made, rates, 400, "grid"))
    assert finding(world(made, rates, 400, "random")) == ""


def test_diverged_trials_can_take_a_lead_away(made):
    """SimPO's few survivors lead; with its diverged trials at the worst it is last."""
    record = world(made, {"dpo": [0.5] * 6, "simpo": [0.7] * 6})
    lost = {f"simpo-{place}-0" for place in range(4)}
    ended = {k: dataclasses.replace(r, status="diverged", measures={}) for k, r in record.results.items() if k in lost}
    assert "SimPO is ahead" in finding(record)
    record = dataclasses.replace(record, results={**record.results, **ended})
    assert finding(record) == ""
    data = table(record)
    assert data.loc["simpo", "best_of_1_diverged_worst"] == pytest.approx(data.loc["simpo", "best_of_1"] / 3)
    shares = table(record, "shares")
    assert shares.loc["simpo", "harms_diverged_worst"] == pytest.approx(4 / 6)


def test_methods_of_unequal_size_are_compared_at_equal_n_only(made):
    record = world(made, {**{method: [0.5] * 9 for method in ("dpo", "simpo", "kto", "ipo")}, "sft": [0.5] * 2})
    data = table(record)
    assert np.isnan(data.loc["sft", ["best_of_3", "best_of_9", "area"]].astype(float)).all()
    assert np.isfinite(data.loc["sft", "best_of_1"])
    assert "compared at equal n only" in quiet(record)


def test_random_blocks_carry_the_exact_band_and_grids_do_not(made):
    grid, random = (tell(world(made, {"dpo": [0.4, 0.5, 0.6]}, design=design)) for design in ("grid", "random"))
    assert "exact_low" not in grid.drawings[0].data
    assert "A grid is not a random sample" in grid.drawings[0].caption
    data = random.drawings[0].data
    assert (data["exact_low"] < data["value"]).all()
    assert (data["exact_high"] > data["value"]).all()
    assert "A grid" not in random.drawings[0].caption


def test_time_is_of_gpus_where_a_trial_has_one(made):
    record = world(made, {"dpo": [0.1, 0.5, 0.9]})
    assert table(record)["tuning_cost_hours"].tolist() == [6.0]
    several = dataclasses.replace(record, facts={"gpus a trial": 4})
    assert table(several)["tuning_cost_gpu_hours"].tolist() == [24.0]
    assert tell(several).drawings[0].data["gpu_hours"].tolist() == [8.0, 16.0, 24.0]


def test_many_methods_have_a_panel_each_and_a_figure_against_time(made):
    told = tell(world(made, {method: [0.4, 0.5, 0.6] for method in list(OBJECTIVES)[:6]}))
    assert [one.name for one in told.drawings][:2] == ["tuning_curves", "tuning_curves_by_time"]


def test_the_best_is_chosen_in_distribution_where_there_is_another_set(record):
    assert "chosen_in_distribution" in table(record)
    assert "chosen_in_distribution" not in table(dataclasses.replace(record, primary_metric="iid/win_rate_vs_sft"))


def test_stacked_shares_add_up(record):
    data = next(one for one in tell(record).drawings if one.name == "shares_beating_sft").data
    stacked = data[["surely_beats", "beats", "level", "harms", "surely_harms"]]
    assert stacked.sum(axis=1).tolist() == pytest.approx([1.0] * 3)
    assert (stacked >= 0).all(axis=None)


def test_a_metric_in_other_units_has_curves_but_no_shares(record):
    told = tell(dataclasses.replace(record, primary_metric="ood/kl_to_sft"))
    assert [one.name for one in told.sheets] == ["budget"]
    assert [one.name for one in told.drawings] == ["tuning_curves", "performance_profiles", "robust_shares"]
    assert "no win-rate" in " ".join(told.silences)


def test_few_prompts_are_neither_split_nor_drawn(made):
    found = numbers(Tables.of(world(made, {"dpo": [0.4, 0.6]}, prompts=6)))
    assert found.prompts == 1
    assert not found.drawn


def test_seeds_are_drawn_where_prompts_are_few(made):
    found = numbers(Tables.of(world(made, {"dpo": [0.4, 0.6]}, prompts=6, seeds=(0, 1, 2))))
    assert found.over == "3 seeds, given these prompts and this SFT checkpoint"


def test_nothing_is_said_of_nothing(made):
    plan = made.specs()
    assert tell(made.record(plan, missing=range(36))) is None
    assert tell(made.record(plan, diverged=range(36))) is None


def test_a_single_configuration_has_no_curve(made):
    told = tell(world(made, {"dpo": [0.6]}))
    assert [one.name for one in told.drawings] == ["shares_beating_sft"]
    assert "nothing to choose among" in " ".join(told.silences)
    assert told.finding == ""


def test_a_method_without_a_score_is_named(made):
    assert "No configuration of DPO has a score" in quiet(made.record(made.specs(), diverged=range(12)))


def test_without_times_curves_are_against_trials_only(record):
    results = {key: dataclasses.replace(result, seconds={}) for key, result in record.results.items()}
    record = dataclasses.replace(record, results=results)
    assert "against trials only" in quiet(record)
    assert table(record)["tuning_cost_minutes"].isna().all()


def test_the_same_record_gives_the_same_tables(record):
    for name in ("budget", "shares"):
        assert table(record, name).to_csv() == table(record, name).to_csv()
