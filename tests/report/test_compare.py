"""Several sweeps on one page: what they have in common, what is carried over, what the page says and does not say."""

import dataclasses
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from posweep.errors import ConfigError
from posweep.records import Response, SweepRecord, TrialResult, TrialSpec
from posweep.report import read_table
from posweep.report.chapters.tasks import chapters_of
from posweep.report.compare import write_comparison
from posweep.report.comparison import Comparison
from posweep.report.tables import Tables
from posweep.report.tasks import ANY, method_table, order_table, share_table, transfer_table

from ..tiny import posweep

WIN = "ood/win_rate_vs_sft"
BETAS, RATES = (0.03, 0.1, 0.3), (1e-4, 3e-4, 1e-3)


def task(name, truth, seeds=(0,), prompts=64, methods=("dpo", "ln_dpo"), diverged=(), metric=WIN, texts="p", **train):
    """A sweep whose trials score as `truth(method, beta, rate)` says; prompts are called `<texts><number>`."""
    plan, results, rows = [], {}, {}
    for number, (method, beta, rate, seed) in enumerate(itertools.product(methods, BETAS, RATES, seeds)):
        key, configuration = f"{name}-{number}", f"{name}-{method}-{beta}-{rate}"
        settings = {"learning_rate": rate, "epochs": 1.0, **train}
        varied = tuple(n for n in train if n != "epochs")
        plan.append(
            TrialSpec(key, key, key, configuration, method, {"beta": beta, "gamma": 0.0}, settings, seed, varied)
        )
        if configuration in diverged:
            results[key] = TrialResult(key, key, key, "diverged")
            continue
        rng = np.random.default_rng(number + 1000 * len(name))
        wins = np.clip(truth(method, beta, rate) + 0.1 * rng.standard_normal(prompts), 0, 1)
        place = metric.partition("/")[0]
        rows[key] = tuple(
            Response(place, i, f"{texts}{i}", "t", 5, False, 0.1, 5, {}, {"vs_sft": float(win)})
            for i, win in enumerate(wins)
        )
        results[key] = TrialResult(key, key, key, "finished", {metric: float(wins.mean())})
    return SweepRecord(name, metric, tuple(plan), results, rows, facts={"model": f"model of {name}"})


def low_rates(method, beta, rate):
    """The lowest learning rate is best, whatever β."""
    return {1e-4: 0.7, 3e-4: 0.55, 1e-3: 0.3}[rate] + 0.01 * np.log10(beta)


def high_rates(method, beta, rate):
    """The highest is."""
    return {1e-4: 0.4, 3e-4: 0.55, 1e-3: 0.7}[rate] + 0.01 * np.log10(beta)


def high_betas(method, beta, rate):
    """β alone matters."""
    return {0.03: 0.4, 0.1: 0.55, 0.3: 0.7}[beta] + 0.01 * np.log10(rate / 3e-4)


def compared(*records) -> Comparison:
    return Comparison(tuple(map(Tables.of, records)))


@pytest.fixture(scope="module")
def opposed() -> SimpleNamespace:
    """Two tasks on which opposite learning rates are best, with everything said of them."""
    comparison = compared(task("a", low_rates), task("b", high_rates, texts="q"))
    return SimpleNamespace(
        comparison=comparison, chapters={chapter.name: chapter for chapter in chapters_of(comparison)}
    )


# --- what sweeps have in common


def test_configurations_are_matched_by_method_and_point():
    first = task("a", low_rates, methods=("dpo", "simpo"))
    second = task("b", low_rates, methods=("ln_dpo", "dpo"))
    second = dataclasses.replace(second, plan=tuple(reversed(second.plan)))
    (common,) = compared(first, second).shared(0, 1)
    assert (common.method, len(common.points)) == ("dpo", 9)
    tables = Tables.of(first), Tables.of(second)
    assert common.one == pytest.approx(tables[0].scores("dpo"))
    assert common.other == pytest.approx(tables[1].scores("dpo")[::-1])


def test_a_setting_that_one_sweep_varies_counts_in_the_other_too():
    """The second sweep runs two numbers of epochs; only those trials match that have the first's."""
    first, long = task("a", low_rates, methods=("dpo",)), task("long", low_rates, methods=("dpo",), epochs=3.0)
    short = task("b", high_rates, methods=("dpo",))
    plan = tuple(dataclasses.replace(spec, varied=("epochs",)) for spec in (*long.plan, *short.plan))
    both = dataclasses.replace(
        short, plan=plan, results={**long.results, **short.results}, responses={**long.responses, **short.responses}
    )
    (common,) = compared(first, both).shared(0, 1)
    assert len(common.points) == 9
    assert common.other == pytest.approx(Tables.of(both).scores("dpo")[9:])


@pytest.mark.parametrize(("texts", "same"), [("p", True), ("q", False)])
def test_prompts_are_the_same_where_their_texts_are(texts, same):
    assert compared(task("a", low_rates), task("b", low_rates, texts=texts)).tasks(0, 1).same_prompts == same


def test_a_table_and_a_sweep_are_compared_by_what_both_say():
    """A table of somebody's own has no γ; the sweep's γ of 0 is then a value that the table lacks."""
    rows = [(b, r, 0.5 + b) for b, r in itertools.product(BETAS, RATES)]
    frame = pd.DataFrame(rows, columns=["beta", "learning_rate", "reward"]).assign(method="DPO")
    plain, with_gamma = read_table(frame, "reward"), read_table(frame.assign(gamma=0.0), "reward", "mine")
    sweep = task("a", low_rates, methods=("dpo",))
    assert compared(plain, sweep).shared(0, 1) == []
    assert len(compared(with_gamma, sweep).shared(0, 1)[0].points) == 9


# --- numbers


def test_the_best_of_one_task_loses_on_the_opposite_one(opposed):
    table = transfer_table(opposed.comparison)
    row = table[(table["one"] == "a") & (table["method"] == "dpo")].iloc[0]
    assert "learning rate 1e-4" in row["point"]
    assert (row["transferred"], row["best"], row["typical"]) == pytest.approx((0.39, 0.69, 0.54), abs=0.03)
    assert row["regret"] == pytest.approx(row["best"] - row["transferred"])
    assert row["regret_low"] > 0.2
    assert row["regret_p"] < 0.001
    assert opposed.comparison.over.startswith("a: 64 prompts, given this seed and this SFT checkpoint; b: 64 prompts")


def test_every_direction_has_its_methods_and_all_of_them_together(opposed):
    table = transfer_table(opposed.comparison)
    assert table[["one", "other", "method"]].to_numpy().tolist() == [
        [one, other, method] for one, other in (("a", "b"), ("b", "a")) for method in ("dpo", "ln_dpo", ANY)
    ]
    assert table["configurations"].tolist() == [9, 9, 18] * 2


def test_the_order_is_kept_or_turned():
    kept = order_table(compared(task("a", low_rates), task("b", low_rates, texts="q")))
    turned = order_table(compared(task("a", low_rates), task("b", high_rates, texts="q")))
    assert (kept["rho"] > 0.8).all()
    assert (turned["rho"] < -0.7).all()


def test_what_matters_on_one_task_need_not_on_another():
    table, refused = share_table(compared(task("a", low_rates), task("b", high_betas, texts="q")))
    rows = table[table["method"] == "dpo"].set_index("hyperparameter")
    assert (rows.loc["learning_rate", "share_one"], rows.loc["beta", "share_other"]) == pytest.approx((1, 1), abs=0.05)
    assert (rows["p"] < 0.001).all()
    assert (rows.loc["learning_rate", "best_one"], rows.loc["beta", "best_other"]) == (1e-4, 0.3)
    assert refused == []


def test_methods_have_their_numbers_on_every_task(opposed):
    table, _ = method_table(opposed.comparison)
    assert table[["sweep", "method", "configurations"]].to_numpy().tolist() == [
        [sweep, method, 9] for sweep in "ab" for method in ("dpo", "ln_dpo")
    ]
    scores = np.sort(Tables.of(task("a", low_rates)).scores("dpo").mean(axis=(1, 2)))
    row = table.iloc[0]
    assert (row["median"], row["p10"]) == pytest.approx((np.median(scores), np.percentile(scores, 10)))
    assert row["iqm"] == pytest.approx(scores[2:-2].mean())


# --- words


def test_what_is_lost_is_said_where_it_is_significant(opposed):
    chapter = opposed.chapters["transfer"]
    (said,) = (words for words in chapter.words if words.startswith("Carried from a to b") and "loses" in words)
    assert re.search(r"DPO 0\.28\d \[0\.2\d+, 0\.3\d+\], LN-DPO 0\.28\d", said)
    assert chapter.finding.startswith(
        "Carried over, the best configuration of any method loses against tuning there: from a to b"
    )


def test_nothing_is_claimed_of_tasks_that_agree():
    chapters = {c.name: c for c in chapters_of(compared(task("a", low_rates), task("b", low_rates, texts="q")))}
    assert not [words for words in chapters["transfer"].words if "loses" in words]
    assert chapters["transfer"].finding == ""
    assert chapters["sensitivity"].words == ()
    assert chapters["methods"].finding == ""


def test_trials_of_both_sweeps_are_named():
    one = task("a", low_rates)
    chapters = {c.name: c for c in chapters_of(compared(one, dataclasses.replace(one, name="b")))}
    assert any("18 trials belong to both a and b" in silence for silence in chapters["order"].silences)


def test_a_first_choice_that_diverges_elsewhere_is_named():
    lost = [f"b-dpo-{beta}-0.0001" for beta in BETAS]
    chapters = {
        c.name: c for c in chapters_of(compared(task("a", low_rates), task("b", low_rates, diverged=lost, texts="q")))
    }
    assert any(s.startswith("DPO: what a would rather choose (β") for s in chapters["transfer"].silences)


def test_sweeps_about_different_metrics_carry_a_caution():
    chapters = chapters_of(compared(task("a", low_rates), task("b", low_rates, metric="iid/win_rate_vs_sft")))
    assert next(chapters).words[0].startswith("Each sweep is read by its own primary metric")


# --- what is little


def nothing_finished(name):
    return dataclasses.replace(task(name, low_rates), results={}, responses={})


THREE = (low_rates, high_rates, high_betas)
LITTLE = {
    "nothing in common": lambda: (task("a", low_rates, methods=("dpo",)), task("b", low_rates, methods=("kto",))),
    "nothing finished": lambda: (nothing_finished("a"), nothing_finished("b")),
    "one without results": lambda: (task("a", low_rates), nothing_finished("b")),
    "all diverged on one": lambda: (
        task("a", low_rates),
        task("b", low_rates, diverged=[f"b-{m}-{b}-{r}" for m in ("dpo", "ln_dpo") for b in BETAS for r in RATES]),
    ),
    "one prompt, one seed": lambda: (task("a", low_rates, prompts=1), task("b", low_rates, prompts=1)),
    "one prompt, some seeds": lambda: (task("a", low_rates, (0, 1), 1), task("b", low_rates, (0, 1, 2), 1)),
    "one configuration": lambda: tuple(
        dataclasses.replace(r, plan=r.plan[:1], results=dict(list(r.results.items())[:1]))
        for r in (task("a", low_rates), task("b", low_rates))
    ),
    "level": lambda: (task("a", lambda *_: 1.5), task("b", lambda *_: 1.5)),
    "three": lambda: tuple(task(name, truth, methods=("dpo",)) for name, truth in zip("abc", THREE, strict=True)),
    "no plan": lambda: (
        task("a", low_rates),
        dataclasses.replace(task("b", low_rates), plan=(), results={}, responses={}),
    ),
}


@pytest.fixture
def unsaved(monkeypatch) -> None:
    """Figures are drawn but not saved, which takes longest."""
    monkeypatch.setattr("posweep.report.write._write_figure", lambda *_: b"<svg/>")


@pytest.mark.parametrize("name", LITTLE)
def test_little_is_said_of_little_and_nothing_breaks(name, tmp_path, unsaved):
    page = write_comparison(LITTLE[name](), tmp_path).read_text(encoding="utf-8")
    text = re.sub(r'src="data:[^"]*"|<style>.*?</style>|<script>.*?</script>', "", page, flags=re.S)
    assert not re.search(r"\b(?:nan|inf|None)\b", re.sub("<[^>]+>", " ", text))
    if name in ("nothing in common", "no plan"):
        assert "No configuration was tried in two of the sweeps" in text
    if name == "one prompt, one seed":
        assert "one seed and no scores by prompt leave nothing to split" in text


# --- files and the page


def test_everything_is_written_and_the_same_twice(tmp_path):
    records = task("a", low_rates), task("b", high_rates)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_comparison(records, folder)
    found = [{str(p.relative_to(f)): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()} for f in folders]
    assert found[0] == found[1]
    names = ("tasks_methods", "tasks_scores", "tasks_transfer", "tasks_sensitivity")
    assert {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")} <= set(found[0])
    assert {f"tables/{name}.csv" for name in (*names, "tasks_order")} <= set(found[0])
    summary = json.loads(found[0]["summary.json"])
    assert list(summary["sweeps"]) == ["a", "b"]
    assert summary["sweeps"]["a"]["methods"]["dpo"]["finished"] == 9


def test_the_page_links_to_each_sweep_and_tells_what_each_is(tmp_path, unsaved):
    records = task("a", low_rates), dataclasses.replace(task("b", high_rates), name="<b>")
    page = write_comparison(records, tmp_path, {"a": "../../a/report/report.html"}).read_text(encoding="utf-8")
    assert '<a href="../../a/report/report.html">a</a>' in page
    assert "model of a" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    for heading in (
        "How good is each method",
        "Do the same configurations",
        "worth on another?",
        "Does the same hyperparameter",
    ):
        assert heading in page


@pytest.mark.parametrize("names", [["a"], ["a", "a"], []])
def test_a_comparison_needs_two_sweeps_of_different_names(names, tmp_path):
    with pytest.raises(ConfigError, match="a comparison needs two sweeps or more, each of another name"):
        write_comparison([task(name, low_rates) for name in names], tmp_path)


# --- the command


class Shelf:
    """A tracker that holds some records."""

    def __init__(self, *records):
        self.records = {record.name: record for record in records}
        self.attached = []

    def preflight(self):
        return []

    def read(self, name):
        return self.records.get(name)

    def attach(self, folder):
        self.attached.append(folder.parent.name)


@pytest.fixture
def shelf(monkeypatch, tmp_path) -> Shelf:
    """A working folder and what is recorded of the sweeps smoke and demo."""
    held = Shelf(task("smoke", low_rates), task("demo", high_rates))
    monkeypatch.setattr("posweep.publish.open_tracker", lambda _: held)
    monkeypatch.setattr("posweep.report.compare.chapters_of", lambda _: [])
    monkeypatch.chdir(tmp_path)
    return held


def test_the_command_writes_every_page_and_links_them(shelf, tmp_path):
    ran = posweep("report", "sweep=[smoke,demo]")
    assert (ran.code, ran.err) == (0, "")
    page = tmp_path / "outputs" / "smoke+demo" / "report" / "report.html"
    links = re.findall(r'href="([^"#]+)"', page.read_text(encoding="utf-8"))
    assert links == ["../../smoke/report/report.html", "../../demo/report/report.html"]
    assert all((page.parent / link).is_file() for link in links)
    assert shelf.attached == ["smoke", "demo"]
    assert re.search(r"method +smoke +demo", ran.out)
    assert "smoke+demo/report/report.html" in ran.out


def test_a_list_of_one_is_that_sweep(shelf, tmp_path):
    assert posweep("report", "sweep=[smoke]").code == 0
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["smoke"]


def test_settings_hold_for_every_sweep(shelf, tmp_path):
    assert posweep("report", "sweep=[smoke, demo]", "output_dir=elsewhere").code == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["demo", "smoke", "smoke+demo"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "report sweep=[smoke,paper,cube]",
            ["sweep=paper: nothing is recorded at ", "sweep=cube: nothing is recorded at "],
        ),
        ("report sweep=[nope,smoke,nada]", ["sweep=nope: no such sweep; ", "sweep=nada: no such sweep; "]),
        ("report sweep=[]", ["sweep: none named; add sweep=NAME, one of "]),
        ("report sweep=[smoke,smoke]", ["sweep=[smoke,smoke]: two sweeps cannot both be called smoke; "]),
        ("report sweep=[smoke,demo] train.epochs=-1", ["train.epochs: "]),
        ("plan sweep=[smoke,demo]", ["sweep=[smoke,demo]: takes one sweep, one of "]),
        ("sweep=[smoke,demo]", ["sweep=[smoke,demo]: takes one sweep, one of "]),
    ],
)
def test_mistakes_are_all_said_and_nothing_is_written(arguments, said, shelf, tmp_path):
    ran = posweep(*arguments.split(" "))
    assert ran.code == 2
    assert [line[: len(start)] for line, start in zip(ran.said, said, strict=True)] == said
    assert not (tmp_path / "outputs").exists()


def test_where_no_draw_differs_there_is_no_interval():
    """Every response of every configuration wins alike: nothing says how wide an interval should be."""
    table = transfer_table(compared(task("a", lambda *_: 1.5), task("b", lambda *_: 1.5)))
    assert (table["regret"] == 0).all()
    assert table[["regret_low", "regret_high", "regret_p", "transferred_low"]].isna().all(axis=None)
