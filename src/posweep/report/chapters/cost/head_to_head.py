"""Methods against each other, response by response, at their best and at their median configuration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.cost.sweep import SAID, SIGNIFICANT, Sweep, ends
from posweep.report.drawing.matrix import matrices
from posweep.report.tables import title
from posweep.robustness import (
    Interval,
    configuration_scores,
    crossed_interval,
    head_to_head,
    holm,
    p_value,
    pick_best,
    pick_median,
)
from posweep.robustness.chosen import filled

Table = NDArray[np.float64]

PICKS = {"best": pick_best, "median": pick_median}
COUPLED = (
    "With one seed, the responses compared share their sampling noise: alike policies tie, and elsewhere luck common to "
    "both is gone, so that small steady differences count for more than between independent responses"
)
APART = "Responses compared are of different seeds, which share no sampling noise"


def compared(sweep: Sweep) -> Part:
    """The part of the chapter about direct comparisons."""
    scores = _scores(sweep)
    if len(sweep.methods) < 2:
        return Part(silences=("There is one method only: nothing to compare head to head.",))
    if isinstance(scores, str):
        return Part(silences=(scores,))
    if len(scores) < 2:
        return Part(silences=("Fewer than two methods have a score for every response: no head-to-head.",))
    found = {at: _outcomes(sweep, scores, at) for at in PICKS}
    data = pd.concat([_table(list(scores), at, *result) for at, result in found.items()], ignore_index=True)
    over = next(iter(found.values()))[0].over
    return Part(_words(data), (_sheet(sweep, data, over),), (_drawing(sweep, list(scores), data, over),))


def _scores(sweep: Sweep) -> dict[str, Table] | str:
    """The judge's score of every response, by method; why not, where they cannot be had."""
    if sweep.prompts < 2:
        return "A head-to-head needs scores by response, which this record does not hold."
    tables = {m: sweep.scores(m, f"{sweep.place}/{sweep.judged}/mean_score") for m in sweep.methods}
    whole = {m: t for m, t in tables.items() if t.shape == sweep.wins[m].shape and np.isfinite(t).any()}
    if not whole:
        return f"No scores of single responses are stored for {sweep.judged}, as of any judge that only compares."
    return whole


def _outcomes(sweep: Sweep, scores: dict[str, Table], at: str) -> tuple[Interval, Table]:
    """Win-rates of all pairs with their intervals, and the share of ties; (methods, methods)."""
    selections = [filled(sweep.wins[method]).mean(axis=1) for method in scores]
    wins, ties = head_to_head(list(scores.values()), selections, PICKS[at], sweep.splits(1))
    count = len(scores)
    pairs = [(i, j) for i, j in combinations(range(count), 2)]
    table = np.stack([wins[i, j] for i, j in pairs])
    found = crossed_interval(
        lambda sample: configuration_scores(table, sample), sweep.seeds, sweep.prompts, sweep.rng()
    )
    return found, np.array([ties[i, j].mean() for i, j in pairs])


def _table(methods: list[str], at: str, found: Interval, ties: Table) -> pd.DataFrame:
    adjusted = holm(p_value(found, 0.5))
    rows = [
        {"at": at, "method": one, "other": other, **ends("win_rate", found[place]), "ties": float(ties[place])}
        for place, (one, other) in enumerate(combinations(methods, 2))
    ]
    return pd.DataFrame(rows).assign(p_holm=adjusted)


def _sheet(sweep: Sweep, data: pd.DataFrame, over: str) -> Sheet:
    caption = (
        f"How often {sweep.judged} scores the response of the first method above that of the second on the same prompt of "
        f"{sweep.place}, ties half; each at its best and at its median configuration, chosen by win-rate on one half of the "
        f"prompts and compared on the other. {APART if sweep.seeds > 1 else COUPLED}. Intervals: 95 %, over {over}, and "
        "these configurations; p-values after Holm over all pairs."
    )
    columns = {
        "at": Column("at", "text"),
        "method": Column("method", "method"),
        "other": Column("against", "method"),
        "win_rate": Column("win-rate", interval=("win_rate_low", "win_rate_high")),
        "ties": Column("ties", "percent"),
        "p_holm": Column("p", "p"),
    }
    return Sheet("head_to_head", "Head to head, from stored responses", caption, data, columns)


def _words(data: pd.DataFrame) -> tuple[str, ...]:
    found = []
    for at, rows in data.groupby("at", sort=False):
        sure = rows[rows["p_holm"] < SIGNIFICANT]
        if len(sure) > SAID:
            found.append(f"At the {at} configuration {len(sure)} of {len(rows)} pairs differ beyond doubt (Holm).")
        else:
            found += [_sentence(str(at), row) for row in sure.to_dict("records")]
    return tuple(found)


def _sentence(at: str, row: dict[str, float | str]) -> str:
    value, low, high = (float(row[name]) for name in ("win_rate", "win_rate_low", "win_rate_high"))
    names = title(str(row["method"])), title(str(row["other"]))
    if value < 0.5:
        names, value, low, high = names[::-1], 1 - value, 1 - high, 1 - low
    return f"Head to head at the {at} configuration, {names[0]} beats {names[1]}: {value:.3f} [{low:.3f}, {high:.3f}]."


def _drawing(sweep: Sweep, methods: list[str], data: pd.DataFrame, over: str) -> Drawing:
    caption = (
        f"Share of prompts of {sweep.place} on which the row's response scores above the column's, in %, ties half; each "
        f"method at the configuration named, chosen on the other half of the prompts. Bold: differs from 50 after Holm, by "
        f"intervals over {over}. {APART if sweep.seeds > 1 else COUPLED}."
    )
    figure = matrices(data, list(PICKS), methods, SIGNIFICANT, sweep.tables.note)
    return Drawing("head_to_head_matrix", "Head to head between methods", caption, data, figure)
