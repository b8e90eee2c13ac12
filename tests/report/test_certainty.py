"""The chapter on certainty: its numbers against the record and the statistics, its words, and sweeps that carry little."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from posweep.records import SweepRecord
from posweep.report.cells import cells
from posweep.report.chapters.certainty import chapter
from posweep.report.chapters.certainty.order import BASE, WORST, variants
from posweep.report.drawing.style import publication
from posweep.report.tables import Tables
from posweep.robustness import variance_components

WIN = "ood/win_rate_vs_sft"
GRID = ("dpo", "ln_dpo", "simpo")


def told(record: SweepRecord):
    with publication():
        return chapter(Tables.of(record))


def sheet(chapter, name):
    return next(one.data for one in chapter.sheets if one.name == name)


@pytest.fixture(scope="module")
def seeds(made):
    """Three methods of twelve with three seeds; some trials diverged, one failed, one was not run."""
    return made.record(made.specs(seeds=(0, 1, 2)), diverged=(1, 5, 40, 41, 42), failed=(7,), missing=(50,))


@pytest.fixture(scope="module")
def certain(seeds):
    return told(seeds)


def varied(record: SweepRecord, change) -> SweepRecord:
    return dataclasses.replace(record, plan=tuple(change(spec) for spec in record.plan))


# --- numbers


def test_every_pair_stands_once_from_the_side_that_is_ahead(seeds, certain):
    data = sheet(certain, "improvement")
    assert len(data) == 3
    assert (data["probability"] >= 0.5).all()
    assert data["p_holm"].is_monotonic_increasing
    wins = {
        m: [r.measures[WIN] for k, r in seeds.results.items() if k.startswith(f"{m}-") and r.measures] for m in GRID
    }
    for row in data.itertuples():
        one, other = wins[row.method], wins[row.other]
        assert row.probability == pytest.approx(mannwhitneyu(one, other).statistic / len(one) / len(other))


def test_the_matrix_holds_both_sides(certain):
    data = next(one.data for one in certain.drawings if one.name == "improvement_matrix")
    assert len(data) == 9
    wide = data.pivot(index="method", columns="other", values="probability")
    assert (wide + wide.T).to_numpy() == pytest.approx(1)


def test_failures_are_counted_and_both_policies_shown(seeds, certain):
    data = sheet(certain, "failures_by_method").set_index("method")
    assert data.loc["dpo", ["trials", "diverged", "failed", "missing"]].tolist() == [36, 2, 1, 0]
    assert data.loc["ln_dpo", ["diverged", "missing"]].tolist() == [3, 1]
    assert data.loc["simpo", "median_dropped"] == data.loc["simpo", "median_worst"]
    tables = Tables.of(seeds)
    for policy, column in (("dropped", "iqm_dropped"), ("worst", "iqm_worst")):
        means = np.nanmean(tables.scores("ln_dpo", diverged=policy).mean(axis=2)[_finished(tables, policy)], axis=1)
        assert data.loc["ln_dpo", column] == pytest.approx(trim_mean(means, 0.25))
    assert data.loc["ln_dpo", "iqm_worst"] < data.loc["ln_dpo", "iqm_dropped"]
    assert "Diverged: DPO 2 of 36, LN-DPO 3 of 36. 2 trials failed" in " ".join(certain.words)


def _finished(tables, policy):
    return np.isfinite(tables.scores("ln_dpo", diverged=policy)).all(axis=2).any(axis=1)


def test_variance_shares_are_those_of_a_run_and_add_up(seeds, certain):
    data = sheet(certain, "variance_components").set_index("method")
    shares = data[[name for name in data if name.endswith("_share")]]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
    expected = variance_components(Tables.of(seeds).scores("simpo")).of_a_run()
    assert data.loc["simpo", "seeds_variance"] == pytest.approx(expected["seeds"])
    assert data.loc["dpo", "dropped"] == 3


# --- fairness


def test_the_fairness_table_says_what_each_method_was_given(certain):
    data = sheet(certain, "fairness").set_index("method")
    row = data.loc["dpo"]
    assert (row["searched"], row["learning_rates"]) == ("β {0.03, 0.1, 0.3, 0.9}", "{1e-4, 3e-4, 1e-3}")
    assert (row["configurations"], row["seeds"], row["dimensions"], row["diverged"]) == (12, 3, 2, 2)
    assert row["decades"] == pytest.approx(np.log10(30) + 1)
    assert row["edge"] == "learning rate 1e-3 (highest)"
    assert row["kl_low"] < 1 < row["kl_high"]
    assert "Learning rates, epochs and batch size are the same for all methods." in certain.words


def test_unequal_settings_are_named(made):
    def longer(spec):
        return dataclasses.replace(spec, train={**spec.train, "epochs": 2.0}) if spec.method == "simpo" else spec

    words = " ".join(told(varied(made.record(made.specs()), longer)).words)
    assert "Learning rates and batch size are the same for all methods." in words
    assert "Not the same for all methods: epochs. Most have 1; SimPO: 2." in words


# --- the ranking


def test_every_variant_is_tried(made, seeds):
    names = list(dict(variants(Tables.of(seeds), list(GRID))))
    assert names[:2] == [BASE, WORST]
    assert {"without learning rate 1e-4", "without learning rate 1e-3"} <= set(names)
    assert {"DPO without β 0.03", "DPO without β 0.9", "SimPO without γ 0.5", "SimPO without γ 1"} <= set(names)
    uneven = made.record(made.specs(("dpo",)) + made.specs(("simpo",), configurations=6))
    assert "6 configurations of each" in dict(variants(Tables.of(uneven), ["dpo", "simpo"]))


def test_a_variant_is_the_interquartile_mean_of_what_it_keeps(made):
    tables = Tables.of(made.record(made.specs()))
    values = dict(variants(tables, list(GRID)))
    means = tables.scores("dpo").mean(axis=(1, 2))
    kept = tables.points("dpo")["beta"].to_numpy() != 0.9
    assert values["DPO without β 0.9"][0] == pytest.approx(trim_mean(means[kept], 0.25))
    assert values["DPO without β 0.9"][1:] == pytest.approx(values[BASE][1:])
    rate = tables.points("ln_dpo")["learning_rate"].to_numpy() != 1e-3
    assert values["without learning rate 1e-3"][1] == pytest.approx(
        trim_mean(tables.scores("ln_dpo").mean(axis=(1, 2))[rate], 0.25)
    )


def test_both_priors_are_tried_where_both_were_run(made):
    def prior(spec):
        published = spec.method == "dpo" and spec.hyperparameters["beta"] > 0.2
        return dataclasses.replace(spec, prior="published" if published else "matched")

    tables = Tables.of(varied(made.record(made.specs()), prior))
    values = dict(variants(tables, list(GRID)))
    means, own = tables.scores("dpo").mean(axis=(1, 2)), tables.points("dpo")["prior"].to_numpy()
    for name in ("published", "matched"):
        found = values[f"prior {name} alone, where several were run"]
        assert found[0] == pytest.approx(trim_mean(means[own == name], 0.25))
        assert found[1:] == pytest.approx(values[BASE][1:])


def test_points_at_random_have_no_outer_level(made):
    tables = Tables.of(varied(made.record(made.specs()), lambda spec: dataclasses.replace(spec, design="random")))
    assert list(dict(variants(tables, list(GRID)))) == [BASE]


def shifted(record: SweepRecord, by) -> SweepRecord:
    """The record with other wins: `by` says how far a trial's are moved."""
    rows = {
        key: tuple(
            dataclasses.replace(row, wins={**row.wins, "vs_sft": float(np.clip(row.wins["vs_sft"] + by[key], 0, 1))})
            for row in mine
        )
        for key, mine in record.responses.items()
    }
    return dataclasses.replace(record, responses=rows)


def test_a_clear_order_is_printed_with_what_it_holds_for(made):
    record = made.record(made.specs())
    levels = {"dpo": 0.2, "ln_dpo": 0.0, "simpo": -0.2}
    found = told(shifted(record, {spec.key: levels[spec.method] for spec in record.plan}))
    assert found.finding.startswith(f"By the interquartile mean of {WIN} over configurations: DPO > LN-DPO > SimPO")
    assert "over 64 prompts, given this seed and this SFT checkpoint" in found.finding
    assert "3 differ significantly" in found.words[0]


def test_an_order_that_a_variant_turns_round_is_not_printed(made):
    """DPO is ahead by its diverged trials being dropped."""
    plan = made.specs(("dpo", "simpo"))
    record = made.record(plan, diverged=range(9))
    found = told(shifted(record, {spec.key: 0.25 if spec.method == "dpo" else 0.0 for spec in plan}))
    data = sheet(found, "ranking").set_index("variant")
    assert data.loc[BASE, "order"] == "DPO > SimPO"
    assert data.loc[WORST, "contradicts"] == "DPO > SimPO"
    assert found.finding == ""
    assert any(words.startswith("No order of methods is printed: there is 1 significant") for words in found.words)


def test_equal_methods_give_no_finding(made):
    plan = made.specs(("simpo",))
    twins = tuple(
        dataclasses.replace(spec, key=f"x{spec.key}", configuration=f"x{spec.configuration}", method="orpo")
        for spec in plan
    )
    record = made.record(plan + tuple(dataclasses.replace(one, method="simpo") for one in twins))
    found = told(dataclasses.replace(record, plan=plan + twins))
    assert found.finding == ""
    assert "none differs significantly" in found.words[0]


def test_of_many_methods_the_ones_ahead_are_named(made):
    plan = made.specs(("simpo",), configurations=4)
    names = [f"m{place}" for place in range(9)]
    many = tuple(
        dataclasses.replace(spec, key=f"{name}-{spec.key}", configuration=f"{name}-{spec.configuration}")
        for name in names
        for spec in plan
    )
    shift = {spec.key: 0.05 * names.index(spec.key.partition("-")[0]) - 0.2 for spec in many}
    record = shifted(made.record(many), shift)
    record = varied(record, lambda spec: dataclasses.replace(spec, method=spec.key.partition("-")[0]))
    found = told(record)
    assert "ahead of others: m8 (of 8)" in found.finding
    assert len(sheet(found, "improvement")) == 36


# --- the tuned learning rate


def test_the_tuned_rate_stands_beside_everything(made):
    record = made.record(made.specs(("dpo",)))
    best = {spec.key: 0.2 * (spec.train["learning_rate"] == 3e-4) for spec in record.plan}
    found = sheet(told(shifted(record, best)), "at_tuned_rate").iloc[0]
    assert found["chosen"] == "3e-4: 100%"
    assert found["iqm_tuned"] > found["iqm_all"] + 0.05
    assert found["p10_tuned_low"] <= found["p10_tuned"] <= found["p10_tuned_high"]


# --- how few seeds are spoken of, and sweeps with little in them


@pytest.mark.parametrize(("count", "words"), [(1, "holds for this seed"), (3, "3 seeds are few"), (5, "")])
def test_few_seeds_are_called_few(made, count, words):
    found = told(made.record(made.specs(("dpo", "simpo"), seeds=range(count), configurations=2), prompts=16))
    said = [sentence for sentence in found.words if "simulated sweeps" in sentence]
    assert len(said) == bool(words)
    assert all(words in sentence for sentence in said)


THIN = {
    "one trial": lambda made, few: made.record(few[:1]),
    "one method": lambda made, few: made.record(made.specs(("ln_dpo",))),
    "all diverged": lambda made, few: made.record(few, diverged=range(4)),
    "one method diverged": lambda made, few: made.record(few, diverged=range(2)),
    "nothing finished": lambda made, few: made.record(few, missing=range(4)),
    "no result": lambda made, few: SweepRecord("empty", WIN, few, {}),
    "one prompt": lambda made, few: made.record(few, prompts=1),
    "two prompts": lambda made, few: made.record(few, prompts=2),
    "no responses": lambda made, few: dataclasses.replace(made.record(few), responses={}),
    "another metric": lambda made, few: dataclasses.replace(made.record(few), primary_metric="iid/response_length"),
    "an absent metric": lambda made, few: dataclasses.replace(made.record(few), primary_metric="nowhere/at_all"),
}


@pytest.mark.parametrize("name", THIN)
@pytest.mark.filterwarnings("error")
def test_thin_sweeps_say_what_they_can(name, made):
    record = THIN[name](made, made.specs(("dpo", "simpo"), configurations=2))
    found = told(record)
    assert all(cells(one) for one in found.sheets)
    if name not in ("another metric", "two prompts", "one method"):
        assert found.finding == ""
        assert found.silences


def test_without_a_plan_there_is_no_chapter():
    assert told(SweepRecord("empty", WIN, (), {})) is None


def test_no_interval_is_shown_that_nothing_was_drawn_for(made):
    found = told(dataclasses.replace(made.record(made.specs(configurations=4)), responses={}))
    data = sheet(found, "improvement")
    assert data[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert any("no scores by prompt" in sentence for sentence in found.silences)


def test_the_same_record_gives_the_same_tables(seeds, certain):
    again = told(seeds)
    for one, other in zip(certain.sheets, again.sheets, strict=True):
        assert one.data.to_csv() == other.data.to_csv()
