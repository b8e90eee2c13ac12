"""Whether the order of methods may be printed: FIELD's rule, variant by variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.chapter import Column, Part, Sheet
from posweep.report.chapters.certainty.part import PERCENT, RATE, SEED, compared, drawn, middles, scores
from posweep.report.drawing.axes import number, symbol
from posweep.report.tables import Diverged, Tables, title
from posweep.robustness import (
    Ranking,
    Sample,
    configuration_scores,
    ranking,
    typical_differences,
    typical_of,
)
from posweep.robustness.ranking import order as ordered

Kept = dict[str, NDArray[np.bool_]]
"""Method → which of its configurations a variant keeps."""

BASE = "all configurations, diverged dropped"
WORST = "diverged at the worst value"
LEVELS = 12  # of a hyperparameter: one that takes more has no outer level to drop
AT_EASE = 8  # methods whose order fits a cell
FIRST = 3  # of more, these are named
COLUMNS = {
    "variant": Column("variant", "text"),
    "order": Column("order by interquartile mean", "text"),
    "first": Column(f"first {FIRST} by interquartile mean", "text"),
    "contradicts": Column("turns round", "text"),
}


def order(tables: Tables) -> Part:
    """The order of methods by interquartile mean, what each variant makes of it, and whether it may be printed."""
    methods = compared(tables)
    if len(methods) < 2:
        return Part()
    differences = typical_differences(scores(tables, methods), np.random.default_rng(SEED))
    values = dict(variants(tables, methods))
    found = ranking(values[BASE], differences.adjusted, values)
    sheet = _sheet(tables, methods, values, found, differences.over)
    if not drawn(tables):
        return Part(
            sheets=(sheet,), silences=("A ranking: nothing can be drawn, so no difference is known to be one.",)
        )
    return Part(_words(found, len(values) - 1), (sheet,), finding=_finding(tables, methods, found, differences.over))


def variants(tables: Tables, methods: list[str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The interquartile means under every choice that a reader could as well have made, (methods,) each."""
    everything = {method: np.ones(len(tables.points(method)), dtype=np.bool_) for method in methods}
    yield BASE, _middles(tables, everything)
    if (tables.trials["status"] == "diverged").any():
        yield WORST, _middles(tables, everything, "worst")
    for name, kept in (*_priors(tables, everything), *_outer_levels(tables, everything)):
        yield name, _middles(tables, kept)
    counts = {method: int(np.isfinite(_means(tables, method)).sum()) for method in methods}
    if len(set(counts.values())) > 1:
        rng, least = np.random.default_rng(SEED), min(counts.values())
        means = [typical_of(_means(tables, method), least, rng) for method in methods]
        yield f"{least} configurations of each", np.array(means)


def _middles(tables: Tables, kept: Kept, diverged: Diverged = "dropped") -> NDArray[np.float64]:
    return middles([tables.scores(method, diverged=diverged)[rows] for method, rows in kept.items()])


def _means(tables: Tables, method: str) -> NDArray[np.float64]:
    table = tables.scores(method)
    return configuration_scores(table, Sample.everything(*table.shape[1:]))[0]


def _priors(tables: Tables, everything: Kept) -> Iterator[tuple[str, Kept]]:
    """Each prior alone, for the methods that were searched under several."""
    priors = {method: tables.points(method)["prior"] for method in everything}
    several = {method for method, found in priors.items() if found.nunique() > 1}
    for prior in dict.fromkeys(prior for method in several for prior in sorted(set(priors[method]))):
        kept = {m: (priors[m] == prior).to_numpy() if m in several else rows for m, rows in everything.items()}
        yield (
            f"prior {prior} alone, where several were run",
            {m: kept[m] if kept[m].any() else everything[m] for m in kept},
        )


def _outer_levels(tables: Tables, everything: Kept) -> Iterator[tuple[str, Kept]]:
    """Without the lowest or the highest level of the learning rate, for all methods that have it, or of one method's own."""
    levels = {method: _levels(tables, method) for method in everything}
    shared = [value for found in levels.values() for value in ends(found.get(RATE, ()))]
    for value in sorted(set(shared)):
        rates = {m: found[RATE] for m, found in levels.items() if value in ends(found.get(RATE, ()))}
        yield (
            f"without learning rate {number(value)}",
            everything | {m: (r != value).to_numpy() for m, r in rates.items()},
        )
    for method, found in levels.items():
        for name, values in found.items():
            for value in ends(values) if name != RATE else ():
                words = f"{title(method)} without {symbol(method, name)} {number(value)}"
                yield words, everything | {method: (values != value).to_numpy()}


def _levels(tables: Tables, method: str) -> dict[str, pd.Series]:
    """The settings of a method that lie on levels, with their values; points drawn at random lie on none."""
    points = tables.points(method)
    if not points["design"].isin(["grid", "list"]).all():
        return {}
    numbers = {name: pd.to_numeric(points[name], errors="coerce") for name in tables.settings(method)}
    return {name: found for name, found in numbers.items() if found.notna().all() and found.nunique() <= LEVELS}


def ends(values: Iterable[float]) -> tuple[float, ...]:
    """The lowest and the highest of several levels."""
    levels = set(values)
    return (min(levels), max(levels)) if len(levels) > 1 else ()


def _sheet(
    tables: Tables, methods: list[str], values: Mapping[str, NDArray[np.float64]], found: Ranking, over: str
) -> Sheet:
    rows = [
        {
            "variant": name,
            "order": ranks(methods, found) if name == BASE else ", ".join(title(methods[i]) for i in ordered(mine)),
            "first": ", ".join(title(methods[i]) for i in ordered(mine)[:FIRST]),
            "contradicts": ", ".join(pair(methods, turned) for turned in found.broken.get(name, ())),
            **dict(zip(methods, mine, strict=True)),
        }
        for name, mine in values.items()
    ]
    data = pd.DataFrame(rows)
    hidden = "first" if len(methods) <= AT_EASE else "order"
    shown = {name: column for name, column in COLUMNS.items() if name != hidden}
    caption = (
        f"Interquartile mean of {tables.metric} over configurations. “>”: every method before it differs significantly "
        f"from every method after it ({PERCENT}, Student's t, Holm over all pairs; over {over}, given the configurations); "
        "“≈”: not known to differ. A ranking is printed only if no variant turns a significant difference round; an order "
        "without one claims nothing. The CSV file holds the order and the means under every variant."
    )
    return Sheet("ranking", "Would another choice of ours turn the order round?", caption, data, shown, limit=40)


def ranks(methods: list[str], found: Ranking) -> str:
    """The order with what is known of it: `LN-DPO > DPO ≈ SimPO`."""
    return " > ".join(" ≈ ".join(title(methods[place]) for place in tier) for tier in found.tiers)


def pair(methods: list[str], turned: tuple[int, int]) -> str:
    """A claim that a variant contradicts: `LN-DPO > DPO`."""
    return " > ".join(title(methods[place]) for place in turned)


def _words(found: Ranking, others: int) -> tuple[str, ...]:
    """What survives: the ranking, or some of the differences."""
    claims, kept = len(found.claims), len(found.kept)
    if not claims:
        return ("No order of methods is printed: none of their interquartile means differ significantly.",)
    differences = f"{claims} significant difference{'s' * (claims != 1)} between interquartile means"
    if found.survives:
        survived = (
            f"{'all' if claims > 1 else 'it'} survive{'s' * (claims == 1)} the {others} variants of the analysis below"
        )
        return (
            f"The order may be printed as far as it is significant: there {_is(claims)} {differences}, and {survived}.",
        )
    return (
        f"No order of methods is printed: there {_is(claims)} {differences}, of which variants of the analysis turn "
        f"{claims - kept} round ({len(found.broken)} of {others} variants do). What stays may be said pair by pair.",
    )


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _finding(tables: Tables, methods: list[str], found: Ranking, over: str) -> str:
    """What survives every variant: the ranking of a few methods, pairs of them, or who is ahead of how many."""
    if not found.kept:
        return ""
    if len(methods) > AT_EASE:
        said = f"ahead of others: {_ahead(methods, found)}"
    elif found.survives and len(found.tiers) > 1:
        said = ranks(methods, found)
    else:
        said = "; ".join(pair(methods, claim) for claim in found.kept) + "; no more is known of the order"
    return (
        f"By the interquartile mean of {tables.metric} over configurations: {said} (significant at {PERCENT} after Holm, "
        f"and not turned round by any variant of the analysis; over {over})."
    )


def _ahead(methods: list[str], found: Ranking) -> str:
    """The methods that are ahead of most others: `KTO (of 12), CPO (of 9), …`."""
    counts = Counter(better for better, _ in found.kept).most_common(FIRST)
    return ", ".join(f"{title(methods[place])} (of {count})" for place, count in counts)
