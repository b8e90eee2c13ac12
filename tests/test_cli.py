"""A user's mistake is a sentence and exit code 2, and leaves nothing behind; looking imports nothing heavy."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from posweep import cli
from posweep.config import configure, configure_each
from posweep.errors import DataError
from posweep.invocation import names_folder
from posweep.plan import make_plan

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "mlflow", "transformers", "pandas", "matplotlib", "datasets")
Ran = namedtuple("Ran", "code out err")


@pytest.fixture
def posweep(tmp_path, monkeypatch, capsys):
    """The command in an empty working folder; whatever would start there fails the test instead."""

    def started(*_, **__):
        raise AssertionError("something was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name in ("posweep.trackers.mlflow.MlflowTracker.open", "posweep.artifacts.shared.prepare"):
        monkeypatch.setattr(name, started)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["posweep", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Ran(end.value.code, *capsys.readouterr())

    return run


def key_of_a_trial() -> str:
    from posweep.plan import make_plan

    return make_plan(configure(["sweep=smoke"])).trials[0].key


NO_GPU = "executor.trial_resources.gpu: each trial asks for 1 GPU and this machine has 0"
MISTAKES = {
    "no sweep": ("", "sweep: none named; add sweep=NAME, one of "),
    "unknown sweep": ("sweep=smok", "sweep=smok: no such sweep; there are "),
    "unknown verb": ("paln sweep=smoke", "paln: no such verb; there are launch, plan, status, trial, judge, "),
    "unknown method": ("sweep=smoke method=[dpoo]", "method=dpoo: no such method; there are all, alphapo, "),
    "misspelt hyperparameter": (
        "sweep=smoke method.dpo.hyperparameters.betta=1",
        "method.dpo.hyperparameters.betta: DPO has no hyperparameter 'betta'; it takes beta (β), gamma (γ)",
    ),
    "out of range": ("sweep=smoke train.epochs=0", "train.epochs: epochs must be > 0, got 0.0."),
    "out of range in a block": (
        "sweep=smoke sweep.blocks=[{method:dpo,grid:{beta:[0.0]}}]",
        "sweeps/smoke.yaml → blocks[0].grid.beta[0]: β must be > 0, got 0.0.",
    ),
    "empty grid": ("sweep=smoke sweep.blocks=[{method:dpo,grid:{}}]", "sweeps/smoke.yaml → blocks[0].grid: "),
    "empty axis": (
        "sweep=smoke sweep.blocks=[{method:dpo,grid:{beta:[]}}]",
        "sweeps/smoke.yaml → blocks[0].grid.beta: must be a list with at least one value, got [].",
    ),
    "empty axis of a recommended grid": (
        "sweep=smoke sweep.blocks=[] method.dpo.grid.beta=[]",
        "conf/method/dpo.yaml → grid.beta: must be a list with at least one value, got [].",
    ),
    "multirun": ("-m sweep=smoke", "-m: posweep has no multirun"),
    "multirun, long": ("sweep=smoke --multirun", "-m: posweep has no multirun"),
    "no data named": ("sweep=alpaca_small", "data.path: names no folder; set data.path=FOLDER"),
    "missing data file": ("sweep=alpaca_small data.path=/nowhere", "data.path: /nowhere has no train.jsonl, iid.jsonl"),
    "more GPUs than there are": ("sweep=smoke executor.trial_resources.gpu=1", NO_GPU),
    "GPUs here and now": ("sweep=smoke executor=local executor.trial_resources.gpu=1", NO_GPU),
    "more GPUs than a trial uses": (
        "plan sweep=smoke executor.trial_resources.gpu=1.5", "executor.trial_resources.gpu: a trial computes on one GPU, ",
    ),
    "more cores than there are": (
        "sweep=smoke executor.trial_resources.cpu=9999", "executor.trial_resources.cpu: each trial asks for 9999 cores",
    ),
    "dead tracking server": (
        "sweep=smoke tracking.uri=http://127.0.0.1:9", "tracking.uri: http://127.0.0.1:9 does not answer (",
    ),
    "dead cluster": (
        "sweep=smoke executor.address=127.0.0.1:9", "executor.address: no Ray cluster answers at 127.0.0.1:9 (",
    ),
    "no address": ("sweep=smoke executor.address=cluster", "executor.address: must be auto or HOST:PORT, got 'cluster'."),
    "tracking scheme": (
        "sweep=smoke tracking.uri=mlruns", "tracking.uri: must be sqlite:///FILE or http(s)://HOST:PORT, got 'mlruns'.",
    ),
    "tracking folder": ("sweep=smoke tracking.uri=sqlite:////no/such.db", "tracking.uri: /no is no folder"),
    "batch larger than the data": (
        "sweep=smoke train.batch_size=129", "train.batch_size: 129 pairs a step, but data=demo has 128 pairs",
    ),
    "batch of a block larger than the data": (
        "sweep=smoke sweep.blocks=[{method:dpo,grid:{batch_size:[8,129]}}]",
        "train.batch_size: 129 pairs a step, but data=demo has 128 pairs",
    ),
    "context too short": (
        "sweep=smoke sample.max_new_tokens=200", "model.context: 128 tokens, but prompts and responses may take 208",
    ),
    "end of training not measured": (
        "sweep=smoke train.evaluate_at=[0.5]", "train.evaluate_at: must end with 1.0, got [0.5].",
    ),
    "trial without a key": ("trial sweep=smoke", "key: name one trial with key=KEY"),
    "trial that is none": ("trial sweep=smoke key=zz", "key=zz: no trials of sweep smoke begin with it; keys look like "),
    "trial without its GPU": ("trial sweep=smoke key=KEY executor.trial_resources.gpu=1", NO_GPU),
    "nothing to report": ("report sweep=smoke", "sweep=smoke: nothing is recorded at sqlite:///mlflow.db; run posweep"),
    "report of a dead server": (
        "report sweep=smoke tracking.uri=http://127.0.0.1:9",
        "tracking.uri: http://127.0.0.1:9 does not answer (",
    ),
    "nothing to report, no tracker": ("report sweep=smoke tracking=none", "sweep=smoke: nothing is recorded at "),
    "nothing to show": ("ui", "tracking.uri: /"),
    "no port": ("ui port=abc", "port: "),
}  # fmt: skip


@pytest.mark.parametrize(("command", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_a_sentence_and_leaves_nothing_behind(posweep, tmp_path, command, sentence):
    ran = posweep(*command.replace("key=KEY", f"key={key_of_a_trial()}").split())
    assert ran.code == 2, ran.err
    assert ran.err.startswith(sentence)
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


BARE = {
    "report x.csv": "x.csv: is a table; type: posweep report table=x.csv\n",
    "demo": "demo: is a sweep; type: posweep sweep=demo\n",
    "plan demo": "demo: is a sweep; type: posweep plan sweep=demo\n",
    "plan sweep=demo train.epochs": "train.epochs: has no value; a setting is NAME=VALUE, as in sweep=demo.\n",
    "plan sweep=demo --config-dir": "--config-dir: no such flag; posweep --help shows what there is.\n",
}


@pytest.mark.parametrize(("command", "sentence"), BARE.items())
def test_a_bare_word_is_told_what_to_type(posweep, command, sentence):
    assert posweep(*command.split()) == (2, "", sentence)


@pytest.mark.parametrize(("word", "meant"), [("repot", "report"), ("demmo", "sweep=demo"), ("plna", "plan")])
def test_a_misspelt_verb_or_sweep_is_recognised(posweep, word, meant):
    assert posweep(word, "model=tiny").err.endswith(f" Did you mean {meant}?\n")


def test_the_version_is_posweep_s(posweep):
    assert re.fullmatch(r"posweep \d+\.\d+\.\d+\n", posweep("--version").out)


def test_a_file_in_place_of_ours_is_said_beside_the_plan(posweep, tmp_path):
    (tmp_path / "conf/train").mkdir(parents=True)
    (tmp_path / "conf/train/default.yaml").write_text((ROOT / "conf/train/default.yaml").read_text() + "# mine\n")
    ran = posweep("plan", "sweep=smoke", "keys=jsonl")
    assert ran.err == "conf/train/default.yaml of the working folder is used in place of posweep's own.\n"
    assert ran.out.startswith("{")


def test_a_report_of_nothing_is_not_to_be_opened(tmp_path, capsys):
    from posweep.console import print_summary

    row = dict.fromkeys(("best", "median", "iqm", "p10", "share_beating_sft"))
    row |= {"trials": 2, "finished": 0, "diverged": 0, "failed": 2}
    (tmp_path / "summary.json").write_text(json.dumps({"primary_metric": "a/b", "methods": {"dpo": row}}))
    print_summary(tmp_path)
    assert capsys.readouterr().out == "Nothing was measured: no trial has finished.\n"


def test_all_obstacles_come_at_once(posweep, tmp_path):
    ran = posweep("sweep=smoke", "train.batch_size=999", "tracking.uri=ftp://x", "executor.trial_resources.gpu=1")
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == [
        "train.batch_size", "tracking.uri", "executor.trial_resources.gpu",
    ]  # fmt: skip
    assert (ran.code, list(tmp_path.iterdir())) == (2, [])


LINES = {
    "no JSON": ('{"prompt": "p", ', "is no JSON object ("),
    "no object": ("[1, 2]", "must be a JSON object, got '[1, 2]'."),
    "a missing column": ('{"prompt": "p", "chosen": "c"}', "must have prompt, chosen, rejected; it has prompt, chosen."),
    "no text": (
        '{"prompt": "p", "chosen": "c", "rejected": 3}',
        "rejected must be text or a list of messages (role, content), got 3.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), LINES.values(), ids=LINES)
@pytest.mark.parametrize("file", ["train.jsonl", "ood.jsonl"])
def test_a_malformed_line_is_named_by_file_and_number(posweep, tmp_path, pairs, file, line, sentence):
    with (pairs / file).open("a") as data:
        data.write(f"\n{line}\n")  # an empty line counts: this is the tenth
    ran = posweep("sweep=alpaca_small", f"data.path={pairs}", "train.batch_size=2")
    assert ran.code == 2
    assert ran.err.startswith(f"{pairs / file}:10: {sentence}")
    assert (ran.out, list(tmp_path.iterdir())) == ("", [])


def test_kto_wants_more_than_one_prompt(posweep, pairs):
    """Its reference point is made of responses to other prompts; other methods do not mind."""
    row = '{"prompt": "ood", "chosen": "good", "rejected": "bad"}\n'
    (pairs / "ood.jsonl").write_text(row * 4)
    words = ("sweep=alpaca_small", f"data.path={pairs}", "train.batch_size=2")  # 8 prompts are too few for the judge
    ran = posweep(*words, "method=[dpo,kto]")
    sentence = (
        "method: KTO takes responses to other prompts, but the ood pairs of data=local all have one prompt; leave"
    )
    assert ran.code == 2
    assert ran.err.startswith(sentence)
    assert posweep(*words, "method=[dpo]").err.startswith("data.judge_share: leaves ")


def test_a_prompt_of_training_in_an_evaluation_set_is_refused(posweep, pairs):
    (pairs / "ood.jsonl").write_text((pairs / "train.jsonl").read_text())
    ran = posweep("sweep=alpaca_small", f"data.path={pairs}", "train.batch_size=2")
    assert ran.code == 2
    assert ran.err.startswith(
        "evaluation set ood: 8 of its 8 prompts also stand in the training data, such as 'train 0'"
    )
    assert "data.shared_prompts=drop" in ran.err


def test_plan_prints_trials_per_block_and_what_they_can_show(posweep, tmp_path):
    """Demo: 3 × 12 trials; 0.98/√256 = 6 points. Smoke: 3 × 2 trials; 0.98/√16 = 24 points (24.5, to even)."""
    ran = posweep("plan", "sweep=demo")
    assert (ran.code, ran.err) == (0, "")
    for method in ("DPO", "LN-DPO", "SimPO"):
        assert re.search(rf"^\d +{method} +custom +β .* 0\.0002 0\.0008 0\.003 +12 +0 +unknown", ran.out, re.M)
    assert "36 trials, 0 finished, 36 left · time unknown" in ran.out
    assert "256 prompts per set: a win-rate difference under 6 points cannot be told from chance" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_plan_says_where_methods_have_unequal_numbers_of_trials(posweep):
    ran = posweep("plan", "sweep=demo", "sweep.blocks=[{method:dpo,list:[{beta:0.1}]}]", "method=[dpo,ln_dpo]")
    assert "The methods have unequal numbers of trials (DPO 1, LN-DPO 12): do not compare their maxima." in ran.out


def test_status_of_a_sweep_that_never_ran(posweep, tmp_path):
    ran = posweep("status", "sweep=smoke")
    rows = [line.split() for line in ran.out.splitlines()]
    assert rows == [
        ["method", "trials", "finished", "running", "failed", "diverged", "left"],
        *([method, "2", "0", "0", "0", "0", "2"] for method in ("DPO", "LN-DPO", "SimPO")),
        ["posweep", "sweep=smoke", "runs", "all", "6", "that", "are", "not", "finished"],
    ]
    assert (ran.code, list(tmp_path.iterdir())) == (0, [])


def alone(*arguments: str, **environment: str) -> Ran:
    """The command in a process of its own; the last line of stderr lists what heavy modules it imported."""
    code = (
        "import sys\nfrom posweep.cli import main\ntry: main()\n"
        f"finally: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, cwd="/", capture_output=True,
        encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["posweep plan sweep=NAME", "sweep: alpaca_small, cube, demo", "method: all, alphapo, aot"]),
        (["plan", "--help"], ["posweep plan sweep=NAME"]),
        (["--cfg", "job", "sweep=demo"], ["name: demo", "learning_rate: 0.0003", "uri: sqlite:///mlflow.db"]),
        (["plan", "sweep=smoke"], ["6 trials, 0 finished, 6 left"]),
        (["status", "sweep=smoke"], ["LN-DPO"]),
    ],
    ids=" ".join,
)
def test_looking_imports_nothing_heavy(arguments, words):
    ran = alone(*arguments)
    assert (ran.code, ran.err.strip()) == (0, "[]")
    for word in words:
        assert word in ran.out


def test_tab_completes_sweeps_after_a_verb():
    line = "posweep plan sweep=smo"
    ran = alone("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (ran.out.split(), ran.err.strip()) == (["sweep=smoke"], "[]")


@pytest.mark.parametrize(
    ("line", "stripped"),
    [
        ("posweep plan sweep=de", "posweep sweep=de"),
        ("posweep report ", "posweep "),
        ("posweep plan sweep=demo method=[dp", "posweep sweep=demo method=[dp"),
        ("posweep sweep=de", "posweep sweep=de"),
        ("posweep pla", "posweep pla"),
        ("posweep plan", "posweep plan"),
        ("posweep ", "posweep "),
    ],
)
def test_completion_sees_no_verb(monkeypatch, line, stripped):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    cli._strip_verb_from_completion()
    assert (os.environ["COMP_LINE"], os.environ["COMP_POINT"]) == (stripped, str(len(stripped)))


def test_without_completion_there_is_nothing_to_strip(monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    cli._strip_verb_from_completion()
    assert "COMP_LINE" not in os.environ


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (DataError(["one.", "two."]), 2, "one.\ntwo.\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted. Everything finished is kept; continue with: posweep sweep=smoke\n"),
    ],
)
def test_how_it_ends(posweep, monkeypatch, raised, code, words):
    def end(_):
        raise raised

    monkeypatch.setitem(cli.VERBS, "launch", end)
    ran = posweep("sweep=smoke")
    assert (ran.code, ran.out, ran.err) == (code, "", words)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def bug(_):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.VERBS, "plan", bug)
    monkeypatch.setattr(sys, "argv", ["posweep", "plan", "sweep=smoke"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def commands_of_the_readme() -> list[str]:
    """Lines of fenced blocks that start with posweep; those with a PLACEHOLDER are a form, not a command."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if re.match(r"(\S*/)?posweep( |$)", line)]
    return [line for line in found if not re.search(r"=\[?(<|…|[A-Z]+\b)", line)]


@pytest.mark.parametrize("command", commands_of_the_readme())
def test_every_command_of_the_readme_composes(command):
    _, *words = shlex.split(command, comments=True)
    verb = words.pop(0) if words and "=" not in words[0] and not words[0].startswith("-") else "launch"
    assert verb in cli.VERBS
    overrides = [
        word
        for word in words
        if not word.startswith(("key=", "keys=", "plan.probe=", "retry=", "port=", "-", "job", "searchpath"))
    ]
    if any(word.startswith("table=") for word in words):
        assert (verb, {word.partition("=")[0] for word in words} - {*cli.TABLE}) == ("report", set())
    elif verb == "report" and any(word.startswith("sweep=[") for word in overrides):
        assert len(configure_each(overrides)) > 1
    elif any(word.startswith("sweep=") for word in overrides):
        assert configure(overrides).sweep.name
    else:
        folders = any(map(names_folder, overrides))
        assert verb == "ui" or folders or any(word in cli.HYDRA_FLAGS for word in words)


def test_the_sweep_of_the_documentation_composes(tmp_path, monkeypatch):
    """docs/sweeps.md shows a whole file; what it says of it must hold."""
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    example = re.search(r"^```yaml\n# sweeps/mine\.yaml\n(.*?)^```", page, re.M | re.S)
    assert example
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(example[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    trials = make_plan(configure(["sweep=mine"])).trials
    assert {method: sum(t.method == method for t in trials) for method in ("dpo", "simpo", "ln_dpo")} == {
        "dpo": 12, "simpo": 4, "ln_dpo": 24,
    }  # fmt: skip
