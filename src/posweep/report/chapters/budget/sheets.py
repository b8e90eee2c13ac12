"""The tables of the chapter: what a budget buys of each method, and which share of its configurations will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from posweep.report.chapter import Column, Sheet
from posweep.report.chapters.budget.numbers import NAMED, Method, Numbers, gpus, selection_metric
from posweep.report.tables import Tables
from posweep.robustness import Beating, beating, configuration_scores, robust_share
from posweep.robustness.crossed import Sample

COST = 0.95
FITTED = (
    "Expected best of n: what the best of n configurations, drawn at random from those that finished, is expected to "
    "score on other prompts than those it is picked on (cross-fitted: the luck of having been picked is gone)"
)
PLAIN = (
    "Expected best of n: the highest score of n configurations drawn at random from those that finished; without scores "
    "by prompt it is picked by the number that is reported, which flatters"
)


@dataclass(frozen=True)
class Unit:
    """What time is counted in."""

    words: str
    column: str
    per_hour: float

    @classmethod
    def of(cls, tables: Tables, numbers: Numbers) -> Unit:
        """Minutes where the longest search took less than an hour; of GPUs where a trial has one."""
        longest = max((m.hours * m.count for m in numbers.methods if m.hours > 0), default=0.0)
        what, factor = ("hours", 1.0) if longest >= 1 else ("minutes", 60.0)
        if gpus(tables):
            return cls(f"GPU-{what}", f"gpu_{what}", factor)
        return cls(f"{what} of one worker", what, factor)


def budget_sheet(tables: Tables, numbers: Numbers, unit: Unit) -> Sheet:
    """One row per method: the expected best of few and of many trials, and what it takes to get there."""
    data = pd.DataFrame([_budget_row(numbers, method, unit) for method in numbers.methods])
    columns = {"method": Column("method", "method"), "configurations": Column("configurations", "count")}
    for n in numbers.budgets:
        columns[f"best_of_{n}"] = _number(f"best_of_{n}", f"expected best of {n}")
    if numbers.worst:
        few = numbers.budgets[min(1, len(numbers.budgets) - 1)]
        columns[f"best_of_{few}_diverged_worst"] = _number(
            f"best_of_{few}_diverged_worst", f"of {few}, diverged trials at the worst"
        )
    if "chosen_in_distribution" in data:
        columns["chosen_in_distribution"] = _number("chosen_in_distribution", "best, chosen in distribution")
    if numbers.budgets[-1] > 1:
        columns["tuning_cost"] = Column("trials to 95 % of the best", "count", interval=_ends("tuning_cost"))
    if numbers.budgets[-1] > 1 and data[f"tuning_cost_{unit.column}"].notna().any():
        columns[f"tuning_cost_{unit.column}"] = Column(f"the same in {unit.words}", digits=2)
    if numbers.budgets[-1] > 1:
        columns["area"] = _number("area", f"mean over n = 1 … {numbers.budgets[-1]}")
    return Sheet("budget", f"What n trials buy, {tables.metric}", _budget_caption(tables, numbers), data, columns)


def shares_sheet(numbers: Numbers, against_sft: bool) -> Sheet:
    """One row per method: how many configurations are nearly as good as its best, better than SFT, worse than SFT."""
    data = pd.DataFrame([_shares_row(numbers, method, against_sft) for method in numbers.methods])
    columns = {"method": Column("method", "method"), "configurations": Column("configurations", "count")}
    for epsilon in NAMED:
        columns[f"within_{epsilon:g}"] = _percent(f"within_{epsilon:g}", f"within {epsilon:g} of the best")
    if against_sft:
        columns["beats"] = _percent("beats", "beat SFT")
        columns["surely_beats"] = Column("surely beat SFT", "percent")
        columns["harms"] = _percent("harms", "worse than SFT")
        columns["surely_harms"] = Column("surely worse than SFT", "percent")
        if numbers.worst:
            columns["harms_diverged_worst"] = _percent("harms_diverged_worst", "worse than SFT, with diverged trials")
    words = "Shares of the configurations that finished."
    if numbers.prompts > 1:
        words += (
            " Within ε of the best: in the order of one half of the prompts, scored on the other, so that luck does not "
            "lift the best out of reach; it errs upward where configurations differ, the share by the plain maximum "
            "(within_…_plain in the CSV) errs downward."
        )
    words += f" Intervals over {numbers.over}." if numbers.drawn else ""
    return Sheet("shares", "Which share of configurations will do", words + _sure_words(against_sft), data, columns)


def sft_shares(numbers: Numbers, method: Method) -> Beating:
    """The shares of a method's configurations that beat the SFT model and that harm."""
    return beating(numbers.found["own", method.name])


def _budget_row(numbers: Numbers, method: Method, unit: Unit) -> dict[str, Any]:
    found, name = numbers.found, method.name
    row: dict[str, Any] = {"method": name, "configurations": method.count}
    for place, n in enumerate(numbers.budgets):
        row |= _with_ends(f"best_of_{n}", found["at", name], place)
    row |= _with_ends("best_of_all", found["all", name])
    for place, n in enumerate(numbers.budgets) if numbers.worst else ():
        row |= _with_ends(f"best_of_{n}_diverged_worst", numbers.worst["at", name], place)
    if ("inside", name) in found:
        row |= _with_ends("chosen_in_distribution", found["inside", name])
    cost = found["cost", name]
    row["tuning_cost"] = float(cost.value[0])
    row["tuning_cost_low"] = float(np.clip(np.floor(cost.low[0]), 1, method.count))
    row["tuning_cost_high"] = float(np.clip(np.ceil(cost.high[0]), 1, method.count))
    row[f"tuning_cost_{unit.column}"] = row["tuning_cost"] * method.hours * unit.per_hour
    return row | _with_ends("area", found["area", name])


def _budget_caption(tables: Tables, numbers: Numbers) -> str:
    words = [
        FITTED if numbers.prompts > 1 else PLAIN,
        "Trials to 95 %: the least n whose expected best is at least 0.95 times the raw value of that of all the method's "
        "configurations; of a win-rate of 0.60 that is 0.57",
        f"Configurations are compared as means over {len(tables.seeds)} seeds; time counts one seed of each"
        if len(tables.seeds) > 1
        else "",
        f"Best, chosen in distribution: picked by {selection_metric(tables)}, given its prompts"
        if selection_metric(tables)
        else "",
        f"Intervals over {numbers.over}; the configurations are given" if numbers.drawn else "",
    ]
    return ". ".join(sentence for sentence in words if sentence) + "."


def _shares_row(numbers: Numbers, method: Method, against_sft: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method.name, "configurations": method.count}
    seeds, prompts = method.scores.shape[1:]
    plain = robust_share(np.sort(configuration_scores(method.scores, Sample.everything(seeds, prompts))[0]), NAMED)
    for epsilon, share in zip(NAMED, plain, strict=True):
        place = int(np.argmin(np.abs(numbers.epsilons - epsilon)))
        row |= _with_ends(f"within_{epsilon:g}", numbers.found["robust", method.name], place, share=True)
        row[f"within_{epsilon:g}_plain"] = float(share)
    if not against_sft:
        return row
    shares = sft_shares(numbers, method)
    for what in ("beats", "harms"):
        row |= _with_ends(what, numbers.found[what, method.name], share=True)
        if numbers.worst:
            row |= _with_ends(f"{what}_diverged_worst", numbers.worst[what, method.name], share=True)
    sure = numbers.drawn
    return row | {
        "surely_beats": shares.surely_beats if sure else None,
        "surely_harms": shares.surely_harms if sure else None,
    }


def _sure_words(against_sft: bool) -> str:
    if not against_sft:
        return ""
    return (
        " Beat SFT: win-rate above ½; surely: the configuration's own 95 % interval lies above ½; worse likewise below. "
        "What is neither surely better nor surely worse is undecided. Of configurations exactly as good as SFT, luck makes "
        "2.5 % surely better and as many surely worse."
    )


def _with_ends(column: str, interval: Any, place: int = 0, share: bool = False) -> dict[str, float]:
    """A value and the ends of its interval, which a share cannot leave 0 … 1 by."""
    low, high = (np.clip(end[place], 0, 1) if share else end[place] for end in (interval.low, interval.high))
    return {column: float(interval.value[place]), f"{column}_low": float(low), f"{column}_high": float(high)}


def _ends(column: str) -> tuple[str, str]:
    return f"{column}_low", f"{column}_high"


def _number(column: str, heading: str) -> Column:
    return Column(heading, interval=_ends(column))


def _percent(column: str, heading: str) -> Column:
    return Column(heading, "percent", interval=_ends(column))
