"""How far judges agree, from a record: whose wins are whose, over what, and what rows without scores come to."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from posweep.records import Response, SweepRecord, TrialResult
from posweep.report import write_report
from posweep.report.page.judges import agreement_table, agreement_words, interval, judge_agreement, judge_table, judges
from posweep.report.page.markup import count, decimals
from posweep.report.page.sections import data_table, per_set_table
from posweep.report.tables import Tables

PAIR = ["judge", "other_judge"]


def with_rows(record: SweepRecord, change) -> SweepRecord:
    """The record with every response changed."""
    rows = {key: tuple(map(change, responses)) for key, responses in record.responses.items()}
    return dataclasses.replace(record, responses=rows)


def with_facts(record: SweepRecord, **facts) -> SweepRecord:
    return dataclasses.replace(record, facts=facts)


def row(wins: dict, scores: dict | None = None, index: int = 0, place: str = "ood") -> Response:
    return Response(place, index, "p", "t", 1, False, 0.0, 1, scores or {}, wins)


def tiny(made, rows: list[list[Response]], seeds=(0,), **facts) -> SweepRecord:
    """Trials of DPO that finished with these responses."""
    plan = made.specs(("dpo",), seeds=seeds)[: len(rows)]
    results = {spec.key: TrialResult(spec.key, "", "", "finished", {"ood/win_rate_vs_sft": 0.5}) for spec in plan}
    responses = {spec.key: tuple(found) for spec, found in zip(plan, rows, strict=True)}
    return SweepRecord("tiny", "ood/win_rate_vs_sft", plan, results, responses, {}, facts)


# --- who is who

TWO = {"vs_sft": 1.0, "proxy/vs_sft": 0.0}


@pytest.mark.parametrize(
    ("wins", "scores", "facts", "expected"),
    [
        (TWO, {}, {"judges": "gold, proxy"}, {"gold": "", "proxy": "proxy/"}),
        (TWO, {"gold": 1.0, "proxy": 2.0}, {}, {"gold": "", "proxy": "proxy/"}),
        (TWO, {"proxy": 2.0}, {"judges": "llm,proxy"}, {"llm": "", "proxy": "proxy/"}),
        (TWO, {"proxy": 2.0}, {}, {"the primary judge": "", "proxy": "proxy/"}),
        (TWO, {}, {"judges": "proxy, gold"}, {"gold": "", "proxy": "proxy/"}),
        ({"vs_sft": 1.0}, {}, {"judges": "gold, proxy"}, {"gold": ""}),
        ({"b/vs_sft": 1.0, "vs_sft": 0.5, "a/vs_sft": 0.0}, {}, {"judges": "p, a, b"}, {"p": "", "a": "a/", "b": "b/"}),
        ({}, {}, {}, {}),
    ],
    ids=[
        "facts",
        "scores",
        "a primary judge without scores",
        "no name",
        "facts of another order",
        "one",
        "three",
        "none",
    ],
)
def test_judges_by_name(made, wins, scores, facts, expected):
    found = judges(tiny(made, [[row(wins, scores)]], **facts))
    assert found == expected
    assert list(found) == list(expected)


# --- the numbers


def test_agreement_is_over_the_primary_set_and_finished_trials(record):
    (found,) = judge_agreement(record).itertuples()
    rows = [one for rows in record.responses.values() for one in rows if one.set == "ood"]
    sides = np.sign([[one.wins["vs_sft"] - 0.5, one.wins["proxy/vs_sft"] - 0.5] for one in rows])
    assert found.agreement == pytest.approx(1 - np.abs(sides[:, 0] - sides[:, 1]).mean() / 2)
    rates = [[np.mean([one.wins[name] for one in rows if one.set == "ood"]) for rows in record.responses.values()]
             for name in ("vs_sft", "proxy/vs_sft")]  # fmt: skip
    assert found.tau_b == pytest.approx(kendalltau(*np.round(rates, 9)).statistic)
    assert -1 <= found.tau_b_low < found.tau_b < found.tau_b_high <= 1
    assert (found.set, found.opponent, found.judge, found.other_judge) == ("ood", "vs_sft", "gold", "proxy")
    assert (found.comparisons, found.configurations, found.prompts) == (33 * 64, 33, 64)


def test_the_opponent_is_that_of_the_primary_metric(made):
    wins = {"vs_sft": 1.0, "vs_chosen": 0.0, "llm/vs_sft": 1.0, "llm/vs_chosen": 1.0}
    record = tiny(made, [[row(wins, index=i) for i in range(3)]], judges="gold, llm")
    for metric, agreed in {
        "ood/win_rate_vs_sft": 1,
        "ood/win_rate_vs_chosen": 0,
        "ood/llm/win_rate_vs_chosen": 0,
        "ood/kl_to_sft": 1,
    }.items():
        found = judge_agreement(dataclasses.replace(record, primary_metric=metric))
        assert found["agreement"].tolist() == [agreed]
    assert "the chosen responses" in agreement_words(
        judge_agreement(dataclasses.replace(record, primary_metric="ood/win_rate_vs_chosen"))
    )


def test_seeds_are_averaged_before_configurations_are_ranked(made):
    """Means over seeds are ¾ and ¼ under one judge, ½ and ¼ under the other; single trials are ordered otherwise."""
    rates = [(1, 0), (0.5, 1), (0.5, 0.25), (0, 0.25)]
    rows = [[row({"vs_sft": a, "b/vs_sft": b}, index=i) for i in range(4)] for a, b in rates]
    found = judge_agreement(tiny(made, rows, seeds=(0, 1), judges="a, b"))
    assert found[["configurations", "prompts", "comparisons"]].to_numpy().tolist() == [[2, 4, 16]]
    assert found["tau_b"].tolist() == [1]


def test_every_pair_of_three_judges_has_a_row(record):
    three = with_rows(record, lambda one: dataclasses.replace(one, wins={**one.wins, "llm/vs_sft": 0.5}))
    found = judge_agreement(with_facts(three, judges="gold, proxy, llm"))
    assert found[PAIR].to_numpy().tolist() == [["gold", "proxy"], ["gold", "llm"], ["proxy", "llm"]]
    assert found["tau_b"].isna().tolist() == [False, True, True]
    assert found["agreement"][0] == judge_agreement(record)["agreement"][0]
    assert str(agreement_table(found)).count("<td>–</td>") == 4


def test_a_judge_that_saw_some_trials_is_compared_on_those(made):
    both, one = {"vs_sft": 1.0, "b/vs_sft": 1.0}, {"vs_sft": 0.0}
    rows = [[row(wins, index=i) for i in range(2)] for wins in (both, one, both)]
    found = judge_agreement(tiny(made, rows, judges="a, b"))
    assert found[["comparisons", "configurations"]].to_numpy().tolist() == [[4, 2]]


@pytest.mark.parametrize(
    "rows",
    [
        [[row({"vs_sft": 1.0, "b/vs_sft": 0.0}, place="iid")]],
        [[row({"vs_sft": 1.0})]],
        [[row({})]],
        [[]],
        [],
    ],
)
def test_without_two_judges_there_is_no_table(made, rows):
    found = judge_agreement(tiny(made, rows, judges="a, b"))
    assert found.empty
    assert agreement_table(found) is None


@pytest.mark.filterwarnings("error")
def test_judges_without_a_common_comparison_have_a_row_of_dashes(made):
    found = judge_agreement(tiny(made, [[row({"vs_sft": 1.0})], [row({"b/vs_sft": 1.0})]], judges="a, b"))
    assert found["comparisons"].tolist() == [0]
    assert found[["agreement", "kappa", "tau_b"]].isna().all(axis=None)
    assert str(agreement_table(found)).count("<td>–</td>") == 4


# --- judges without scores


def test_a_judge_that_compares_may_be_the_only_one_and_the_primary_one(undrawn, made, tmp_path):
    """No scores, no mean score: the page is made all the same, without the section on agreement."""
    record = made.record(made.specs(("dpo",), configurations=2), prompts=4)
    assert all(not one.scores for rows in record.responses.values() for one in rows)
    lone = with_rows(record, lambda one: dataclasses.replace(one, wins={"vs_sft": one.wins["vs_sft"]}))
    text = write_report(with_facts(lone, judges="llm"), tmp_path).read_text(encoding="utf-8")
    assert "How far the judges agree" not in text
    assert not (tmp_path / "tables" / "judge_agreement.csv").exists()


def test_what_judges_counted_is_shown_as_counts(record):
    text = str(judge_table(record))
    for shown in ("<td>6,336</td>", "<td>1,234,567</td>", "<td>0.810</td>", "prompt tokens"):
        assert shown in text
    whole = with_facts(record, **{"judge/a/held_out_accuracy": 1.0, "judge/a/seconds": 2.5})
    assert "<td>1.000</td><td>2.500</td>" in str(judge_table(whole))


# --- sets and data


def test_sets_say_whether_they_are_in_distribution(record):
    text = str(per_set_table(Tables.of(record)))
    assert 'iid<br><span class="faint">in distribution</span>' in text
    assert 'ood<br><span class="faint">out of distribution</span>' in text
    assert '<td class="text">ood_counts</td>' in text


def test_the_data_are_counted_training_pairs_first(record):
    text = str(data_table(record))
    heads = ["", "rows", "prompts truncated", "dropped: chosen equals rejected"]
    assert [text.index(f">{head}</th>") for head in heads] == sorted(text.index(f">{head}</th>") for head in heads)
    assert '<td class="text">train</td><td>2,713</td><td>12</td><td>4</td>' in text
    assert '<td class="text">iid</td><td>64</td><td>–</td><td>–</td>' in text
    assert data_table(with_facts(record, data="demo", **{"data/rows": 3})) is None


def test_facts_with_tables_of_their_own_are_not_listed(undrawn, record, tmp_path):
    facts = {"data": "demo", "set/iid/distribution": "iid", "data/train/rows": 9, "judge/a/calls": 3.0, "commit": "abc"}
    text = write_report(with_facts(dataclasses.replace(record, plan=record.plan[:1]), **facts), tmp_path).read_text(
        "utf-8"
    )
    header = text[text.index('<section id="run">') : text.index('<section id="methods">')]
    assert "<dt>data</dt><dd>demo</dd><dt>commit</dt><dd>abc</dd>" in header
    assert not any(name in header for name in ("set/", "data/", "judge/"))


def test_small_numbers_are_written_as_people_read_them():
    assert [decimals(value, 2) for value in (-0.001, -0.25, 3, math.nan, None)] == ["0.00", "−0.25", "3.00", None, None]
    assert [count(value) for value in (2713, 4.0, 0.5, "few")] == ["2,713", "4", "0.500", "few"]
    assert interval(-0.5, 1.0) == "−0.50 … 1.00"
    assert interval(math.nan, 1.0) is None
