"""The report of a made-up sweep: its numbers against the record, its page, its files, and sweeps with little in them."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest

from posweep.records import SweepRecord
from posweep.report import summary, write_report
from posweep.report.drawing.axes import number, spaced
from posweep.report.drawing.style import look
from posweep.report.tables import Tables, configurations, evaluation_sets, trials

ROW = ["trials", "finished", "diverged", "failed", "best", "median", "iqm", "p10", "share_beating_sft"]
WIN = "ood/win_rate_vs_sft"


class References(HTMLParser):
    """Everything the browser would load: src of any element, href of a link element, url() and @import of styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.found += [known[name] for name in ("src", "srcset", "data", "poster") if known.get(name)]
        self.found += [known["href"]] if tag in ("link", "base", "use", "image") else []

    def handle_data(self, data):
        self.found += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", data)


def summed(record: SweepRecord) -> dict:
    return summary(Tables.of(record))


def without(record: SweepRecord, *measures: str) -> SweepRecord:
    """The record without some measures, on every set and trial, and without responses."""
    results = {
        key: dataclasses.replace(
            result,
            measures={n: v for n, v in result.measures.items() if n.split("/")[1].removesuffix("_se") not in measures},
        )
        for key, result in record.results.items()
    }
    return dataclasses.replace(record, results=results, responses={})


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the numbers


def test_summary_has_exactly_the_documented_shape(record, made):
    found = summed(record)
    assert list(found) == ["sweep", "primary_metric", "evaluation", "failures", "methods"]
    assert (found["sweep"], found["evaluation"], found["failures"]) == ("demo", "ood", "dropped")
    assert list(found["methods"]) == made.methods
    assert all(list(row) == ROW for row in found["methods"].values())


def test_summary_counts_every_trial_of_the_plan(record):
    counts = {name: [row[key] for key in ROW[:4]] for name, row in summed(record)["methods"].items()}
    assert counts == {"dpo": [12, 11, 1, 0], "ln_dpo": [12, 11, 0, 1], "simpo": [12, 11, 0, 0]}


def test_summary_statistics_are_over_configurations_that_finished(record):
    mine = [spec.key for spec in record.plan if spec.method == "dpo"]
    wins = np.array([record.results[key].measures[WIN] for key in mine if record.results[key].status == "finished"])
    row = summed(record)["methods"]["dpo"]
    assert row["median"] == pytest.approx(np.median(wins))
    assert row["p10"] == pytest.approx(np.percentile(wins, 10))
    assert row["iqm"] == pytest.approx(np.sort(wins)[2:-2].mean())
    assert row["share_beating_sft"] == pytest.approx((wins > 0.5).mean())
    assert row["best"] <= wins.max()


def test_best_is_the_maximum_where_there_are_no_responses(record):
    silent = dataclasses.replace(record, responses={})
    wins = [result.measures[WIN] for key, result in record.results.items() if key.startswith("dpo") and result.measures]
    assert summed(silent)["methods"]["dpo"]["best"] == max(wins)


def test_share_beating_sft_is_null_for_a_metric_that_is_no_win_rate(record):
    other = dataclasses.replace(record, primary_metric="iid/kl_to_sft")
    assert {row["share_beating_sft"] for row in summed(other)["methods"].values()} == {None}


def test_a_configuration_is_the_mean_of_its_finished_seeds(made):
    record = made.record(made.specs(("dpo",), seeds=(0, 1, 2)), diverged=(1,))
    first = [spec.key for spec in record.plan[:3]]
    table = configurations(trials(record))
    assert len(table) == 12
    expected = np.mean([record.results[key].measures[WIN] for key in (first[0], first[2])])
    assert table[WIN][0] == pytest.approx(expected)
    assert table.loc[0, ["trials", "finished", "diverged"]].tolist() == [3, 2, 1]


def test_a_diverged_trial_leaves_no_score_in_its_configuration(record):
    table = configurations(trials(record))
    assert math.isnan(table[WIN][2])
    assert table["diverged"][2] == 1


def test_evaluation_sets_keep_their_names(record):
    assert evaluation_sets(record) == ["iid", "ood", "ood_counts"]


# --- the files


FIGURES = (
    "performance_histogram", "win_rate_vs_sft", "response_length", "kl_to_sft", "score_by_hyperparameter",
    "kl_against_win_rate", "tuning_curves", "performance_profiles", "robust_shares", "shares_beating_sft",
    "improvement_matrix", "variance_shares", "failure_policies", "hyperparameter_shares", "hyperparameter_pairs", "ice",
    "kl_frontier", "length_against_win", "length_controlled", "head_to_head_matrix", "tunability",
)  # fmt: skip
"""In the paper's order, then in that of a reviewer's questions."""
SHEETS = (
    "budget", "shares", "improvement", "ranking", "variance_components", "failures_by_method", "fairness", "at_tuned_rate",
    "sensitivity", "cliffs", "frontier", "length_control", "length_coefficients", "best_of_n",
    "best_of_n_against_methods", "head_to_head", "recommended",
)  # fmt: skip


def test_everything_is_written_and_the_same_twice(made, record, page, tmp_path):
    before = dict(mpl.rcParams)
    path = write_report(made.with_opponents(record), tmp_path)
    files = files_of(tmp_path)
    assert {name for name in files if name.startswith("figures/")} == {
        f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    }
    assert {name for name in files if name.endswith(".tex")} == {f"tables/{name}.tex" for name in SHEETS}
    tables = (*FIGURES, *SHEETS, "trials", "configurations", "judge_agreement")
    assert {name for name in files if name.endswith(".csv")} == {f"tables/{name}.csv" for name in tables}
    assert {name for name in files if "/" not in name} == {"report.html", "summary.json"}
    assert files == files_of(page.parent)
    assert path == tmp_path / "report.html"
    assert dict(mpl.rcParams) == before


def test_chapters_stand_in_the_order_of_their_questions(told):
    assert [chapter.name for chapter in told] == ["grid", "budget", "certainty", "hyperparameters", "cost", "first"]
    assert tuple(drawing.name for chapter in told for drawing in chapter.drawings) == FIGURES
    assert tuple(sheet.name for chapter in told for sheet in chapter.sheets) == SHEETS
    assert not set(FIGURES) & set(SHEETS), "their CSV files would have one name"


def test_summary_json_is_the_summary(record, page):
    text = page.with_name("summary.json").read_text(encoding="utf-8")
    assert json.loads(text) == summed(record)
    assert "NaN" not in text


# --- the page


@pytest.fixture(scope="module")
def document(page) -> str:
    return page.read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_outside(document):
    references = References()
    references.feed(document)
    assert len(references.found) == len(FIGURES)
    assert all(re.match(r"data:image/(svg\+xml|webp);base64,", found) for found in references.found)
    assert "Content-Security-Policy" in document


def test_the_page_says_what_a_reader_must_know(document):
    for words in (
        "33 finished, 1 diverged, 1 failed, 1 missing",
        "2 recorded trials are not in this plan",
        "the order of methods here is no evidence about methods",
        "A/A: SFT against fresh SFT",
        "given these seeds and this SFT checkpoint",
        "cross-fitted",
        "longer wins accuracy",
        "overhead (everything but train, generate, kl, judge, measure)",
        "LN-DPO",
        "How far the judges agree",
        "prompts lose their beginning, responses their end",
    ):
        assert words in document


def test_what_was_recorded_is_escaped(document):
    assert "worker &lt;lost&gt; &amp; gone" in document
    assert "demo &lt;seed 0&gt;" in document
    assert "<lost>" not in document


def test_trials_link_to_their_runs_and_to_nothing_unsafe(undrawn, record, document, tmp_path):
    assert '<a href="http://127.0.0.1:5000/#/runs/3">' in document
    urls = {record.plan[0].key: "javascript:alert(1)"}
    text = write_report(dataclasses.replace(record, run_urls=urls), tmp_path).read_text(encoding="utf-8")
    assert "javascript:" not in text


# --- sweeps with little in them

THIN = {
    "one trial": lambda made, few: made.record(few[:1]),
    "one method": lambda made, few: made.record(made.specs(("ln_dpo",))),
    "all diverged": lambda made, few: made.record(few, diverged=range(4)),
    "nothing finished": lambda made, few: made.record(few, missing=range(4)),
    "nothing at all": lambda made, few: SweepRecord("empty", WIN, few, {}),
    "no plan": lambda made, few: SweepRecord("empty", WIN, (), {}),
    "one prompt": lambda made, few: made.record(few, prompts=1),
    "no win-rate": lambda made, few: without(made.record(few), "win_rate_vs_sft"),
    "no KL": lambda made, few: without(made.record(few), "kl_to_sft"),
    "nothing measured": lambda made, few: without(made.record(few), "win_rate_vs_sft", "kl_to_sft", "response_length"),
    "no baseline": lambda made, few: dataclasses.replace(made.record(few), baseline={}, facts={}, run_urls={}),
    "no responses": lambda made, few: dataclasses.replace(made.record(few), responses={}),
    "an unknown method": lambda made, few: renamed(made.record(few), "orpo"),
    "another metric": lambda made, few: dataclasses.replace(made.record(few), primary_metric="iid/response_length"),
}


def renamed(record: SweepRecord, method: str) -> SweepRecord:
    """The record as if every trial were of one other method."""
    return dataclasses.replace(record, plan=tuple(dataclasses.replace(spec, method=method) for spec in record.plan))


@pytest.mark.parametrize("name", THIN)
@pytest.mark.filterwarnings("error")
def test_thin_sweeps_are_reported(undrawn, name, made, tmp_path):
    path = write_report(THIN[name](made, made.specs(("dpo", "simpo"), configurations=2)), tmp_path)
    json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")


def test_measures_missing_in_some_trials_leave_the_others(undrawn, record, tmp_path):
    key = record.plan[0].key
    results = {**record.results, key: dataclasses.replace(record.results[key], measures={"ood/kl_to_sft": math.inf})}
    holed = dataclasses.replace(record, results=results)
    write_report(holed, tmp_path)
    assert summed(holed)["methods"]["dpo"]["median"] is not None


def test_values_that_are_words_and_many_points_are_drawn(undrawn, made, tmp_path):
    plan = made.specs(("dpo",), seeds=(0, 1)) + made.specs(("ln_dpo",), seeds=(0, 1, 2))
    schedules = ("linear", "cosine")
    plan = tuple(
        dataclasses.replace(
            spec, configuration=spec.key, varied=("schedule",), train={**spec.train, "schedule": schedules[place % 2]}
        )
        for place, spec in enumerate(plan)
    )
    write_report(made.record(plan, prompts=8), tmp_path)
    assert "score_by_hyperparameter" in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- small things


def test_numbers_are_written_short():
    values = (0.0001, 3e-4, 1e-3, 0.05, 2.0, 12, "linear", True)
    assert [number(value) for value in values] == ["1e-4", "3e-4", "1e-3", "0.05", "2", "12", "linear", "True"]


def test_ticks_keep_their_distance_and_the_ends():
    assert spaced([0.0, 0.1, 0.2, 0.5, 1.0], np.asarray, 1.0, share=0.3) == [0.0, 0.5, 1.0]


def test_methods_look_different_and_always_the_same():
    looks = [look(name) for name in ("dpo", "ln_dpo", "simpo", "orpo", "ipo")]
    assert len({(one.colour, one.marker) for one in looks}) == 5
    assert look("dpo") == looks[0]
