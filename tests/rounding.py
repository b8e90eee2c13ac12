"""How near two numbers are that only rounding tells apart. No test holds the last digit of one processor.

A processor chooses how a sum is split (vector width, fused multiply-add, threads), and a number that is a sum of `terms`
products moves by up to `terms` units in the last place of the largest of them: |found − expected| ≤ terms · ε · scale. Every
comparison of numbers that were computed in two ways takes its tolerance from here (`tests/test_rounding.py` holds that).
Tolerances of another kind, such as the error of a simulation, stand where they are used.
"""

from __future__ import annotations

from typing import Any

import pytest

EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}
FORWARD = 256
"""Roundings on the way to one output of the suite's small models: two layers, at most 64 wide, over at most 200 words."""
BACKWARD = 1024
"""Roundings on the way to one gradient or one step of theirs: a forward pass, the way back, and a sum over the batch."""


def rounding(terms: float = FORWARD, dtype: str = "float32") -> float:
    """Return the largest relative difference that `terms` roundings make: terms · ε."""
    return terms * EPSILON[dtype]


def near(expected: Any, terms: float = FORWARD, dtype: str = "float32", scale: float = 1.0) -> Any:
    """Return what equals numbers that differ from `expected` by rounding alone, each relative to its own size.

    Args:
        expected: a number, or a sequence or array of numbers.
        terms: roundings on the way to one of them.
        dtype: in which the less exact of the two was computed.
        scale: the numbers that were added up, where the result is smaller: normalised activations are near 1.
    """
    return pytest.approx(expected, rel=rounding(terms, dtype), abs=rounding(terms, dtype) * scale)


def assert_near(found: Any, expected: Any, terms: float = BACKWARD, scale: float | None = None) -> None:
    """Check that two float32 tensors differ by rounding alone.

    Args:
        terms: roundings on the way to one of their numbers.
        scale: the largest number that was added up; by default the largest of `expected`, for the small entries of a
            gradient are what is left of large ones.
    """
    import torch

    size = float(expected.detach().abs().max()) if scale is None else scale
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(terms) * size)
