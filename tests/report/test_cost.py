"""The chapter on KL and length: its numbers against the record, what it leaves unsaid, and thin sweeps."""

import dataclasses
import math

import numpy as np
import pytest

from posweep.records import SweepRecord
from posweep.report.chapters import cost
from posweep.report.tables import Tables

SHEETS = ("frontier", "length_control", "length_coefficients", "best_of_n", "best_of_n_against_methods", "head_to_head")
DRAWINGS = ("kl_frontier", "length_against_win", "length_controlled", "head_to_head_matrix")


def told(record: SweepRecord):
    return cost.chapter(Tables.of(record))


def sheet(chapter, name: str):
    return {found.name: found for found in chapter.sheets}[name].data


@pytest.fixture(scope="module")
def whole(record, made) -> SweepRecord:
    return made.with_opponents(record)


@pytest.fixture(scope="module")
def chapter(whole):
    return told(whole)


def test_everything_is_there(chapter):
    assert tuple(one.name for one in chapter.sheets) == SHEETS
    assert tuple(one.name for one in chapter.drawings) == DRAWINGS
    assert chapter.silences == ()


def test_the_same_record_gives_the_same_numbers(whole, chapter):
    again = told(whole)
    assert again.words == chapter.words
    for one, other in zip(chapter.sheets, again.sheets, strict=True):
        assert one.data.to_csv() == other.data.to_csv()
        assert one.caption == other.caption


def test_shown_columns_and_intervals_are_in_the_data(chapter):
    for one in chapter.sheets:
        ends = [end for column in one.columns.values() for end in column.interval or ()]
        assert {*one.columns, *ends} <= set(one.data.columns)
        for name, column in one.columns.items():
            if column.interval:
                low, high = (one.data[end] for end in column.interval)
                known = low.notna()
                assert (low[known] <= one.data[name][known]).all()
                assert (one.data[name][known] <= high[known]).all()


def test_the_table_of_frontiers(chapter):
    data = sheet(chapter, "frontier")
    assert data["method"].tolist() == ["dpo", "ln_dpo", "simpo"]
    assert data["configurations"].tolist() == [11, 11, 11]
    assert data["near"].between(0, 1).all()
    assert (data["kl_at_best"] > 0).all()
    assert data["area"].between(-0.1, 0.3).all()


def test_head_to_head_holds_every_pair_twice(chapter):
    data = sheet(chapter, "head_to_head")
    assert len(data) == 6
    assert set(data["at"]) == {"best", "median"}
    assert data["win_rate"].between(0, 1).all()
    assert "share their sampling noise" in next(one.caption for one in chapter.sheets if one.name == "head_to_head")


def test_best_of_one_is_the_mean_of_the_fresh_responses(whole, chapter):
    data = sheet(chapter, "best_of_n")
    fresh = [np.mean(row.fresh_wins["vs_sft"]) for row in whole.opponents if row.set == "ood"]
    ones = data[data["n"] == 1]
    assert ones["win_rate"].to_numpy() == pytest.approx([np.mean(fresh)] * 2)
    assert ones["selector"].tolist() == ["gold", "proxy"]
    assert (data[data["oracle"]]["win_rate"].diff().dropna() > 0).all()
    assert data[data["n"] == 4]["kl"].tolist() == pytest.approx([math.log(4) - 0.75] * 2)


def test_seeds_are_compared_with_other_seeds(made):
    record = made.with_opponents(made.record(made.specs(("dpo", "simpo"), seeds=(0, 1), configurations=4)))
    (caption,) = (one.caption for one in told(record).sheets if one.name == "head_to_head")
    assert "different seeds" in caption
    assert "2 seeds and 64 prompts" in caption


def test_a_policy_that_is_always_longer_is_refused_and_named(whole):
    rows = {
        key: tuple(dataclasses.replace(row, length=row.length + 200 * key.startswith("simpo")) for row in mine)
        for key, mine in whole.responses.items()
    }
    found = told(dataclasses.replace(whole, responses=rows))
    data = sheet(found, "length_control").set_index("method")
    assert data.loc["simpo", "refused_runs"] == 11
    assert "longer" in data.loc["simpo", "why"]
    assert math.isnan(data.loc["simpo", "controlled"])
    assert any("SimPO" in silence and "equal length" in silence for silence in found.silences)


def test_a_judge_that_likes_length_is_found_out(whole):
    """Wins that go with length alone: φ is positive and said, and the medians move."""
    rows = {
        key: tuple(
            dataclasses.replace(row, wins={"vs_sft": float(np.clip((row.length - 18) / 8, 0, 1))}) for row in mine
        )
        for key, mine in whole.responses.items()
    }
    found = told(dataclasses.replace(whole, responses=rows))
    data = sheet(found, "length_coefficients")
    assert (data["low"] > 0).all()
    assert any("longer responses to win more often" in sentence for sentence in found.words)


def test_a_method_that_wins_for_less_is_the_finding(record):
    """SimPO wins everywhere; that others diverge must not change it, and one that diverges itself must still be ahead."""
    rows = {
        key: tuple(
            dataclasses.replace(row, wins={"vs_sft": 0.9 if "simpo" in key else row.wins["vs_sft"]}) for row in mine
        )
        for key, mine in record.responses.items()
    }
    found = told(dataclasses.replace(record, responses=rows))
    assert found.finding.startswith("For the KL it spends SimPO wins most")
    assert told(record).finding == ""


# --- what is missing is said


def test_older_records_say_what_they_lack(record):
    found = told(record)
    assert tuple(one.name for one in found.sheets) == ("frontier",)
    assert tuple(one.name for one in found.drawings) == ("kl_frontier", "length_against_win")
    text = " ".join(found.silences)
    assert all(words in text for words in ("Length control needs", "Best-of-n needs", "No scores of single responses"))


def test_judges_that_only_compare(record, made):
    found = told(made.with_opponents(record, scored=False))
    text = " ".join(found.silences)
    assert "gold only compares" in text
    assert "No scores of single responses are stored for gold" in text


def with_measures(record: SweepRecord, **values: float) -> SweepRecord:
    """The record without rows, with some measures set in every trial."""
    changed = {f"ood/{name}": value for name, value in values.items()}
    results = {
        key: dataclasses.replace(result, measures={**result.measures, **changed} if result.measures else {})
        for key, result in record.results.items()
    }
    return dataclasses.replace(record, results=results, responses={})


THIN = {
    "one trial": lambda made, few: made.with_opponents(made.record(few[:1])),
    "one method": lambda made, few: made.with_opponents(made.record(few[:6])),
    "one prompt": lambda made, few: made.with_opponents(made.record(few, prompts=1)),
    "two prompts": lambda made, few: made.with_opponents(made.record(few, prompts=2)),
    "two seeds, one lost": lambda made, few: made.with_opponents(
        made.record(made.specs(("dpo", "simpo"), seeds=(0, 1), configurations=3), diverged=(1, 2, 3))
    ),
    "all diverged": lambda made, few: made.record(few, diverged=range(len(few))),
    "nothing finished": lambda made, few: made.record(few, missing=range(len(few))),
    "no responses": lambda made, few: dataclasses.replace(made.record(few), responses={}),
    "nobody beats SFT": lambda made, few: with_measures(made.record(few), win_rate_vs_sft=0.4),
    "no KL": lambda made, few: with_measures(made.record(few), kl_to_sft=math.nan),
    "infinite KL": lambda made, few: with_measures(made.record(few), kl_to_sft=math.inf),
    "all alike": lambda made, few: with_measures(made.record(few), win_rate_vs_sft=0.6, kl_to_sft=1.0),
    "another metric": lambda made, few: dataclasses.replace(
        made.with_opponents(made.record(few)), primary_metric="iid/response_length"
    ),
    "wins against chosen": lambda made, few: dataclasses.replace(
        made.with_opponents(made.record(few)), primary_metric="ood/win_rate_vs_chosen"
    ),
    "a second judge's wins": lambda made, few: dataclasses.replace(
        made.with_opponents(made.record(few)), primary_metric="ood/proxy/win_rate_vs_sft"
    ),
    "nothing": lambda made, few: SweepRecord("empty", "ood/win_rate_vs_sft", (), {}),
}


@pytest.mark.parametrize("name", THIN)
@pytest.mark.filterwarnings("error")
def test_thin_sweeps_are_told(name, made):
    found = told(THIN[name](made, made.specs(("dpo", "simpo"), configurations=6)))
    if found is None:
        return
    assert "nan" not in " ".join((*found.words, found.finding, *(one.caption for one in found.sheets)))
    if name in ("one trial", "one method", "nobody beats SFT", "all alike", "no responses"):
        assert found.finding == ""


def test_no_area_where_nobody_beats_the_sft_model(made):
    record = made.record(made.specs(("dpo",), configurations=4))
    found = told(with_measures(record, win_rate_vs_sft=0.4))
    assert "area" not in sheet(found, "frontier")
    assert any("no frontier has an area" in silence for silence in found.silences)
