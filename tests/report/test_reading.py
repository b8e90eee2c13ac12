"""One's own table: what its columns are taken for, exports of trackers, every mistake at once, the same report."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from posweep.errors import DataError
from posweep.report import Tables, read_table, summary
from posweep.report.reading.table import known_method
from posweep.report.tables import configurations, trials

from ..tiny import posweep

WIN = "ood/win_rate_vs_sft"


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two methods, one of them with γ, two seeds; one trial diverged."""
    points = [("DPO", 0.1, None), ("DPO", 0.3, None), ("SimPO", 2.0, 0.5), ("SimPO", 2.0, 1.0)]
    rows = [(*point, 1e-4, seed) for point in points for seed in (0, 1)]
    made = pd.DataFrame(rows, columns=["method", "beta", "gamma", "learning_rate", "seed"])
    made["status"] = ["finished"] * 7 + ["diverged"]
    made[WIN] = [0.5, 0.52, 0.6, 0.62, 0.55, 0.56, 0.58, np.nan]
    made[f"{WIN}_se"] = 0.01
    made["kl_to_sft"] = [*np.linspace(1, 2.5, 7), np.nan]
    return made


def problems(table, **options) -> list[str]:
    with pytest.raises(DataError) as error:
        read_table(table, **options)
    return list(error.value.problems)


def same(one, other) -> bool:
    """Records but for where they were read from."""
    plain = [dataclasses.replace(record, facts={}, name="") for record in (one, other)]
    return plain[0] == plain[1]


# --- what a table says


def test_a_table_becomes_the_plan_and_its_results(frame):
    record = read_table(frame, name="mine")
    assert (record.name, record.primary_metric, len(record.plan)) == ("mine", WIN, 8)
    first, last = record.plan[0], record.plan[-1]
    assert (first.method, first.hyperparameters, first.train, first.seed) == (
        "dpo",
        {"beta": 0.1},
        {"learning_rate": 1e-4},
        0,
    )
    assert last.point == {"beta": 2.0, "gamma": 1.0, "learning_rate": 1e-4}
    assert record.results[first.key].measures == {WIN: 0.5, f"{WIN}_se": 0.01, "evaluation/kl_to_sft": 1.0}
    assert (record.results[last.key].status, record.results[last.key].measures) == ("diverged", {})


def test_seeds_of_one_point_are_one_configuration(frame):
    tables = Tables.of(read_table(frame))
    assert tables.scores("simpo").shape == (2, 2, 1)
    assert tables.scores("dpo")[:, :, 0].tolist() == [[0.5, 0.52], [0.6, 0.62]]
    assert summary(tables)["methods"]["dpo"]["median"] == pytest.approx(0.56)


def test_a_table_that_a_report_wrote_is_read_back(record):
    """tables/trials.csv holds all of a sweep but the responses."""
    written = trials(record)
    again = trials(read_table(written, metric=record.primary_metric))
    kept = written.columns.drop("configuration")  # a hash of the point, which the plan makes of more than the point
    pd.testing.assert_frame_equal(again[kept], written[kept], check_dtype=False)
    pd.testing.assert_frame_equal(
        configurations(again)[WIN].to_frame(), configurations(written)[WIN].to_frame(), check_dtype=False
    )


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tsv", "jsonl", "json", "parquet", "with an index", "excel"])
def test_every_kind_of_file_holds_the_same_record(frame, tmp_path, kind):
    ending = {"semicolons": "csv", "with an index": "csv", "excel": "csv"}.get(kind, kind)
    path = tmp_path / f"results.{ending}"
    {
        "csv": lambda: frame.to_csv(path, index=False),
        "semicolons": lambda: frame.to_csv(path, index=False, sep=";"),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "json": lambda: frame.to_json(path, orient="records"),
        "parquet": lambda: frame.to_parquet(path),
        "with an index": lambda: frame.to_csv(path),
        "excel": lambda: path.write_bytes(frame.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig")),
    }[kind]()
    assert same(read_table(path), read_table(frame))
    assert read_table(path).name == "results"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("DPO", "dpo"),
        ("LN-DPO", "ln_dpo"),
        ("ln-dpo", "ln_dpo"),
        ("SimPO", "simpo"),
        ("χPO", "chi_po"),
        ("APO zero", "apo_zero"),
        ("my loss", "my loss"),
        (" DPO v2 ", "DPO v2"),
    ],
)
def test_a_known_method_is_known_however_it_is_written(written, name):
    assert known_method(written) == name


def test_constant_columns_are_facts_unless_they_are_hyperparameters(frame):
    record = read_table(frame.assign(model="Qwen", epochs=1, gpus=8))
    assert {name: record.facts[name] for name in ("model", "gpus")} == {"model": "Qwen", "gpus": 8}
    assert record.plan[0].train["epochs"] == 1


def test_a_text_that_names_the_run_is_no_hyperparameter(frame):
    record = read_table(frame.assign(label=[f"run {n}" for n in range(8)]))
    assert record.facts["columns not used"] == "label"
    assert len({spec.configuration for spec in record.plan}) == 4


def test_what_the_user_names_counts(frame):
    noisy = frame.assign(reward=np.arange(8.0), train_loss=np.linspace(1, 2, 8), template=[f"t{n}" for n in range(8)])
    record = read_table(noisy, metric=["reward", "train_loss"], hyperparameters=["beta", "gamma"])
    assert record.primary_metric == "evaluation/reward"
    assert set(record.plan[-1].point) == {"beta", "gamma"}
    assert record.results[record.plan[1].key].measures["evaluation/train_loss"] == pytest.approx(1 + 1 / 7)
    assert record.facts["columns not used"] == "learning_rate, template"
    assert (
        read_table(noisy, metric="kl_to_sft", hyperparameters=["beta", "gamma"]).primary_metric
        == "evaluation/kl_to_sft"
    )


@pytest.mark.parametrize(
    ("metrics", "primary", "why"),
    [
        (["iid/mean_score", WIN], WIN, "the only win-rate"),
        (["iid/win_rate_vs_sft", WIN], "iid/win_rate_vs_sft", "the first win-rate of the table"),
        (["kl_to_sft", "a/mean_score"], "evaluation/kl_to_sft", "the first metric of the table"),
    ],
)
def test_a_primary_metric_that_nobody_named_is_said(metrics, primary, why):
    table = pd.DataFrame({"method": ["a", "b"], **{name: [0.4, 0.6] for name in metrics}})
    record = read_table(table)
    assert (record.primary_metric, record.facts["primary metric"]) == (primary, f"{primary}, {why}")


# --- exports of trackers


def wandb_export(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as W&B's page downloads it: its own columns first, settings and outcomes under their names."""
    own = {
        "Name": [f"sunny-{n}" for n in range(8)],
        "State": ["finished"] * 7 + ["crashed"],
        "Notes": "-",
        "User": "me",
        "Tags": "",
        "Created": [f"2026-01-0{n + 1}T00:00:00.000Z" for n in range(8)],
        "Runtime": [100 + n for n in range(8)],
        "Sweep": "abc",
    }
    rest = {"_step": range(8), "_timestamp": np.arange(8) + 1.5e9, "ID": [f"id{n}" for n in range(8)]}
    return pd.DataFrame(own).join(frame.drop(columns="status")).assign(**rest)


def test_the_table_that_the_page_of_wandb_downloads(frame, tmp_path):
    wandb_export(frame).to_csv(tmp_path / "wandb.csv", index=False)
    record = read_table(tmp_path / "wandb.csv")
    assert [spec.key for spec in record.plan] == [f"id{n}" for n in range(8)]
    assert (record.results["id7"].status, record.results["id0"].seconds) == ("failed", {"total": 100.0})
    assert record.plan[0].point == {"beta": 0.1, "learning_rate": 1e-4}
    assert len({spec.configuration for spec in record.plan}) == 4


@pytest.mark.parametrize("saved", [False, True], ids=["as a frame", "as CSV"])
def test_the_frame_that_the_api_of_wandb_gives(frame, tmp_path, saved):
    settings, outcomes = ["method", "beta", "gamma", "learning_rate", "seed"], [WIN, f"{WIN}_se", "kl_to_sft"]
    rows = frame[:7].astype(object).where(frame[:7].notna(), None).to_dict("records")
    table = pd.DataFrame(
        {
            "summary": [
                {**{n: r[n] for n in outcomes}, "_step": 3, "note": "x", "_wandb": {"runtime": 7}} for r in rows
            ],
            "config": [{n: r[n] for n in settings} for r in rows],
            "name": [f"run {n}" for n in range(7)],
        }
    )
    if saved:
        table.to_csv(tmp_path / "project.csv")
    record = read_table(tmp_path / "project.csv" if saved else table)
    expected = read_table(frame[:7])
    assert [(s.method, s.point, s.seed) for s in record.plan] == [(s.method, s.point, s.seed) for s in expected.plan]
    assert [r.measures for r in record.results.values()] == [r.measures for r in expected.results.values()]
    assert record.results[record.plan[0].key].seconds == {"total": 7.0}


def test_the_frame_that_mlflow_searches(frame):
    renamed = {name: f"params.{name}" for name in ("method", "beta", "gamma", "learning_rate", "seed")}
    renamed |= {name: f"metrics.{name}" for name in (WIN, f"{WIN}_se", "kl_to_sft")}
    own = {
        "run_id": [f"r{n}" for n in range(8)],
        "status": ["FINISHED"] * 6 + ["KILLED", "RUNNING"],
        "start_time": pd.Timestamp(0),
    }
    table = frame.drop(columns="status").rename(columns=renamed).assign(**own, **{"tags.mlflow.user": "me"})
    table["params.beta"] = table["params.beta"].astype(str)
    table["params.seed"] = table["params.seed"].astype(str)
    record = read_table(table)
    assert record.plan[2].point == {"beta": 0.3, "learning_rate": 1e-4}
    assert (record.results["r6"].status, "r7" in record.results) == ("failed", False)


def test_the_frame_of_ray_tune_holds_its_settings_under_config(frame):
    renamed = {name: f"config/{name}" for name in ("method", "beta", "gamma", "learning_rate", "seed")}
    own = {
        "trial_id": [f"t{n}" for n in range(7)],
        "time_total_s": 3.5,
        "training_iteration": 1,
        "loss": np.arange(7.0),
    }
    record = read_table(frame[:7].drop(columns="status").rename(columns=renamed).assign(**own))
    assert record.plan[0].point == {"beta": 0.1, "learning_rate": 1e-4}
    assert record.facts["columns not used"] == "training_iteration, loss"
    assert record.results["t0"].seconds == {"total": 3.5}


# --- mistakes


CSV = "method,beta,seed,status,ood/win_rate_vs_sft,ood/kl_to_sft\n"
MISTAKES = {
    "no method": (
        "beta,ood/kl_to_sft\n1,2\n",
        ["{}: has no column 'method'; rename the one that says it (beta, ood/kl_to_sft)."],
    ),
    "no metric": (
        "method,beta\ndpo,1\n",
        [
            "{}: has no metric; a column of one is called <set>/<measure>, such as ood/win_rate_vs_sft, or named with "
            "metric=COLUMN."
        ],
    ),
    "nothing": ("", ["{}: holds no rows; it needs one per trial."]),
    "no rows": (CSV, ["{}: holds no rows; it needs one per trial."]),
    "a short row": (CSV + "dpo,1,0\n", ["{}:2: has 3 cells where the heading has 6."]),
    "two columns of one name": ("method,a/x,a/x\nd,1,2\n", ["{}:1: two columns are called 'a/x'; rename one."]),
    "an open quote": (CSV + '"dpo,1\n', ["{}:2: is no row that can be read (unexpected end of data)."]),
    "an unknown status": (
        CSV + "dpo,1,0,exploded,,\n",
        ["{}:2: status must be finished, diverged or failed, got 'exploded'."],
    ),
    "a status that is missing": (CSV + "dpo,1,0,,0.5,\n", ["{}:2: status is empty."]),
    "words for numbers": (
        CSV + "".join(f"dpo,{n},0,finished,high,\n" for n in range(9)),
        ["{}:2: ood/win_rate_vs_sft must be a number, got 'high' (also lines 3, 4, 5 and 5 more)."],
    ),
    "percentages": (
        CSV + "dpo,1,0,finished,62,\n",
        ["{}:2: ood/win_rate_vs_sft is a win-rate and must lie between 0 and 1, got 62."],
    ),
    "an infinite metric": (
        CSV + "dpo,1,0,finished,0.5,inf\n",
        [
            "{}:2: ood/kl_to_sft must be a finite number, got inf; leave the cell empty, or give the trial the status "
            "diverged."
        ],
    ),
    "a primary metric that is NaN": (
        CSV + "dpo,1,0,finished,nan,1\n",
        ["{}:2: ood/win_rate_vs_sft is empty; a trial that came to nothing needs a status, diverged or failed."],
    ),
    "an infinite hyperparameter": (
        CSV + "dpo,inf,0,finished,0.5,1\n",
        ["{}:2: beta must be a finite number, got inf."],
    ),
    "an empty method": (CSV + ",1,0,finished,0.5,1\n", ["{}:2: method is empty."]),
    "half a seed": (CSV + "dpo,1,0.5,finished,0.5,1\n", ["{}:2: seed must be a whole number, got 0.5."]),
    "no seed": (CSV + "dpo,1,,finished,0.5,1\n", ["{}:2: seed is empty."]),
    "repeated": (
        CSV + "dpo,1,0,finished,0.5,1\nsimpo,1,0,finished,0.5,1\nDPO,1.0,0,failed,,\n",
        ["{}:4: is the same trial as {}:2: dpo, beta 1.0, seed 0."],
    ),
    "repeated without a seed": (
        "method,a/x\nd,1\nd,2\n",
        ["{}:3: is the same trial as {}:2: d, no hyperparameters, seed 0 (a column seed tells repetitions apart)."],
    ),
    "a negative error": (
        "method,a/x,a/x_se\nd,1,-2\n",
        ["{}:2: a/x_se is a standard error and must be at least 0, got -2."],
    ),
    "one setting twice": (
        "method,config.beta,params.beta,a/x\nd,1,2,3\nd,2,2,3\n",
        ["{}: config.beta and params.beta are the same hyperparameter; remove one."],
    ),
    "one metric twice": (
        "method,a/x,summary.a/x\nd,1,2\n",
        ["{}: summary.a/x and a/x are the same metric; remove one."],
    ),
    "several": (
        CSV + "dpo,1,x,finished,0.5,1\n,2,0,finished,y,1\n",
        [
            "{}:2: seed must be a whole number, got 'x'.",
            "{}:3: method is empty.",
            "{}:3: ood/win_rate_vs_sft must be a number, got 'y'.",
        ],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_sentence_with_its_line(name, tmp_path):
    text, expected = MISTAKES[name]
    path = tmp_path / "results.csv"
    path.write_text(text)
    assert problems(path) == [sentence.replace("{}", str(path)) for sentence in expected]


def test_columns_that_are_not_there_are_named(frame):
    listed = ", ".join(frame.columns)
    assert problems(frame, metric="reward", hyperparameters=["alpha"]) == [
        f"table: has no column 'reward'; it has {listed}.",
        f"table: has no column 'alpha'; it has {listed}.",
    ]


def test_a_name_of_the_report_s_own_is_refused(frame):
    assert problems(frame.assign(block=range(8)), hyperparameters=["block"]) == [
        "table: block is a name of the report's own; rename it."
    ]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.jsonl", b'{"method": 1}\n[1]\n{"a"\n', [":2: is no JSON object", ":3: is no JSON object"]),
        ("a.json", b'[{"method": 1},\n', [":2: is no list of JSON objects"]),
        ("a.csv", b"method,a/x\n\xff,1\n", [": is not UTF-8 (byte 11); save it as UTF-8."]),
        ("a.parquet", b"PAR1", [": is no parquet file that can be read"]),
        (
            "a.xlsx",
            b"",
            [": is of no kind that is read; name a file that ends in .csv, .tsv, .jsonl, .json or .parquet."],
        ),
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path, file, content, said):
    (tmp_path / file).write_bytes(content)
    found = problems(tmp_path / file)
    assert [f"{tmp_path / file}{start}" for start in said] == [
        line[: len(f"{tmp_path / file}{start}")] for line, start in zip(found, said, strict=True)
    ]


def test_rows_of_a_frame_are_named_by_position(frame):
    table = frame.set_axis(["x"] * 8).assign(seed=["zero", *frame["seed"][1:]])
    assert problems(table) == ["table row 1: seed must be a whole number, got 'zero'."]


# --- the report


def test_the_command_writes_the_report_and_says_how_the_table_was_read(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame.to_csv("results.csv", index=False)
    ran = posweep("report", "table=results.csv")
    assert (ran.code, ran.err) == (0, "")
    assert f"primary metric: {WIN}, the only win-rate" in ran.out
    assert "hyperparameters: beta, gamma, learning_rate" in ran.out
    found = json.loads((tmp_path / "outputs" / "results" / "report" / "summary.json").read_text())
    assert found["methods"]["simpo"]["diverged"] == 1
    assert "results.csv" in (tmp_path / "outputs" / "results" / "report" / "report.html").read_text()


def test_the_command_takes_metric_name_folder_and_hyperparameters(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame.assign(reward=np.arange(8.0), loss=np.arange(8.0)).to_csv("results.csv", index=False)
    ran = posweep(
        "report",
        "table=results.csv",
        "metric=[reward,kl_to_sft]",
        "name=mine",
        "to=there",
        "hyperparameters=[beta, gamma]",
    )
    assert (ran.code, ran.err) == (0, "")
    found = json.loads((tmp_path / "there" / "summary.json").read_text())
    assert (found["sweep"], found["primary_metric"]) == ("mine", "evaluation/reward")
    assert found["methods"]["dpo"]["share_beating_sft"] is None
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table=bad.csv"], "bad.csv:2: seed must be a whole number, got 'x'.\nbad.csv:3: method is empty."),
        (
            ["table=nothing.csv"],
            "nothing.csv: is not there; name a file that ends in .csv, .tsv, .jsonl, .json or .parquet.",
        ),
        (
            ["table=good.csv", "sweep=demo"],
            "sweep=demo: a report of a table takes table=…, metric=…, name=…, to=…, hyperparameters=… only.",
        ),
        (["table="], "table: none named; add table=FILE, which ends in .csv, .tsv, .jsonl, .json or .parquet."),
        (["table=good.csv", "name=a/b"], "name: must be the name of a folder, got 'a/b'."),
        (
            ["table=good.csv", "name=taken"],
            "name=taken: outputs/taken/report is the report of a sweep; give this one name=… or to=FOLDER.",
        ),
    ],
)
def test_a_mistake_is_exit_2_and_nothing_is_written(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text("method,a/x\nd,1\n")
    (tmp_path / "bad.csv").write_text("method,seed,a/x\nd,x,1\n,0,1\n")
    (tmp_path / "outputs" / "taken").mkdir(parents=True)
    (tmp_path / "outputs" / "taken" / "plan.jsonl").write_text("")
    before = sorted(tmp_path.rglob("*"))
    ran = posweep("report", *arguments)
    assert (ran.code, ran.err.rstrip("\n"), sorted(tmp_path.rglob("*"))) == (2, said, before)


def test_a_table_needs_neither_hydra_nor_mlflow_nor_torch(frame, tmp_path):
    frame.to_csv(tmp_path / "results.csv", index=False)
    code = (
        "import sys; from posweep import cli; from posweep.report import write; write.chapters = lambda tables: [];"
        "cli.run(['report', 'table=results.csv']); print({'hydra', 'mlflow', 'torch', 'ray', 'optuna'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_ten_thousand_rows_are_read_in_seconds():
    count = 10_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"method": "dpo", "beta": rng.random(count), "seed": 0, WIN: rng.random(count)})
    assert len(read_table(table).plan) == count
