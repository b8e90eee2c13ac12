"""Where a run's score comes from: its hyperparameters, its seed, the prompts, or chance."""

from __future__ import annotations

import math

import pandas as pd

from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.certainty.part import compared
from posweep.report.drawing.variance import variance_shares
from posweep.report.tables import Tables, title
from posweep.robustness import Components, variance_components

PARTS = {
    "hyperparameters": "what the choice of configuration moves",
    "seeds": "the seed, and what a configuration makes of it",
    "prompts": "which prompts were asked, and how configurations suit them",
    "residual": "the luck of single responses",
}
MERGED = {
    "seed": "With one seed nothing is known of seeds: what it does to a configuration is counted with the hyperparameters",
    "prompt": "Without scores by prompt nothing is known of prompts: they are counted with the rest",
}


def variance(tables: Tables) -> Part:
    """Variance components of each method; nothing where nothing can be told apart."""
    found = {method: variance_components(tables.scores(method)) for method in compared(tables)}
    known = {method: one for method, one in found.items() if total(one) > 0}
    silences = _silences(found, known)
    if not known:
        return Part(silences=silences)
    data = pd.DataFrame([_row(method, one) for method, one in known.items()])
    caption = _caption(tables, list(known.values()))
    sheet = Sheet("variance_components", f"Variance components of {tables.metric}", caption, data, _columns())
    figure = variance_shares(data, list(PARTS), tables.note)
    drawing = Drawing("variance_shares", f"What moves a run's {tables.metric}", caption, data, figure)
    return Part(sheets=(sheet,), drawings=(drawing,), silences=silences)


def _silences(found: dict[str, Components], known: dict[str, Components]) -> tuple[str, ...]:
    """Methods of which nothing is told apart, and why."""
    unknown = [title(method) for method in found if method not in known]
    if not unknown:
        return ()
    who = "any method" if not known else ", ".join(unknown)
    return (
        f"Where the variance of {who} comes from: that takes two configurations that finished with every seed, and two "
        "seeds or two prompts, whose scores differ.",
    )


def total(found: Components) -> float:
    """The variance of a run's score: the sum of the parts that are known."""
    return sum(value for value in found.of_a_run().values() if not math.isnan(value))


def _row(method: str, found: Components) -> dict[str, object]:
    parts = found.of_a_run()
    return {
        "method": method,
        "complete": found.complete,
        "dropped": found.dropped,
        "deviation": math.sqrt(total(found)),
        **{f"{name}_share": value / total(found) for name, value in parts.items()},
        **{f"{name}_variance": value for name, value in parts.items()},
        **{f"term {name}": value for name, value in found.terms.items()},
        "cut_at_zero": "; ".join(found.cut),
    }


def _columns() -> dict[str, Column]:
    return {
        "method": Column("method", "method"),
        "complete": Column("configurations used", "count"),
        "dropped": Column("incomplete, dropped", "count"),
        "deviation": Column("standard deviation of a run's score"),
        **{f"{name}_share": Column(name, "percent", digits=4) for name in PARTS},
    }


def _caption(tables: Tables, found: list[Components]) -> str:
    """What the parts mean, what could not be told apart, and what was cut."""
    prompts, seeds = found[0].prompts, len(tables.seeds)
    mean = f"its mean over {prompts} prompts" if prompts > 1 else "one number a run"
    meanings = "; ".join(f"{name}: {words}" for name, words in PARTS.items())
    merged = " ".join(f"{MERGED[name]}." for name in found[0].unseen if name in MERGED)
    cut = sum(bool(one.cut) for one in found)
    below = f" Negative estimates stand at 0 (in {cut} of {len(found)} methods)." if cut else ""
    rest = f" The seeds' part rests on {seeds - 1} degree{'s' * (seeds > 2)} of freedom." if seeds > 1 else ""
    return (
        f"Variance of a run's score ({mean}) about the method's mean, by where it comes from, in shares that add up to "
        f"100 %: {meanings}. Unbiased estimates from mean squares over configurations that finished with every seed; no "
        f"interval is given.{rest}{below} {merged}"
    ).strip()
