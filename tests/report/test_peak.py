"""The peak of a search: a sheet of its own, and nothing else of a report moves."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from posweep.records import TrialResult
from posweep.report import write_report
from posweep.report.chapters.first.peak import peak
from posweep.report.tables import SPLIT_SEED, SPLITS, Tables, best
from posweep.robustness import cross_fitted_best

PROMPTS = 64


def searched(record, win=0.9, methods=("dpo", "simpo"), points=5, lost=()):
    """The record with adaptive trials of some methods that win with some probability; those by number in `lost` diverged."""
    rng, plan = np.random.default_rng(3), list(record.plan)
    results, responses, urls = dict(record.results), dict(record.responses), dict(record.run_urls)
    seeds = sorted({spec.seed for spec in plan})
    for method in methods:
        like = next(spec for spec in plan if spec.method == method)
        for number, seed in ((number, seed) for number in range(points) for seed in seeds):
            rate, name = 2e-4 + 1e-5 * number, f"{method}-searched-{number}"
            spec = dataclasses.replace(
                like, key=f"{name}-{seed}", response_key=f"r{name}-{seed}", score_key=f"s{name}-{seed}", seed=seed,
                configuration=name, train={**like.train, "learning_rate": rate}, prior="search", design="adaptive",
            )  # fmt: skip
            ids = (spec.key, spec.response_key, spec.score_key)
            plan.append(spec)
            urls[spec.key] = "http://127.0.0.1/searched"
            if number in lost:
                results[spec.key] = TrialResult(*ids, "diverged", seconds={"train": 1e6, "total": 1e6})
                continue
            rows = next(iter(record.responses.values()))
            responses[spec.key] = tuple(
                dataclasses.replace(row, wins={n: float(rng.random() < win) for n in row.wins}) for row in rows
            )
            measures = {"ood/win_rate_vs_sft": win, "ood/only_the_search_measured_this": 1.0}
            results[spec.key] = TrialResult(*ids, "finished", measures, seconds={"train": 1e6, "total": 1e6})
    return dataclasses.replace(record, plan=tuple(plan), results=results, responses=responses, run_urls=urls)


def sheet(record):
    return peak(Tables.of(record)).sheets[0]


def test_nothing_is_said_where_nothing_was_searched(record):
    found = peak(Tables.of(record))
    assert not found.sheets
    assert not found.words


def test_the_peak_is_cross_fitted_and_stands_beside_the_cross_fitted_best_of_the_grid(record):
    whole = searched(record)
    data = sheet(whole).data.set_index("method")
    assert list(data.index) == ["dpo", "simpo"]
    tables = Tables.of(record)
    assert data.loc["dpo", "grid_best"] == pytest.approx(best(tables, "dpo")[0], abs=1e-12)
    wins = np.array(
        [[r.wins["vs_sft"] for r in whole.responses[f"dpo-searched-{n}-0"] if r.set == "ood"] for n in range(5)]
    )
    expected = cross_fitted_best(wins, np.random.default_rng(SPLIT_SEED), splits=SPLITS).value
    assert data.loc["dpo", "peak"] == pytest.approx(expected, abs=1e-12)
    assert data.loc["dpo", "peak"] < wins.mean(axis=1).max()  # the plain maximum flatters
    assert data.loc["dpo", "difference"] == pytest.approx(data.loc["dpo", "peak"] - data.loc["dpo", "grid_best"])
    assert data.loc["dpo", "difference_low"] < data.loc["dpo", "difference"] < data.loc["dpo", "difference_high"]


def test_the_point_is_that_of_the_highest_mean(record):
    whole = searched(record)
    means = [
        np.mean([r.wins["vs_sft"] for r in whole.responses[f"dpo-searched-{n}-0"] if r.set == "ood"]) for n in range(5)
    ]
    rate = 2e-4 + 1e-5 * int(np.argmax(means))
    assert f"learning rate {rate * 1e4:.2g}e-4" in sheet(whole).data.loc[0, "peak_at"]


def test_numbers_and_cautions_are_told(record):
    found = peak(Tables.of(searched(record, lost=(1,))))
    data, (words,) = found.sheets[0].data, found.words
    assert data[["trials", "points", "diverged", "planned_points"]].to_numpy().tolist() == [[5, 5, 1, 12]] * 2
    assert words.startswith("A search tried 5 more points a method, where scores were high.")
    assert "By more than luck" in words
    assert "DPO (+0." in words
    caption = found.sheets[0].caption
    assert "no distribution" in caption
    assert "not comparable as maxima at unequal numbers" in caption


def test_a_peak_no_higher_than_the_grid_is_luck(record):
    assert "by no more than luck" in peak(Tables.of(searched(record, win=0.5))).words[0]


def test_without_rows_the_plain_maximum_has_no_interval(record):
    found = peak(Tables.of(dataclasses.replace(searched(record), responses={})))
    data = found.sheets[0].data
    assert data.loc[0, "peak"] == 0.9
    assert math.isnan(data.loc[0, "peak_low"])
    assert "plain maximum" in found.sheets[0].caption
    assert "cannot be told from luck" in found.words[0]


def test_a_search_without_a_score_has_no_peak(record):
    found = peak(Tables.of(searched(record, lost=range(5))))
    assert not found.sheets
    assert found.silences == ("No trial of the search has finished with a score, so it has no peak.",)


def test_seeds_are_drawn_where_there_are_several(made):
    found = sheet(searched(made.record(made.specs(("dpo",), (0, 1))), methods=("dpo",)))
    assert found.data.loc[0, "trials"] == 10
    assert found.data.loc[0, "points"] == 5
    assert "2 seeds" in found.caption


def test_the_tables_of_all_chapters_are_as_if_there_had_been_no_search(record):
    ours, theirs = Tables.of(searched(record)), Tables.of(record)
    assert ours.record == theirs.record
    assert (ours.adaptive, theirs.adaptive) == (10, 0)
    pd.testing.assert_frame_equal(ours.trials, theirs.trials)
    pd.testing.assert_frame_equal(ours.configurations, theirs.configurations)


@pytest.mark.torture
@pytest.mark.usefixtures("undrawn")
def test_all_else_in_a_report_is_as_if_there_had_been_no_search(made, tmp_path):
    """Every table and number but the peak's own; of the page, the chapter's sentence and the count."""
    record = made.with_opponents(made.record(made.specs(("dpo", "simpo"), configurations=4), prompts=12, diverged=(2,)))
    pages = [write_report(one, tmp_path / name) for name, one in (("with", searched(record)), ("without", record))]
    ours, theirs = ({f.relative_to(page.parent): f for f in page.parent.rglob("*.*") if f.is_file()} for page in pages)
    assert {str(file) for file in ours.keys() - theirs.keys()} == {"tables/search_peak.csv", "tables/search_peak.tex"}
    assert not theirs.keys() - ours.keys()
    moved = [str(file) for file, there in theirs.items() if there.read_bytes() != ours[file].read_bytes()]
    assert moved == ["report.html"]
    with_it, without = (page.read_text() for page in pages)
    new = set(with_it.splitlines()) - set(without.splitlines())
    assert "10 trials that a search placed where scores were high are left out, but for the peak it found." in with_it
    assert all("search" in line or "<t" in line for line in new), new
    assert "only_the_search_measured_this" not in with_it
    peaks = pd.read_csv(tmp_path / "with" / "tables" / "search_peak.csv")
    assert len(peaks) == 2
