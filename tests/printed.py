"""Compare a page that holds computed numbers with what is computed here: words as text, numbers as numbers."""

from __future__ import annotations

import re
from itertools import zip_longest

NUMBER = re.compile(r"(?<![\w.])[+\-−]?(?:\d*\.\d+(?:[eE][+-]?\d+)?|\d+(?= ?%))")
"""A number with decimals, or a percentage. Other whole numbers are counts, which are the same everywhere."""


def differences(found: str, expected: str, digits: float = 1.0) -> list[str]:
    """List where two pages differ by more than rounding: in words, or by over `digits` units of a number's last decimal.

    A number that lies on the border between two roundings is printed as either, and the spaces around it move with it.
    """
    problems = []
    for number, (ours, theirs) in enumerate(
        zip_longest(found.splitlines(), expected.splitlines(), fillvalue=""), start=1
    ):
        words = [" ".join(NUMBER.sub("#", line).split()) for line in (ours, theirs)]
        pairs = list(zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=False))
        if words[0] != words[1] or any(not _alike(*pair, digits) for pair in pairs):
            problems.append(f"line {number}: {ours!r} is {theirs!r} on the page")
    return problems


def _alike(one: str, other: str, digits: float) -> bool:
    unit = max(10.0 ** -_decimals(one), 10.0 ** -_decimals(other))
    return abs(_value(one) - _value(other)) <= digits * unit * (1 + 1e-9)


def _value(text: str) -> float:
    return float(text.replace("−", "-"))


def _decimals(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)
