"""Every file composes, says what its dataclass says, and every mistake becomes a sentence."""

import dataclasses
import math
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posweep.checks import SECTIONS
from posweep.config import configure, shadowing, sweeps, tracking
from posweep.errors import ConfigError
from posweep.fields import plain
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.plan import make_plan
from posweep.settings import DATA, JUDGES, MODELS, EvaluationSource, MethodSettings

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
FILES = sorted(str(file.relative_to(CONF))[:-5] for file in CONF.glob("*/*.yaml"))
DEFAULTS = ["model/tiny", "model/hf", "train/default", "sample/default", "executor/ray", "tracking/mlflow",
            "data/demo", "data/local", "data/hub", "judge/gold", "judge/proxy", "judge/bradley_terry",
            "judge/reward_model", "judge/pairwise_model", "judge/llm"]  # fmt: skip
LADDER = [f for f in FILES if f.startswith("model/") and f not in ("model/hf", "model/tiny", "model/scratch")]
"""Models by name: they vary model/hf."""
"""The files that write down what the dataclass takes when nothing is said; the others are variations."""


def cls_of(file: str) -> type:
    group, _ = file.split("/")
    of = "hf" if file in LADDER else "scratch" if group == "model" else None
    kind = {"data": DATA, "judge": JUDGES, "model": MODELS}.get(group, {}).get(written(file).get("kind", of))
    return kind or {**SECTIONS, "evaluation": EvaluationSource}.get(group) or MethodSettings


def written(file: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{file}.yaml"))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        configure(overrides)
    return list(error.value.problems)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder of somebody's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("conf/train", "sweeps"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


# --- the files


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes(file):
    group, name = file.split("/")
    choice = f"{group}=[{name}]" if group in ("judge", "method", "evaluation") else f"{group}={name}"
    real = ["data.judge_share=0.5", "judge=[bradley_terry]", "sweep.primary_metric=iid/win_rate_vs_sft"]
    extra = {
        "judge/bradley_terry": ["data.judge_share=0.5"],
        "data/local": [*real, "model.context=384"],
        "data/hub": [*real, "model.context=1024", "data.name=owner/name"],
        "evaluation/local": ["evaluation.sources.local.name=owner/name"],
        "model/hf": ["model.name=owner/name"],
        "train/default": ["train.prefix_sharing=false"],  # which the demo sweep turns on
        "judge/reward_model": ["judge.reward_model.name=owner/name"],
        "judge/pairwise_model": ["judge.pairwise_model.name=owner/name"],
        **{
            f"data/{one}": [*real, "model.context=1024"] for one in ("hh_rlhf", "pku_saferlhf", "ultrafeedback", "tldr")
        },
    }
    configuration = configure(["sweep=demo", choice, *extra.get(file, [])])
    found = {
        "judge": configuration.judges, "method": configuration.methods, "evaluation": configuration.evaluation.sources,
    }.get(group)  # fmt: skip
    settings = found[name] if found is not None else getattr(configuration, group)
    assert isinstance(settings, cls_of(file))
    for key, value in written(file).items():
        if key not in ("defaults", "sft", "judge_share") and (key, value) != ("name", ""):
            said = plain(getattr(settings, key))
            assert ({**said, **value} if isinstance(value, dict) else value) == said, key


@pytest.mark.parametrize("sweep", sweeps())
def test_every_sweep_composes_and_plans(sweep, pairs):
    text = (ROOT / f"sweeps/{sweep}.yaml").read_text()
    extra = [f"data.path={pairs}"] if "override /data: local" in text else []
    extra += ["model.name=owner/name", "judge.reward_model.name=owner/name"] if sweep == "own" else []
    configuration = configure([f"sweep={sweep}", *extra])
    assert configuration.sweep.name == sweep
    assert {spec.method for spec in make_plan(configuration)} == set(configuration.methods)


@pytest.mark.parametrize("file", DEFAULTS)
def test_a_file_and_its_dataclass_cannot_drift(file):
    default = plain(cls_of(file)())
    for ours in ("commit", "wording"):  # found by launch, or of our own words; no file says them
        default.pop(ours, None)
    assert written(file) == default


@pytest.mark.parametrize("file", sorted(set(FILES) - set(DEFAULTS)))
def test_a_variation_has_no_setting_its_dataclass_lacks(file):
    known = {field.name for field in dataclasses.fields(cls_of(file))}
    assert set(written(file)) - {"defaults"} <= known


@pytest.mark.parametrize("file", sorted({*FILES, "config"} - {"model/scratch", *LADDER}))
def test_every_setting_has_a_sentence_above_it(file):
    """Not in a file that varies another, nor inside a free mapping (a grid's axes), nor in Hydra's own section."""
    text = (CONF / f"{file}.yaml").read_text().partition("\nhydra:")[0]
    lines = text.splitlines()
    settings = r"(\w+):(?! *$)|(sft|trial_resources|evaluation|grid):"
    for above, line in zip(["", *lines], lines, strict=False):
        if re.match(rf"( {{2}})?(?:{settings})", line) and not re.match(r"  (iid|ood|\w+: \[)", line):
            assert above.lstrip().startswith("#"), line


# --- what is selected


def test_all_is_every_method_in_the_order_of_the_table(folder):
    """No file lists them, so a new method is in it at once, also where a working folder has a conf of its own."""
    assert list(configure(["sweep=smoke", "method=[all]"]).methods) == list(OBJECTIVES)
    assert list(configure(["sweep=methods"]).methods) == list(OBJECTIVES)
    assert configure(["sweep=smoke", "method=[all]"]).methods["kto"].grid == {"beta": (0.03, 0.1, 0.3, 0.9)}


def test_the_sweep_of_every_method_is_even():
    """As many configurations each; one learning-rate axis, whose bins the methods without hyperparameters fill."""
    configuration = configure(["sweep=methods"])
    by_method = {name: [s for s in make_plan(configuration) if s.method == name] for name in OBJECTIVES}
    for name, specs in by_method.items():
        rates = sorted(spec.train["learning_rate"] for spec in specs)
        centres = [math.prod(rates[i : i + 4]) ** 0.25 for i in (0, 4, 8)]
        assert len(rates) == 12
        assert centres == pytest.approx(configuration.sweep.learning_rates, rel=5e-3), name
        assert (len(set(rates)) == 3) == bool(hyperparameters(OBJECTIVES[name]))


def test_the_cube_is_balanced():
    plan = make_plan(configure(["sweep=cube"]))
    corners = Counter((spec.method, spec.hyperparameters["gamma"] > 0) for spec in plan)
    assert len(corners) == 8
    assert set(corners.values()) == {9}
    assert {spec.hyperparameters["nll_weight"] for spec in plan if spec.method == "cpo"} == {0.0}


def test_the_working_folder_comes_first(folder):
    (folder / "sweeps/demo.yaml").write_text(
        "# @package _global_\ndefaults: [override /method: [dpo]]\nsweep: {name: mine}\n"
    )
    (folder / "conf/train/default.yaml").write_text("epochs: 7.0\n")
    (folder / "sweeps/own.yaml").write_text((ROOT / "sweeps/smoke.yaml").read_text())
    configuration = configure(["sweep=demo"])
    assert (configuration.sweep.name, list(configuration.methods), configuration.train.epochs) == ("mine", ["dpo"], 7.0)
    assert {"own", "demo", "smoke"} <= set(sweeps())
    assert configure(["sweep=own"]).sweep.name == "smoke"


def test_another_project_s_primary_configuration_is_not_ours(folder):
    """A working folder may be another Hydra project's: its config.yaml, its hydra/ and its groups of other names."""
    for name, text in {
        "conf/config.yaml": "defaults: [{model: bert}]\nlr: 1\n", "conf/hydra.yaml": "x: 1\n",
        "conf/hydra/job_logging/none.yaml": "version: 7\n", "conf/model/bert.yaml": "hidden: 3\n",
        "sweeps/bayes.yaml": "program: train.py\nmethod: bayes\n", "sweeps/list.yaml": "- 1\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert configure(["sweep=demo"]).model.kind == "scratch"
    assert shadowing() == []
    assert tracking([]).kind == "mlflow"
    assert not {"bayes", "list"} & set(sweeps())
    assert problems("sweep=bayes") == [
        "sweeps/bayes.yaml: its first line must be # @package _global_, or it is no sweep of posweep's."
    ]
    assert len(problems("sweep=list")) == 1


def test_a_file_in_place_of_ours_is_said(folder):
    (folder / "conf/train/default.yaml").write_text("epochs: 7.0\n")
    said = "conf/train/default.yaml of the working folder is used in place of posweep's own."
    assert configure(["sweep=demo"]).train.epochs == 7.0
    assert shadowing() == [said]
    assert problems("sweep=demo", "+train.lr=1")[-1] == said
    (folder / "conf/train/default.yaml").write_bytes((CONF / "train/default.yaml").read_bytes())
    configure(["sweep=demo"])
    assert shadowing() == []  # the same file says the same


@pytest.mark.parametrize("name", ["conf", "sweeps"])
def test_a_file_called_as_our_folders_is_no_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("a file")
    assert configure(["sweep=demo"]).sweep.name == "demo"
    assert "demo" in sweeps()


def test_a_method_on_the_command_line_keeps_only_its_blocks():
    everything, kept = configure(["sweep=demo"]), configure(["sweep=demo", "method=[dpo]"])
    assert list(kept.methods) == ["dpo"]
    assert {s.key for s in make_plan(kept)} == {s.key for s in make_plan(everything) if s.method == "dpo"}


@pytest.mark.parametrize("order", [["gold", "proxy"], ["proxy", "gold"]])
def test_the_first_judge_is_the_primary_one(order):
    assert list(configure(["sweep=demo", f"judge=[{','.join(order)}]"]).judges) == order


def test_hyperparameters_are_the_objective_s_with_the_override():
    configuration = configure(["sweep=demo", "method.simpo.hyperparameters.gamma=0.25"])
    assert configuration.methods["simpo"].hyperparameters == vars(OBJECTIVES["simpo"](gamma=0.25))


def test_tracking_needs_no_sweep():
    assert tracking(["tracking.uri=http://host:1"]).uri == "http://host:1"
    with pytest.raises(ConfigError, match=r"tracking\.kind: kind must be one of mlflow, none, got 'x'"):
        tracking(["tracking.kind=x"])


# --- mistakes


def test_all_mistakes_come_at_once():
    assert problems(
        "sweep=demo", "train.epochs=0", "train.batch_size=x", "model.tokenizer=chars", "judge.gold.kind=me",
        "data.pairs=1", "method.dpo.hyperparameters.beta=-1",
    ) == [
        "model.tokenizer: tokenizer must be one of words, bpe, got 'chars'.",
        "train.batch_size: must be a whole number, got 'x'.",
        "train.epochs: epochs must be > 0, got 0.0.",
        "data.pairs: pairs must be >= 32, got 1.",
        "judge.gold.kind: must be one of gold, proxy, bradley_terry, reward_model, pairwise_model, llm, got 'me'.",
        "method.dpo.hyperparameters.beta: β must be > 0, got -1.0.",
    ]  # fmt: skip


SWEEPS = "alpaca_small, cube, demo, methods, own, paper, small_gpu, smoke"
TRAIN = ", ".join(field.name for field in dataclasses.fields(SECTIONS["train"]))
MISTAKES = {
    "no sweep": ([], f"sweep: none named; add sweep=NAME, one of {SWEEPS}"),
    "unknown sweep": (["sweep=demmo"], "sweep=demmo: no such sweep; there are .*demo.*\\. Did you mean demo\\?$"),
    "empty sweep": (["sweep="], "sweep.*there are|sweep: none named"),
    "sweep is null": (["sweep=null"], "sweep"),
    "section is null": (["sweep=demo", "train=null"], "train"),
    "two sweeps": (["sweep=[demo,smoke]"], r"sweep=\[demo,smoke\]|one sweep"),
    "unknown choice": (["sweep=demo", "model=tny"], r"model=tny: no such model; there are .*tiny\. Did you mean tiny\?$"),
    "unknown method": (["sweep=demo", "method=[dpoo]"], r"method=dpoo: no such method; .* Did you mean dpo\?$"),
    "unknown judge": (["sweep=demo", "judge=[silver]"], "judge=silver: no such judge; there are bradley_terry, gold,"),
    "unknown launcher": (["sweep=demo", "hydra/launcher=joblib"], "hydra/launcher=joblib"),
    "unknown setting": (["sweep=demo", "train.epoch=1"], rf"train\.epoch: no such setting; train takes {TRAIN}\. Did"),
    "added setting": (["sweep=demo", "+train.lr=1"], rf"train\.lr: no such setting; train takes {TRAIN}\."),
    "unknown section": (["sweep=demo", "trian.epochs=1"], r"trian\.epochs: no such setting"),
    "added section": (["sweep=demo", "+tarin=1"], "tarin: no such setting; there are data, evaluation,"),
    "misspelt hyperparameter": (
        ["sweep=demo", "method.dpo.hyperparameters.betta=1"],
        r"method\.dpo\.hyperparameters\.betta: DPO has no hyperparameter 'betta'; it takes beta \(β\), gamma \(γ\)",
    ),
    "misspelt hyperparameter of a method that the sweep does not name": (
        ["sweep=demo", "method=[kto]", "method.kto.hyperparameters.betaa=1"],
        r"method\.kto\.hyperparameters\.betaa: KTO has no hyperparameter 'betaa'; it takes beta \(β\), desirable_weight",
    ),
    "hyperparameter of a method that has none": (
        ["sweep=demo", "method=[sft]", "+method.sft.hyperparameters.beta=1"],
        r"method\.sft\.hyperparameters: SFT on chosen has no hyperparameter 'beta'; it has none\.$",
    ),
    "training setting as a hyperparameter": (
        ["sweep=demo", "+method.dpo.hyperparameters.learning_rate=1e-3"],
        r"method\.dpo\.hyperparameters: DPO has no hyperparameter .*; learning_rate is set for all methods, by train",
    ),
    "setting of a method that is not selected": (
        ["sweep=demo", "method=[kto]", "+method.dpo.hyperparameters.beta=0.2"],
        r"method\.dpo: something is set for a method that is not selected; add dpo to method=\[…\]",
    ),
    "method in capitals": (["sweep=demo", "method=[DPO]"], r"method=DPO: no such method; .* Did you mean dpo\?$"),
    "misspelt setting of the sweep": (
        ["sweep=demo", "sweep.seedz=[1]"], r"sweep\.seedz: no such setting; sweep takes .*name, seeds.* mean seeds\?$",
    ),
    "no learning rate": (["sweep=demo", "sweep.learning_rates=[]"], r"sweep\.learning_rates: must be different numbers > 0"),
    "learning rate of 0": (["sweep=demo", "sweep.learning_rates=[0]"], r"sweep\.learning_rates: .* > 0, got \[0\.0\]"),
    "new axis of a grid": (
        ["sweep=demo", "method.dpo.grid={betta:[1]}", "sweep.blocks=[]"], r"method\.dpo\.grid\S* .*'?betta'?",
    ),
    "wrong type": (["sweep=demo", "train.learning_rate=fast"], r"train\.learning_rate: must be a number, got 'fast'\.$"),
    "out of range": (["sweep=demo", "train.learning_rate=0"], r"train\.learning_rate: learning rate must be > 0, got 0"),
    "no value": (["sweep=demo", "train.epochs"], r".*train\.epochs.*missing"),
    "syntax": (["sweep=demo", "train.epochs=[1"], r".*\[1"),
    "missing value": (["sweep=demo", "train.epochs=???"], r"train\.epochs: must be"),
    "no such variable": (["sweep=demo", "train.epochs=${oc.env:NO_SUCH}"], r".*NO_SUCH.*train\.epochs"),
    "no such reference": (["sweep=demo", "train.epochs=${no.such}"], r".*no\.such.*train\.epochs"),
    "no name": (["sweep=demo", "sweep.name=../up"], r"sweeps/demo\.yaml → sweep\.name: must be letters, digits"),
    "no seed": (["sweep=demo", "sweep.seeds=[]"], r"sweeps/demo\.yaml → sweep\.seeds: must be different whole numbers"),
    "a seed twice": (["sweep=demo", "sweep.seeds=[1,1]"], r"sweeps/demo\.yaml → sweep\.seeds: .*, got \[1, 1\]\.$"),
    "no judge": (["sweep=demo", "judge=[]"], r"judge: none selected; add judge=\["),
    "no method": (["sweep=demo", "method=[]"], r"method: none selected; add method=\["),
    "unknown set": (
        ["sweep=demo", "evaluation.sets=[iid,ood,odd]"],
        r"evaluation\.sets: data=demo has no set 'odd'; there are iid, ood, ood_counts\.$",
    ),
    "primary set is not measured": (
        ["sweep=demo", "evaluation.sets=[iid]"], r"sweeps/demo\.yaml → sweep\.primary_metric: no set 'ood'; there are iid",
    ),
    "primary metric is no measure": (
        ["sweep=demo", "sweep.primary_metric=ood/win_rate"], r"sweeps/demo\.yaml → sweep\.primary_metric: .*win_rate",
    ),
    "judge without prompts": (
        ["sweep=demo", "judge=[bradley_terry]"], r"judge\.bradley_terry: trains on prompts no trial sees; set data\.judge",
    ),
    "judge of another world": (
        ["sweep=demo", "data=local", "model.context=384"], r"judge\.gold: judges the demo world only; with data=local",
    ),
    "heads do not divide the width": (
        ["sweep=demo", "model.hidden_size=30", "model.heads=4"], r"model\.(heads|hidden_size): .*30",
    ),
    "a sign that needs quotes": (
        ["sweep=demo", "output_dir=~/mine"], r"output_dir: ~/mine cannot be read; .* quotes within quotes: 'output_dir=",
    ),
    "a list that does not end": (["sweep=demo", "sweep.seeds=[1"], r"sweep\.seeds: \[1 cannot be read; a list is \[a,b\]"),
    "a list for a mapping": (
        ["sweep=demo", "evaluation.sources=[a,b]"], r"evaluation\.sources: cannot take \[a,b\], which is of another kind",
    ),
    "no output folder": (["sweep=demo", "output_dir=null"], "output_dir: "),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "pattern"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_becomes_one_line_that_ends(overrides, pattern):
    found = problems(*overrides)
    assert re.match(pattern, found[0]), found[0]
    for sentence in found:
        assert "\n" not in sentence
        assert sentence[-1] in ".?"
        assert "hydra" not in sentence.lower() or "hydra/launcher" in sentence
        assert "pkg://" not in sentence


BROKEN = {
    "no YAML": ("sweep: {name: x\n  - nothing\n", r".*broken\.yaml"),
    "a tab": ("sweep:\n\tname: x\n", r".*broken\.yaml"),
    "no UTF-8": (b"sweep: {name: \xff}\n", r".*broken\.yaml"),
    "byte-order mark": (b"\xef\xbb\xbf# @package _global_\nsweep: {name: x}\n", r".*: begins with a byte-order mark"),
    "a list": ("- 1\n", r".*broken"),
    "unknown group": ("# @package _global_\ndefaults: [override /modell: tiny]\nsweep: {name: x}\n", ".*modell"),
    "unknown choice": ("# @package _global_\ndefaults: [override /model: huge]\nsweep: {name: x}\n", "model=huge: no such"),
    "unknown entry": (
        "# @package _global_\ndefaults: [override /method: [dpo]]\nsweep: {name: x, seed: [0]}\n",
        r"sweep\.seed: no such setting; sweep takes name, seeds, learning_rates, primary_metric, blocks",
    ),
    "unknown section": (
        "# @package _global_\ndefaults: [override /method: [dpo]]\nsweep: {name: x}\ntrian: {epochs: 2}\n",
        "trian: no such setting; there are data,",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "pattern"), BROKEN.values(), ids=BROKEN)
def test_a_broken_sweep_of_one_s_own_becomes_one_line(folder, content, pattern):
    file = folder / "sweeps/broken.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (found,) = problems("sweep=broken")
    assert re.match(pattern, found), found
    assert "\n" not in found


def test_a_relative_data_path_means_the_folder_of_the_command(tmp_path, monkeypatch):
    """Workers stand in other folders."""
    monkeypatch.chdir(tmp_path)
    assert configure(["sweep=alpaca_small", "data.path=prefs"]).data.path == str(tmp_path / "prefs")


ADVICE = {
    "sweep.name=2024_01_31": "2024_01_31", "sweep.name=1e5": "1e5", "sweep.seeds=0,1,2": (0, 1, 2), "data.path=a=b": "a=b",
    "data.path=a,b": "a,b", "data.path=~/x": "~/x", "data.path=exp[v1]": "exp[v1]", "+data.path=X": "X",
    "data.columns.chosen=X": {"chosen": "X"}, "method=dpo,simpo": None,
}  # fmt: skip


@pytest.mark.parametrize("override", ADVICE)
def test_what_a_sentence_says_to_type_composes(override):
    """The advice is taken as a shell takes it, and gives what was meant."""
    rest = ["sweep=own", "model.name=owner/name", "judge.reward_model.name=owner/name"]
    rest += [] if override.lstrip("+").startswith("data.path") else ["data.path=d"]
    (said,) = problems(*rest, override)
    (word,) = shlex.split(said.rpartition(": ")[2].removesuffix("."))
    configuration = configure([*rest, word])
    node = configuration
    for part in override.lstrip("+").partition("=")[0].removesuffix(".chosen").split("."):
        node = getattr(node, part, None)
    expected = ADVICE[override]
    if expected is None:
        assert list(configuration.methods) == ["dpo", "simpo"]
    elif "path" in override:
        assert node.endswith(str(Path(expected).expanduser()))
    else:
        assert node == expected


@pytest.mark.parametrize(
    "override",
    ["sweep.seeds=[18446744073709551616]", "data.seed=9223372036854775808", "model.seed=1e30", "data.pairs=1e400",
     "search.seed=4294967296", "train.threads=10000", "train.learning_rate=1e400", "train.learning_rate=nan",
     f"data.seed={10**320}", f"train.epochs={10**320}", "sweep.seeds=[true]"],
)  # fmt: skip
def test_numbers_that_no_trial_could_take_are_refused_by_the_plan(override):
    (said,) = problems("sweep=demo", override)
    assert said.partition("=")[0].partition(":")[0] == override.partition("=")[0]
    assert " must be " in said
