"""Every figure as a picture: no text over another, none beyond the edge; for one method, three and all there are."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from posweep.objectives import OBJECTIVES
from posweep.records import SweepRecord
from posweep.report.chapters import chapters
from posweep.report.drawing.style import publication
from posweep.report.tables import Tables

SLACK = 1.0  # pixels at 100 dots per inch: type has a little air around it


@dataclasses.dataclass(frozen=True)
class Box:
    """A text where it is drawn: the centre and size of its box, in pixels, turned by an angle in radians."""

    text: str
    x: float
    y: float
    width: float
    height: float
    angle: float

    def corners(self, slack: float = 0.0) -> np.ndarray:
        """(4, 2), each side moved inwards by `slack`."""
        half = np.array([self.width / 2 - slack, self.height / 2 - slack])
        turned = np.array([[math.cos(self.angle), -math.sin(self.angle)], [math.sin(self.angle), math.cos(self.angle)]])
        signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        return np.array([self.x, self.y]) + (signs * half) @ turned.T


def drawn_texts(figure: Figure) -> list[Box]:
    """Every text that matplotlib draws: what is invisible, empty or beyond an axis is never drawn."""
    seen: dict[int, Text] = {}
    draw = Text.draw

    def noting(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            seen[id(self)] = self
        return draw(self, renderer, *args, **kwargs)

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    with mock.patch.object(Text, "draw", noting):
        canvas.draw()
    return [box_of(text, canvas.get_renderer()) for text in seen.values()]


def box_of(text: Text, renderer) -> Box:
    """A text's own box, not the upright one around it when it is turned. Both have the same centre."""
    around = Text.get_window_extent(text, renderer)
    angle = text.get_rotation()
    text.set_rotation(0)
    own = Text.get_window_extent(text, renderer)
    text.set_rotation(angle)
    middle = (around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2
    return Box(text.get_text(), *middle, own.width, own.height, math.radians(angle))


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than their air: no line parallel to a side of either parts them."""
    first, second = one.corners(SLACK), other.corners(SLACK)
    for angle in (one.angle, one.angle + math.pi / 2, other.angle, other.angle + math.pi / 2):
        axis = np.array([math.cos(angle), math.sin(angle)])
        if (first @ axis).max() <= (second @ axis).min() or (second @ axis).max() <= (first @ axis).min():
            return False
    return True


def clashes(figure: Figure) -> list[str]:
    """Pairs of texts that overlap, and texts that leave the figure, in words."""
    boxes = drawn_texts(figure)
    width, height = figure.get_size_inches() * 100
    pairs = [f"{a.text!r} over {b.text!r}" for a, b in itertools.combinations(boxes, 2) if overlap(a, b)]
    out = [box.text for box in boxes if (box.corners(SLACK) < 0).any() or (box.corners(SLACK) > (width, height)).any()]
    unread = [f"{box.text!r} is TeX that is shown as it is" for box in boxes if "\\mathdefault" in box.text]
    return pairs + [f"{text!r} leaves the figure" for text in out] + unread


def figures(record: SweepRecord) -> Iterator[tuple[str, Figure]]:
    with publication():
        for chapter in chapters(Tables.of(record)):
            yield from ((f"{chapter.name}/{drawing.name}", drawing.figure) for drawing in chapter.drawings)


def everyone(made) -> SweepRecord:
    """Every method there is on DPO's grid."""
    plan = [
        dataclasses.replace(spec, key=f"{name}-{spec.key}", configuration=f"{name}-{spec.configuration}")
        for name in OBJECTIVES
        for spec in made.specs(("dpo",))
    ]
    record = made.record(tuple(plan), prompts=16, diverged=range(5, len(plan), 17), failed=(3,))
    renamed = (dataclasses.replace(spec, method=spec.key.partition("-")[0]) for spec in plan)
    return dataclasses.replace(record, plan=tuple(renamed))


SWEEPS = {
    "one method": lambda made: made.record(made.specs(("ln_dpo",))),
    "three methods": lambda made: made.record(made.specs(), diverged=(2,), failed=(14,), missing=(35,)),
    "three seeds": lambda made: made.record(made.specs(seeds=(0, 1, 2)), prompts=32, diverged=(2, 5)),
    "every method": everyone,
}


@pytest.mark.parametrize(
    "sweep", [pytest.param(name, marks=pytest.mark.torture) if name == "every method" else name for name in SWEEPS]
)
def test_no_text_hides_another_or_is_cut(sweep: str, made: SimpleNamespace):
    found = {name: clashes(figure) for name, figure in figures(SWEEPS[sweep](made))}
    assert found
    assert {name: problems[:5] for name, problems in found.items() if problems} == {}


def test_a_name_with_dollars_is_shown_as_it_is():
    """matplotlib takes what stands between two of them for mathematics."""
    with publication():
        figure = written((0.2, 0.5, "d$po$ [v_1]", 0))
    assert [text.get_parse_math() for text in figure.texts] == [False]
    assert [box.text for box in drawn_texts(figure)] == ["d$po$ [v_1]"]


# --- the instrument itself


def written(*texts: tuple[float, float, str, float]) -> Figure:
    figure = Figure(figsize=(4, 3))
    for x, y, words, angle in texts:
        figure.text(x, y, words, rotation=angle)
    return figure


def test_an_overlap_is_found():
    assert clashes(written((0.3, 0.5, "below", 0), (0.32, 0.51, "above", 0))) == ["'below' over 'above'"]
    assert clashes(written((0.3, 0.5, "below", 0), (0.3, 0.6, "above", 0))) == []


def test_tick_labels_that_touch_are_found():
    figure = Figure(figsize=(6, 3))
    figure.subplots().set_xticks([0, 0.05, 1], ["first tick", "second tick", "last"])
    assert clashes(figure) == ["'first tick' over 'second tick'"]


def test_what_is_empty_or_invisible_is_no_text():
    figure = written((0.3, 0.5, "below", 0), (0.3, 0.5, " ", 0), (0.3, 0.5, "hidden", 0))
    figure.texts[-1].set_visible(False)
    assert clashes(figure) == []


def test_turned_texts_may_stand_closer_than_their_upright_boxes():
    lines = [(0.2, 0.3, "a long label on a slant", 45.0), (0.28, 0.3, "another one beside it", 45.0)]
    assert clashes(written(*lines)) == []
    assert clashes(written(lines[0], (0.22, 0.3, "another one on it", 45.0))) != []


def test_a_text_beyond_the_edge_is_found():
    assert clashes(written((0.9, 0.5, "much too long for here", 0))) == ["'much too long for here' leaves the figure"]
