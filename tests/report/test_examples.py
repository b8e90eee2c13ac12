"""Which generations are shown, by which rule, and that their texts stay texts."""

import dataclasses
import re

import numpy as np
import pytest

from posweep.records import Opponents, SweepRecord
from posweep.report.page.examples import APART, chosen_prompts, examples_section, speakers
from posweep.report.tables import Tables

WIN = "ood/win_rate_vs_sft"


def opponents(record: SweepRecord, prompts: int) -> SweepRecord:
    scores = {"gold": {"chosen": [0.7], "sft": [0.25, 0.5], "fresh": [0.3]}}
    found = tuple(
        Opponents("ood", i, "p", f"chosen <b>{i}</b>", 4, (f"sft {i}", "second"), (5, 6), ("fresh",), (1,), scores)
        for i in range(prompts)
    )
    return dataclasses.replace(record, opponents=found)


def with_texts(record: SweepRecord, text: str, **changes) -> SweepRecord:
    rows = {
        key: tuple(dataclasses.replace(row, text=text, **changes) for row in rows)
        for key, rows in record.responses.items()
    }
    return dataclasses.replace(record, responses=rows)


def shown_prompts(page: str) -> list[int]:
    return [int(found) for found in re.findall(r"<summary>Prompt (\d+)", page)]


def test_the_best_and_the_median_configuration_of_each_method_speak(record):
    tables = Tables.of(record)
    found = speakers(tables)
    assert [(one.spec.method, one.role) for one in found] == [
        (method, role) for method in ("dpo", "ln_dpo", "simpo") for role in ("best", "median")
    ]
    for one in found:
        scores = np.sort(tables.points(one.spec.method)[WIN].dropna())
        expected = scores[-1] if one.role == "best" else scores[(len(scores) - 1) // 2]
        assert record.results[one.spec.key].measures[WIN] == expected


def test_a_configuration_is_ranked_by_the_mean_over_its_seeds_and_speaks_with_the_first_that_finished(made):
    record = made.record(made.specs(("dpo",), seeds=(0, 1, 2)), diverged=range(0, 36, 3))
    tables = Tables.of(record)
    best = speakers(tables)[0].spec
    points = tables.points("dpo")
    assert best.configuration == points["configuration"][points[WIN].idxmax()]
    assert best.seed == 1


def test_prompts_are_evenly_spaced_and_one_is_where_methods_differ_most(record):
    tables = Tables.of(record)
    found = chosen_prompts(tables, range(64))
    means = [np.nanmean(tables.scores(method), axis=(0, 1)) for method in tables.methods]
    apart = int(np.argmax(np.max(means, axis=0) - np.min(means, axis=0)))
    assert found == {**dict.fromkeys((0, 16, 32, 48), ""), apart: APART}


def test_fewer_prompts_than_wanted_are_all_shown_once(made):
    record = made.record(made.specs(("dpo",), configurations=2), prompts=3)
    assert list(chosen_prompts(Tables.of(record), range(3))) == [0, 1, 2]


def test_one_method_has_no_prompt_where_methods_differ(made):
    page = examples_section(Tables.of(made.record(made.specs(("dpo",))))).body
    assert APART not in page
    assert shown_prompts(page) == [0, 16, 32, 48]


def test_all_texts_are_escaped(record):
    evil = '<script>alert("&")</script>'
    page = examples_section(Tables.of(opponents(with_texts(record, evil, prompt=evil), 64))).body
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;" in page
    assert "chosen &lt;b&gt;0&lt;/b&gt;" in page


def test_opponents_stand_beside_the_methods_with_their_scores(record):
    page = examples_section(Tables.of(opponents(record, 64))).body
    assert page.count("SFT model</p>") == page.count("Chosen response of the data</p>") == 5
    assert "gold 0.250 · 5 tokens" in page
    assert "gold 0.700 · 4 tokens" in page
    assert "the first is shown" in page


def test_opponents_that_are_not_recorded_are_said_to_be(record):
    page = examples_section(Tables.of(record)).body
    assert "SFT model</p>" not in page
    assert "not recorded in this sweep and left out" in page


def test_each_response_has_its_numbers(record):
    rows = {k: tuple(dataclasses.replace(row, truncated=True, scores={"gold": 0.5}) for row in v)
            for k, v in record.responses.items()}  # fmt: skip
    tables = Tables.of(dataclasses.replace(record, responses=rows))
    first = next(row for row in rows[speakers(tables)[0].spec.key] if row.set == "ood" and row.index == 0)
    page = examples_section(tables).body
    numbers = f"gold 0.500 · {first.length} tokens (cut off) · KL {first.kl:.2f} nats"
    assert f"wins against SFT {first.wins['vs_sft']:.2f}" in page
    assert numbers in page


def test_an_empty_response_is_said_to_be(record):
    assert "(empty)" in examples_section(Tables.of(with_texts(record, " \n"))).body


@pytest.mark.parametrize(
    "change", [{"responses": {}}, {"results": {}}, {"primary_metric": "elsewhere/win_rate_vs_sft"}]
)
def test_without_responses_there_is_no_section(record, change):
    assert examples_section(Tables.of(dataclasses.replace(record, **change))).body == ""
