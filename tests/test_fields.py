"""What a value may be, and what is said of one that is not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from posweep.fields import About, Scope, about, build, choice, number, plain, range_problems, scoped, typed


@dataclass(frozen=True)
class Inner:
    """Nested settings."""

    steps: int = number(10, at_least=0)


@dataclass(frozen=True)
class Outer:
    """Settings of every kind of field."""

    rate: float = number(0.1, above=0, symbol="η")
    share: float = number(0.5, at_least=0, below=1, scope="response")
    word: str = choice("one", "one", "two", scope="none")
    points: tuple[float, ...] = number((1.0,), above=0, at_most=1)
    name: str | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        (About(), ""),
        (About(above=0), "> 0"),
        (About(above=0, below=1), "> 0 and < 1"),
        (About(at_least=0, at_most=0.5), ">= 0 and <= 0.5"),
        (About(choices=("one", "two")), "one of one, two"),
    ],
)
def test_the_rule_in_words(known, rule):
    assert known.rule() == rule


@pytest.mark.parametrize(
    ("known", "good", "bad"),
    [
        (About(), [0, -1e300, 1], [math.nan, math.inf]),
        (About(above=0), [1e-9, 5], [0, 0.0, -1]),
        (About(at_least=0), [0, 1], [-1e-9]),
        (About(below=1), [0.999], [1, 1.0]),
        (About(at_most=1), [1, 1.0], [1.001]),
        (About(above=0, at_most=1), [[0.5, 1.0], (), (1,)], [(0.5, 0.0), [2.0]]),
        (About(choices=("one", "two")), ["one"], ["three", 1]),
        (About(above=5), [None, "text", True], []),
    ],
)
def test_what_a_range_allows(known, good, bad):
    assert [known.allows(value) for value in good] == [True] * len(good)
    assert [known.allows(value) for value in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (2, float, 2.0),
        (2.5, float, 2.5),
        (2, int, 2),
        (2.0, int, 2),
        ("text", str, "text"),
        (True, bool, True),
        (None, int | None, None),
        (2.0, int | None, 2),
        (None, str | None, None),
        ([1, 2.0], tuple[int, ...], (1, 2)),
        ((), tuple[float, ...], ()),
        ([1], tuple[float, ...] | None, (1.0,)),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        ({1: "a"}, Mapping[str, str], {"1": "a"}),
        ([{"a": 1}], tuple[Mapping[str, Any], ...], ({"a": 1},)),
        ({"a": [1]}, Mapping[str, tuple[Any, ...]], {"a": (1,)}),
        (object, Any, object),
    ],
)
def test_values_become_their_declared_type(value, annotation, expected):
    found = typed(value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "words"),
    [
        ("2", float, "must be a number, got '2'"),
        (True, float, "must be a number, got True"),
        (None, float, "must be a number, got None"),
        (2.5, int, "must be a whole number, got 2.5"),
        (True, int, "must be a whole number, got True"),
        (math.inf, int, "must be a whole number, got inf"),
        ("x", int | None, "must be a whole number, got 'x'"),
        (1, str, "must be text, got 1"),
        (1, bool, "must be true or false, got 1"),
        (3, tuple[int, ...], "must be a list, got 3"),
        ("ab", tuple[str, ...], "must be a list, got 'ab'"),
        ([1, "x"], tuple[int, ...], "must be a whole number, got 'x'"),
        ([1], Mapping[str, int], r"must be a mapping, got \[1\]"),
        ({"a": "x"}, Mapping[str, int], "must be a whole number, got 'x'"),
    ],
)
def test_what_is_no_such_type_is_refused_in_words(value, annotation, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        typed(value, annotation)


def test_build_takes_what_is_given_and_keeps_the_other_defaults():
    problems: list[str] = []
    built = build(Outer, {"rate": 1, "points": [0.5, 1], "inner": {"steps": 3.0}}, "outer", problems)
    assert built == Outer(rate=1.0, points=(0.5, 1.0), inner=Inner(3))
    assert problems == []


def test_build_collects_all_mistakes():
    problems: list[str] = []
    values = {"rate": 0, "share": "half", "word": "three", "inner": {"steps": -1, "stesp": 1}, "nmae": "x"}
    built = build(Outer, values, "outer", problems)
    assert sorted(problems) == [
        "outer.inner.steps: steps must be >= 0, got -1.",
        "outer.inner.stesp: no such setting; outer.inner takes steps.",
        "outer.nmae: no such setting; outer takes rate, share, word, points, name, inner.",
        "outer.rate: η must be > 0, got 0.0.",
        "outer.share: must be a number, got 'half'.",
        "outer.word: word must be one of one, two, got 'three'.",
    ]
    assert built == Outer()


@pytest.mark.parametrize("values", [None, 3, [1]])
def test_build_refuses_what_is_no_mapping(values):
    problems: list[str] = []
    assert build(Outer, values, "outer", problems) == Outer()
    assert problems == [f"outer: must be a mapping of settings, got {values!r}."]


def test_range_problems_name_place_symbol_rule_and_value():
    assert range_problems(Outer, {"rate": 0.0, "share": 0.5, "points": (0.5, 2.0), "elsewhere": -1}, "x") == [
        "x.rate: η must be > 0, got 0.0.",
        "x.points: points must be > 0 and <= 1, got [0.5, 2.0].",
    ]


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        (("train",), {"rate", "points", "name", "inner"}),
        (("response",), {"share"}),
        (("none",), {"word"}),
        (("response", "none"), {"share", "word"}),
    ],
)
def test_scoped_takes_the_fields_of_a_key(scopes: tuple[Scope, ...], names):
    assert set(scoped(Outer(), *scopes)) == names


def test_what_was_not_declared_determines_the_weights():
    """The safe side: a field nobody thought about changes the key."""
    assert About().scope == "train"
    assert about(Outer.__dataclass_fields__["name"]) == About()


def test_plain_is_what_json_knows():
    assert plain(Outer()) == {
        "rate": 0.1, "share": 0.5, "word": "one", "points": [1.0], "name": None, "inner": {"steps": 10},
    }  # fmt: skip
    assert plain({1: (Inner(),)}) == {"1": [{"steps": 10}]}


def test_a_setting_that_came_later_enters_a_key_only_where_it_is_set():
    from posweep.fields import scoped
    from posweep.settings import HubModel

    assert "template_kwargs" not in scoped(HubModel(), "train")
    told = scoped(HubModel(template_kwargs={"enable_thinking": False}), "train")
    assert told["template_kwargs"] == {"enable_thinking": False}
