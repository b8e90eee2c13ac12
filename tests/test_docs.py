"""Generated pages are current, every objective says what the page of methods prints, and the other pages say what holds."""

import importlib.util
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from posweep import cli
from posweep.config import configure
from posweep.data import load
from posweep.data.formats import FORMATS, layout
from posweep.errors import ConfigError, DataError
from posweep.judges.llm import LlmJudge
from posweep.memory import GB, estimate
from posweep.objectives import OBJECTIVES, hyperparameters, takes_unpaired
from posweep.plan import make_plan
from posweep.records import Message, Outcome, Response, TrialResult
from posweep.settings import JUDGES, LocalData

from .policy.test_template import BODY, THINKS

ROOT = Path(__file__).parents[1]


def program(name: str):
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def methods():
    return program("methods")


def test_the_page_of_methods_is_current(methods):
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(), "run make docs"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_docstring_gives_line_formula_arguments_returns_and_source(methods, name):
    parts = methods.paragraphs(name)
    assert re.fullmatch(r"[^\n]+\.", parts[0])
    assert parts[1].startswith("    ")
    heads = [part.split("\n")[0] for part in parts]
    assert "Args (of the call):" in heads
    assert "Returns:" in heads
    assert ("Raises:" in heads) != OBJECTIVES[name].reference_free
    assert parts[-1].startswith("Source: ")


DEFINED = {"bco": {"δ"}}
"""Greek letters that a formula defines on a line of its own."""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_symbol_of_the_formula_is_a_hyperparameter_and_the_reverse(methods, name):
    """A formula that names β without a field β, or a field that no formula mentions, is half a method."""
    formula = inspect.cleandoc(next(part for part in methods.paragraphs(name) if part.startswith("    ")))
    symbols = {about.symbol for about in hyperparameters(OBJECTIVES[name]).values()}
    assert {symbol for symbol in symbols if symbol not in formula} == set()
    assert set(re.findall("[αβγδετ]|λ(?:_[DU])?", formula)) - DEFINED.get(name, set()) == symbols - {"c"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_method_has_a_row_and_a_section(methods, name):
    text = methods.PAGE.read_text(encoding="utf-8")
    anchor = OBJECTIVES[name].title.lower().replace(" ", "-")
    assert f"(#{anchor}) | `{name}` | `" in text
    assert f"\n## {OBJECTIVES[name].title}\n" in text


@pytest.mark.parametrize("file", ["src/posweep/objectives/ipo.py", "conf/method/ipo.yaml", "tests/objectives/cases.py"])
def test_the_readme_s_example_is_the_real_method(file):
    """Every line that README shows of IPO stands in its files, but for comments and what an ellipsis leaves out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.partition("## Add a method")[2].partition("\n## ")[0]
    block = next(b for b in re.findall(r"```(?:python|yaml)\n(.*?)```", example, re.S) if _shows(b, file))
    shown = [
        line.strip() for line in block.splitlines() if line.strip() and "…" not in line and not line.startswith("#")
    ]
    real = {line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()}
    assert len(shown) > 2
    assert [line for line in shown if line not in real] == []


def _shows(block: str, file: str) -> bool:
    return file in block or (file.endswith("cases.py") and block.startswith("@row"))


def test_the_page_of_the_cube_finds_the_effect_that_was_put_in():
    """Every trial with a reference wins 0.6 of its prompts, every other 0.4: no other effect, no other share."""
    plan = make_plan(configure(["sweep=cube"]))
    result = TrialResult("k", "r", "s", "finished")
    trials = [(spec, Outcome(result, rows(0.6 if spec.method in ("dpo", "ln_dpo") else 0.4))) for spec in plan]
    text = program("cube").page(trials)
    assert text.count("| reference | +0.200 ± 0.000 | 100.0% |") == 4
    assert text.count("| margin | +0.000 ± 0.000 | 0.0% |") == 4
    assert "over\n72 configurations; ± is one standard error over 4 prompts" in text


def rows(wins: float) -> tuple[Response, ...]:
    return tuple(Response("ood", i, "p", "t", 1, False, 0.0, 1, {"gold": 0.0}, {"vs_sft": wins}) for i in range(4))


# --- a user's own model, data and judges


OWN = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
STAND_INS = {"MODEL": "OWNER/MODEL", "JUDGE": "OWNER/JUDGE", "URL": "http://127.0.0.1:1/v1", "FOLDER": "pairs"}
"""What the placeholders of the page's commands stand for; the others are for what a plan does not look at."""
OWN_ARGUMENTS = ("key=", "keys=", "to=", "merged=")
"""Of verbs, apart from Hydra's overrides."""


def table_under(heading: str, first: str, page: str = OWN) -> list[list[str]]:
    """The rows of the table whose first heading is `first`, below a heading of the page; cells without back ticks."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = section.split(f"\n| {first} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table]


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A working folder with the page's sweep and its pairs, whose columns have other names."""
    example = re.search(r"^```yaml\n# sweeps/mine\.yaml\n(.*?)^```", OWN, re.M | re.S)
    assert example
    for name in ("sweeps", "pairs"):
        (tmp_path / name).mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(example[1], encoding="utf-8")
    for name in ("train", "iid", "ood"):
        rows = [{"prompt": f"{name} {i}", "better": "yes", "worse": "no"} for i in range(40)]
        (tmp_path / "pairs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs" / "train.parquet").write_bytes(b"a plan looks at the content only")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_sweep_of_the_page_of_ones_own_composes_and_reads_its_pairs(mine):
    configuration = configure(["sweep=mine"])
    assert {spec.method for spec in make_plan(configuration)} == {"dpo", "simpo"}
    read = load(configuration.data)
    assert (len(read.train), read.train[0].chosen, configuration.sets) == (40, "yes", ("iid", "ood", "hh_rlhf"))


def test_the_plan_of_that_sweep_says_what_the_page_says(mine, capsys):
    cli.run(["plan", "sweep=mine"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("judge llm: "))
    assert f"```text\n{line}\n```" in OWN


COMMANDS = dict.fromkeys(
    line.strip() for block in re.findall(r"^```bash\n(.*?)^```", OWN, re.M | re.S) for line in block.splitlines()
) | dict.fromkeys(re.findall(r"`(posweep [^`]*=[^`]*)`", OWN))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_that_page_can_be_planned(command, mine, capsys):
    filled = re.sub(r"\b([A-Z]{2,})\b", lambda word: STAND_INS.get(word[1], word[1]), command)
    program, *words = shlex.split(filled, comments=True)
    verb = words.pop(0) if words[0] in cli.VERBS else "launch"
    assert (program, verb in ("plan", "launch", "judge", "export")) == ("posweep", True)
    cli.run(["plan", *(word for word in words if not word.startswith(OWN_ARGUMENTS))])
    assert " trials, 0 finished" in capsys.readouterr().out


def test_the_memory_of_the_ladder_is_what_the_plan_prints():
    """Rows are compared whole: a change of the estimate is a change of the page."""
    files = {file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")} - {"hf", "scratch", "tiny"}
    rows = table_under("Models", "`model=`")
    assert {row[0] for row in rows} == files
    assert rows == [_ladder_row(row[0]) for row in rows]


def _ladder_row(model: str) -> list[str]:
    trained = [configure(["sweep=small_gpu", f"model={model}", f"model.lora.rank={rank}"]) for rank in (16, 0)]
    needed = [f"{estimate(one, 32).total / GB:.0f} GB" for one in trained]
    return [model, f"{trained[0].model.size.parameters / 1e9:.1f}B", _comes_as(model), *needed]


def _comes_as(model: str) -> str:
    text = (ROOT / "conf" / "model" / f"{model}.yaml").read_text(encoding="utf-8")
    return "LoRA" if re.search(r"rank: [1-9]", text) else "whole"


@pytest.mark.parametrize("row", table_under("Data", "columns"), ids=lambda row: row[0])
def test_every_line_of_the_formats_is_read_as_its_format(row):
    columns = re.findall(r"\w+", row[0])
    cells = json.loads(row[-1])
    assert list(cells) == columns
    found = layout(list(cells), {}, "data", "file").read(cells)
    assert (found.prompt, getattr(found, "chosen", None) or found.response) == ("Name a river.", "The Rhine.")


def test_every_format_has_its_line():
    assert [tuple(re.findall(r"\w+", row[0])) for row in table_under("Data", "columns")] == [
        one.columns for one in FORMATS
    ]


def test_the_conversation_of_the_page_is_read():
    cells = json.loads(re.search(r"^`(\{\"prompt\": \[.*\})`", OWN, re.M)[1])
    assert layout(list(cells), {}, "data", "file").read(cells).chosen == "The Rhine."


def test_the_methods_that_take_labels_are_those_that_say_so():
    able = [name for name, objective in OBJECTIVES.items() if takes_unpaired(objective)]
    assert f"`method=[{','.join(able)}]`" in OWN


def test_every_judge_has_a_row():
    assert [row[0] for row in table_under("Judges", "judge")] == list(JUDGES)


def test_every_counter_of_an_endpoint_has_a_row():
    told = LlmJudge.compare_each.__doc__.partition("Of what it cost:")[2].partition("Raises:")[0]
    listed = [
        name for row in table_under("Judges", "counter") if "llm" in row[1] for name in re.findall(r"\w+", row[0])
    ]
    assert set(listed) == set(re.findall(r"`(\w+)`", told))


# --- the sentences of its mistakes


def _model(folder: Path, longest: int = 128, unset: tuple[str, ...] = (), **changes) -> list[str]:
    """What is wrong with a small model whose making was changed, or whose tokenizer has lost a setting."""
    from posweep.policy.pretrained import problems
    from posweep.settings import HubModel

    from .policy.families import make_model

    made = make_model("qwen", folder / "model", **changes)
    file = made / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **dict.fromkeys(unset)}))
    return problems(HubModel(name=str(made)), made, longest)


def _no_system_turn(folder: Path) -> list[str]:
    from posweep.policy.pretrained import prompt_problems
    from posweep.settings import HubModel

    from .policy.families import make_model

    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    made = make_model("qwen", folder / "model", template=refusing)
    return prompt_problems(HubModel(name=str(made)), made, [(Message("system", "be kind"), Message("user", "who?"))])


def _of_data(columns: tuple[str, ...]) -> list[str]:
    with pytest.raises(DataError) as error:
        layout(columns, {}, "data", "train.jsonl")
    return list(error.value.problems)


def _shared(folder: Path) -> list[str]:
    for name in ("train", "iid", "ood"):
        row = {"prompt": "one" if name != "ood" else "another", "chosen": "yes", "rejected": "no"}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as error:
        load(LocalData(path=str(folder)))
    return list(error.value.problems)


def _refused_by_the_context() -> list[str]:
    with pytest.raises(ConfigError) as error:
        configure(["sweep=paper", "sample.max_new_tokens=8000"])
    return list(error.value.problems)


def _judge(folder: Path, **changes) -> list[str]:
    from posweep.judges.reward_model import problems
    from posweep.settings import RewardModelSettings

    from .judges.models import judge_folder

    made = judge_folder(folder / "judge", **changes)
    return problems(RewardModelSettings(name=str(made)), "judge.reward_model")


def _key_that_is_not_set() -> list[str]:
    from posweep.judges.llm import problems
    from posweep.settings import LlmSettings

    return problems(LlmSettings(base_url="https://judge.invalid/v1", model="judge"), "judge.llm")


def _refused_key(environment: pytest.MonkeyPatch) -> list[str]:
    from posweep.judges.llm import problems
    from posweep.settings import LlmSettings

    from .judges.endpoint import Endpoint, longer, refusal

    environment.setenv("OPENAI_API_KEY", "a-key")
    with Endpoint(longer) as endpoint:
        endpoint.reply = refusal(401)
        return problems(LlmSettings(base_url=endpoint.url, model="judge"), "judge.llm")


def _asked(form: str, **changes) -> list[str]:
    """What is said of an endpoint that takes less than others, or whose answers are cut."""
    from posweep.judges.llm import notices, problems

    from .judges import endpoint as servers

    with servers.Endpoint() as endpoint:
        endpoint.form = getattr(servers, form, endpoint.form)
        endpoint.reply = servers.Reply(body=servers.completion("Let me", "length")) if form == "cut" else None
        settings = endpoint.settings(**changes)
        return problems(settings, "judge.llm") or notices(settings, "judge.llm")


def _address(url: str) -> list[str]:
    from posweep.judges.comparison import settings_problems
    from posweep.settings import LlmSettings

    return settings_problems(LlmSettings(base_url=url, model="judge"), "judge.llm")


def _proxy_away(environment: pytest.MonkeyPatch) -> list[str]:
    from posweep.proxies import proxy_problems

    for name in ("https_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"):
        environment.delenv(name, raising=False)
    environment.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return proxy_problems("https://judge.invalid/v1", "httpx")


SAID = {
    "model.pad_token": lambda folder, _: _model(folder, pad=None),
    "model.end_token": lambda folder, _: _model(folder, unset=("eos_token",)),
    "model.prompt_format: the tokenizer": lambda folder, _: _model(folder, template=None),
    "model.prompt_format: the chat template of MODEL refuses": lambda folder, _: _no_system_turn(folder),
    "model.prompt_format: the chat template of MODEL opens": lambda folder, _: _model(folder, template=THINKS),
    "model.prompt_format: the chat template of MODEL takes": lambda folder, _: _model(folder, template=BODY),
    "model.name: MODEL has": lambda folder, _: _model(folder, vocab_size=8),
    "model.name: MODEL reads": lambda folder, _: _model(folder, longest=1000),
    "model.size.context": lambda *_: _refused_by_the_context(),
    "FILE": lambda *_: _of_data(("question", "answer")),
    "data.columns": lambda *_: _of_data(("prompt", "response_0", "response_1", "better_response_id")),
    "evaluation set": lambda folder, _: _shared(folder),
    "judge.reward_model.name": lambda folder, _: _judge(folder, outputs=2),
    "judge.reward_model.template": lambda folder, _: _judge(folder, chat=None),
    "judge.llm.key_from: the": lambda *_: _key_that_is_not_set(),
    "judge.llm.key_from: URL": lambda _, environment: _refused_key(environment),
    "judge.llm.temperature": lambda *_: _asked("wants_no_temperature"),
    "judge.llm.max_tokens": lambda *_: _asked("cut"),
    "judge.llm.base_url": lambda *_: _address("https://judge.invalid/v1/chat/completions"),
    "HTTPS_PROXY": lambda _, environment: _proxy_away(environment),
}
"""What brings each sentence of the page about, by how it begins."""


@pytest.mark.parametrize("beginning", [row[0] for row in table_under("Mistakes", "the sentence begins")])
def test_the_sentences_of_the_page_are_said(beginning, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (provoke,) = (SAID[start] for start in SAID if beginning.startswith(start))
    pattern = re.sub(r"\b(MODEL|JUDGE|FILE|URL|N)\b", ".+", re.escape(beginning))
    assert [said for said in provoke(tmp_path, monkeypatch) if re.match(pattern, said)]


# --- the tree and the floors


def test_the_tree_of_the_readme_names_everything_there_is():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## The tree\n")[1].split("\n## ")[0]
    named = re.findall(r"^  (\w+(?:\.py|/)) ", tree, re.M)
    package = [file for file in (ROOT / "src" / "posweep").iterdir() if not file.name.startswith(("_", "py.typed"))]
    there = {f"{one.name}/" if one.is_dir() else one.name for one in package}
    assert sorted(named) == sorted(there)
    sweeps = re.search(r"^sweeps/ .*?\? +(.*)$", tree, re.M)
    assert sweeps
    assert set(sweeps[1].split(", ")) == {file.stem for file in (ROOT / "sweeps").glob("*.yaml")}


def test_the_floors_of_the_architecture_are_those_that_are_held():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"^## The floors\n.*?```text\n(.*?)```", page, re.M | re.S)
    assert block
    written = [re.split(r" {2,}", line)[0] for line in block[1].splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in contracts["contracts"] if one["type"] == "layers")
    assert written == [layer.replace("posweep.", "") for layer in layers]


def test_every_package_that_is_needed_stands_in_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("\n## Dependencies\n\n")[1].split("\n\n")[0].splitlines()[2:]
    listed = {name.strip() for row in table for name in row.strip("|").split(" | ")[0].split(",")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert listed == {re.split(r"[<>=]", one)[0] for one in project["dependencies"]}
