"""Tolerances of rounding come from one place, and pages that hold computed numbers are compared as numbers."""

import ast
from pathlib import Path

import pytest

from .printed import differences
from .rounding import EPSILON, FORWARD, near, rounding

TESTS = Path(__file__).parent
TOLERANCES = {"rel", "abs", "rtol", "atol"}
EXACT, MEASURED = 1e-8, 5e-5
"""Below the first a tolerance is one of float64; above the second it is of a simulation or a claim. Between, of float32."""


def literal_tolerances(file: Path) -> list[str]:
    """Where a test writes a tolerance of float32 by hand."""
    tolerances = [
        keyword.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "gradcheck" not in ast.unparse(node.func)
        for keyword in node.keywords
        if keyword.arg in TOLERANCES
    ]
    return [
        f"{file.relative_to(TESTS)}:{value.lineno}"
        for tolerance in tolerances
        for value in (ast.walk(tolerance) if not _is_sum(tolerance) else ())
        if isinstance(value, ast.Constant) and isinstance(value.value, float) and EXACT < value.value < MEASURED
    ]


def _is_sum(tolerance: ast.expr) -> bool:
    """Whether a tolerance is an error of a simulation with a floor under it, such as `4 * error + 1e-5`."""
    return isinstance(tolerance, ast.BinOp) and isinstance(tolerance.op, ast.Add)


def test_tolerances_of_float32_come_from_one_place():
    files = [file for file in TESTS.rglob("*.py") if file.name != "test_rounding.py"]
    assert len(files) > 100
    assert [place for file in files for place in literal_tolerances(file)] == [], (
        "take near() or rounding() of rounding.py"
    )


def test_a_tolerance_is_in_units_of_rounding():
    assert rounding(1) == EPSILON["float32"] == 2**-23
    assert near(1.0) == 1 + FORWARD * 2**-24
    assert near(1.0) != 1 + FORWARD * 2**-22
    assert near(1000.0) == 1000 * (1 + FORWARD * 2**-24)
    assert near(1.0, dtype="float64") != 1 + 1e-9


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("p10 +0.016", "p10 +0.017"),
        ("a  0.99  x", "a 1.00 x"),
        ("67 % of", "68 % of"),
        ("−0.000", "+0.001"),
        (".55 and 3", ".56 and 3"),
    ],
)
def test_a_page_may_differ_by_the_last_printed_digit(here, there):
    assert differences(here, there) == []


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("+0.016", "+0.018"),
        ("3 trials", "4 trials"),
        ("0.5 is", "0.5 was"),
        ("one line", "one line\nanother"),
        ("0.61 0.5", "0.61"),
        ("DPO 0.61", "KTO 0.61"),
    ],
)
def test_a_page_may_differ_in_nothing_else(here, there):
    assert len(differences(here, there)) == 1
