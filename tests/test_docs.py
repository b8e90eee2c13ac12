"""The pages that are generated are current, and every objective says what the page of methods prints."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from posweep.config import configure
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.plan import make_plan
from posweep.records import Outcome, Response, TrialResult

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
