"""Method against method: how likely a random run of one beats a random run of the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.certainty.part import LEVEL, PERCENT, SEED, compared, drawn, few_seeds, middles, scores
from posweep.report.drawing.improvement import improvement_matrix as draw
from posweep.report.tables import Tables, title
from posweep.robustness import Improvement, improvement_matrix
from posweep.robustness.ranking import order

COLUMNS = {
    "method": Column("method", "method"),
    "other": Column("against", "method"),
    "probability": Column("a random run is ahead", digits=2, interval=("low", "high")),
    "probability_of_means": Column("a random configuration is ahead", digits=2, interval=("means_low", "means_high")),
    "p": Column("p", "p"),
    "p_holm": Column("p (Holm)", "p"),
}
MEANING = (
    "How likely a random run (configuration × seed) of the one method scores higher than a random run of the other, ties "
    "half; ½ is even. It says how often, not by how much"
)


def improvement(tables: Tables) -> Part:
    """The probability of improvement of every pair; nothing to say of fewer than two methods."""
    methods = compared(tables)
    if len(methods) < 2:
        return Part(silences=("Whether one method beats another: fewer than two have a score.",))
    values = scores(tables, methods)
    found = improvement_matrix(values, np.random.default_rng(SEED))
    ahead = [methods[place] for place in order(middles(values))]
    matrix = _long(methods, found)
    pairs = _once(matrix, ahead)
    sheet, drawing = _sheet(tables, pairs, found), _drawing(tables, matrix, ahead, found)
    return Part(_words(tables, pairs), (sheet,), (drawing,), tuple(_silences(tables, methods)))


def _silences(tables: Tables, methods: list[str]) -> Iterator[str]:
    """Methods that stand in no comparison, and comparisons of which nothing is known."""
    absent = [title(method) for method in tables.methods if method not in methods]
    if absent:
        yield f"How the others compare with {', '.join(absent)}: no trial of theirs has a score."
    if not drawn(tables):
        yield "Whether a difference between methods is luck: one seed and no scores by prompt."


def _long(methods: list[str], found: Improvement) -> pd.DataFrame:
    """One row per cell of the matrix, method against other."""
    rows, columns = np.indices(found.p.shape).reshape(2, -1)
    names = np.array(methods, dtype=object)
    return pd.DataFrame(
        {
            "method": names[rows],
            "other": names[columns],
            "probability": found.runs.value.ravel(),
            "low": found.runs.low.ravel(),
            "high": found.runs.high.ravel(),
            "probability_of_means": found.means.value.ravel(),
            "means_low": found.means.low.ravel(),
            "means_high": found.means.high.ravel(),
            "p": found.p.ravel(),
            "p_holm": found.adjusted.ravel(),
        }
    )


def _once(matrix: pd.DataFrame, ahead: list[str]) -> pd.DataFrame:
    """Every pair once, from the side that is ahead, the surest first."""
    places = {method: place for place, method in enumerate(ahead)}
    own, other = matrix["method"].map(places), matrix["other"].map(places)
    chance = matrix["probability"]
    kept = matrix[(chance > 0.5) | ((chance == 0.5) & (own < other))]
    return kept.sort_values(["p_holm", "probability"], ascending=[True, False], kind="stable", ignore_index=True)


def _words(tables: Tables, pairs: pd.DataFrame) -> tuple[str, ...]:
    if not drawn(tables):
        return ()
    sure = int((pairs["p_holm"] < LEVEL).sum())
    counted = "none differs" if not sure else f"{sure} differ{'s' * (sure == 1)}"
    many = f"Of {len(pairs)} pairs of methods" if len(pairs) > 1 else "Of one pair of methods"
    words = f"{many}, {counted} significantly in whose runs beat whose ({PERCENT}, Holm over all pairs)."
    return (words, *filter(None, [few_seeds(tables)]))


def _sheet(tables: Tables, pairs: pd.DataFrame, found: Improvement) -> Sheet:
    caption = (
        f"{MEANING}. Of configurations: each the mean of its seeds. Intervals: 95 %, over {found.runs.over}, and given the "
        "configurations; none where no draw changes the verdict. p: Student's t, the larger of two: that the probability "
        "is ½, and that the interquartile means agree; 1 where the two point different ways. Holm: read all pairs together."
    )
    return Sheet("improvement", f"Method against method on {tables.metric}", caption, pairs, COLUMNS, limit=30)


def _drawing(tables: Tables, matrix: pd.DataFrame, ahead: list[str], found: Improvement) -> Drawing:
    marked = f"significant at {PERCENT} after Holm over all pairs"
    caption = (
        f"{MEANING}. Row against column; framed or dotted: {marked}. Intervals are over {found.runs.over}. Methods stand in "
        "the order of their interquartile means, which by itself claims nothing."
    )
    figure = draw(matrix, ahead, LEVEL, tables.note)
    return Drawing(
        "improvement_matrix", "How likely a run of one method beats a run of another", caption, matrix, figure
    )
