"""The distribution over everything beside the distribution at the tuned learning rate."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from posweep.report.chapter import Column, Part, Sheet
from posweep.report.chapters.certainty.part import (
    RATE,
    SEED,
    compared,
    described,
    described_columns,
    described_values,
    interval,
)
from posweep.report.drawing.axes import number
from posweep.report.tables import Tables
from posweep.robustness import at_chosen_levels, chosen_levels, configuration_scores, halves
from posweep.robustness.crossed import Statistic

SPLITS = 4  # halvings of the prompts
SIDES = {"all": "over everything", "tuned": "at the tuned rate"}


def tuned(tables: Tables) -> Part:
    """Median, interquartile mean and 10th percentile over everything and at the tuned learning rate."""
    methods = [m for m in compared(tables) if RATE in tables.settings(m)]
    if not methods:
        return Part()
    if tables.prompts() < 2:
        return Part(
            silences=("What tuning the learning rate alone would give: without scores by prompt it would flatter.",)
        )
    rows = [_row(tables, method) for method in methods]
    over = rows[0].pop("over")
    data = pd.DataFrame(rows)
    caption = (
        f"{tables.metric} over configurations (means over seeds). At the tuned rate: the learning rate whose configurations "
        "do best on average is chosen on one half of the prompts, its configurations are scored on the other half, and the "
        f"mean is taken over {SPLITS} halvings both ways; chosen: how often each rate was. Intervals: 95 %, over {over}, "
        "given the configurations and the choices. Diverged trials are dropped. A method that gains much here needs its "
        "learning rate tuned."
    )
    return Part(sheets=(Sheet("at_tuned_rate", "If the learning rate alone is tuned", caption, data, _columns()),))


def _row(tables: Tables, method: str) -> dict[str, Any]:
    """Both distributions in three numbers each, and which rates were chosen."""
    table, rates = tables.scores(method), list(tables.points(method)[RATE])
    splits = halves(table.shape[2], np.random.default_rng(SEED), SPLITS)
    choices = chosen_levels(table, rates, splits)
    statistics: dict[str, Statistic] = {
        "all": lambda sample: described(configuration_scores(table, sample)),
        "tuned": partial(at_chosen_levels, table, rates, choices, described),
    }
    found = {name: interval(tables, statistic) for name, statistic in statistics.items()}
    values = {name: value for side, one in found.items() for name, value in described_values(one, side).items()}
    counted = Counter(rate for rate, _ in choices)
    chosen = ", ".join(f"{number(rate)}: {count / len(choices):.0%}" for rate, count in counted.most_common())
    return {"method": method, "chosen": chosen, "over": found["all"].over, **values}


def _columns() -> dict[str, Column]:
    return {"method": Column("method", "method"), "chosen": Column("chosen", "text"), **described_columns(SIDES)}
