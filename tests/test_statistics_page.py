"""docs/statistics.md: every example runs, prints what the page says, and has the figure it shows."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from posweep.report.chapters.certainty.part import COVERED

from .printed import differences

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "statistics.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("statistics_page", DOCS / "statistics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ran(program):
    return program.run(PAGE)


def test_every_example_prints_what_the_page_says(ran):
    assert differences(ran[0], PAGE) == [], "run make docs"


def test_every_figure_is_drawn_and_there(program, ran):
    shown = re.findall(r"!\[[^]]+\]\(figures/(\w+)\.svg\)", PAGE)
    assert list(ran[1]) == shown
    assert set(program.DRAWN) == set(shown)
    for name in shown:
        assert (DOCS / "figures" / f"{name}.svg").is_file(), "run make docs"
        assert program.DRAWN[name](ran[1][name]).axes


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda code: re.search(r"import (\w+)", code)[1])
def test_an_example_is_short(example):
    """At most seven statements besides imports and what prints."""
    found = [one for one in ast.walk(ast.parse(example)) if isinstance(one, ast.stmt)]
    working = [one for one in found if not isinstance(one, ast.ImportFrom | ast.Expr)]
    assert len(working) <= 7


def test_every_section_asks_and_answers():
    sections = PAGE.split("\n## ")[1:]
    assert len(sections) > 15
    for section in sections[1:-1]:
        heading, _, rest = section.partition("\n")
        assert heading.endswith("?"), heading
        assert len(rest.partition("```python")[0].split()) > 10, heading
        assert "```text" in rest, heading


def test_the_measured_coverage_is_that_of_the_report():
    rows = dict(re.findall(r"^\| (\d+) \| (\d+ to \d+ %)", PAGE, re.M))
    assert {int(seeds): words for seeds, words in rows.items()} == COVERED


def test_the_page_it_points_to_has_the_section():
    assert "\n## A table of your own\n" in (DOCS / "sweeps.md").read_text(encoding="utf-8")
