"""The figures of the chapter: curves against trials and time, profiles, robust shares, shares that beat the SFT model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from posweep.report.chapter import Drawing
from posweep.report.chapters.budget.numbers import Method, Numbers
from posweep.report.chapters.budget.sheets import Unit, sft_shares
from posweep.report.chapters.paper import sft_line
from posweep.report.drawing.bands import TOGETHER, Across, Style, curves
from posweep.report.drawing.shares import stacked
from posweep.report.tables import Tables, is_win_rate
from posweep.robustness import Interval, Sample, configuration_scores, tuning_band

FITTED = "Ordered on one half of the prompts and scored on the other, so that luck does not set the best apart."
PLAIN = "The best is the luckiest, too: without enough scores by prompt the shares are too low."


def drawings(tables: Tables, numbers: Numbers, unit: Unit) -> tuple[Drawing, ...]:
    """Every figure that the sweep carries."""
    found = tuning_curves(tables, numbers, unit)
    if any(method.count > 1 for method in numbers.methods):
        found += [performance_profiles(tables, numbers), robust_shares(tables, numbers)]
    return (*found, shares_beating_sft(tables, numbers)) if against_sft(tables) else tuple(found)


def against_sft(tables: Tables) -> bool:
    """Whether the primary metric is a win-rate against the SFT model, of which ½ means equal."""
    return tables.metric.endswith("win_rate_vs_sft")


def tuning_curves(tables: Tables, numbers: Numbers, unit: Unit) -> list[Drawing]:
    """The expected best against trials and against time; nothing where every method has a single configuration."""
    methods = [method for method in numbers.methods if method.count > 1]
    if not methods:
        return []
    data = pd.concat([_tuning_rows(tables, numbers, method, unit) for method in methods], ignore_index=True)
    across = [Across("trials", "trials (configurations tried)", log=True)]
    if data[unit.column].notna().any():
        across.append(Across(unit.column, unit.words, log=True))
    line, label = sft_line(tables.record)
    style = Style(f"expected best, {label}", line)
    names = [method.name for method in methods]
    caption = _tuning_caption(numbers, methods)
    first = Drawing(
        "tuning_curves", "Expected best of n trials", caption, data, curves(data, names, across, style, tables.note)
    )
    if len(names) <= TOGETHER or len(across) < 2:
        return [first]
    timed = curves(data, names, across[1:], style, tables.note)
    return [first, Drawing("tuning_curves_by_time", f"Expected best against {unit.words}", caption, data, timed)]


def performance_profiles(tables: Tables, numbers: Numbers) -> Drawing:
    """Which share of configurations exceeds each score."""
    at = numbers.thresholds
    data = pd.concat([_rows(m, "threshold", at, numbers.found["profile", m.name]) for m in numbers.methods])
    caption = (
        f"The share of a method's configurations (means over seeds) whose score lies above τ: a curve further right has "
        f"more good configurations. Scores carry the error of their prompts, which flattens the curves a little. "
        f"{_shaded(numbers)}"
    )
    line, label = sft_line(tables.record)
    style = Style("share of configurations above τ", line, upright=True, step=True)
    figure = curves(data, _names(numbers), [Across("threshold", f"τ, {label}")], style, tables.note)
    return Drawing("performance_profiles", "Performance profiles", caption, data, figure)


def robust_shares(tables: Tables, numbers: Numbers) -> Drawing:
    """Which share of configurations lies within ε of the best, for every ε."""
    data = pd.concat([_rows(m, "epsilon", numbers.epsilons, numbers.found["robust", m.name]) for m in numbers.methods])
    caption = (
        f"The share of a method's configurations within ε of its best: high on the left means that hardly any choice is "
        f"wrong. {FITTED if numbers.prompts > 1 else PLAIN} {_shaded(numbers)}"
    )
    style = Style("share within ε of the method's best", step=True)
    across = [Across("epsilon", f"ε, {sft_line(tables.record)[1]}")]
    return Drawing(
        "robust_shares", "ε-robust shares", caption, data, curves(data, _names(numbers), across, style, tables.note)
    )


def shares_beating_sft(tables: Tables, numbers: Numbers) -> Drawing:
    """How many configurations beat the SFT model and how many harm, surely or within error."""
    data = pd.DataFrame([_stack(numbers, method) for method in numbers.methods])
    sure = (
        f"Surely: the configuration's own 95 % interval, over {numbers.over}, does not hold ½."
        if numbers.drawn
        else "No configuration has an interval, so none is surely better or worse."
    )
    caption = f"Shares of the configurations that finished, by their win-rate against the SFT model. {sure}"
    heading = "Which configurations beat the SFT model, and which harm"
    return Drawing("shares_beating_sft", heading, caption, data, stacked(data, tables.note))


def _tuning_rows(tables: Tables, numbers: Numbers, method: Method, unit: Unit) -> pd.DataFrame:
    rows = _rows(method, "trials", method.budgets, numbers.found["curve", method.name])
    rows.insert(2, unit.column, method.budgets * method.hours * unit.per_hour)
    if method.random and is_win_rate(tables.metric):
        everything = Sample.everything(*method.scores.shape[1:])
        rows["exact_low"], rows["exact_high"] = tuning_band(
            configuration_scores(method.scores, everything)[0], method.budgets
        )
    return rows


def _tuning_caption(numbers: Numbers, methods: Sequence[Method]) -> str:
    drawn = [method.random for method in methods]
    words = [
        "What the best of n configurations, drawn at random from those that finished, is expected to score; compare "
        "methods at equal n, not at their ends",
        "" if all(drawn) else "A grid is not a random sample: its curve is exact for this grid",
        "Dashed: band over the random draws of configurations, for all n at once (95 % or more); it may leave the panel"
        if any(drawn)
        else "",
    ]
    return ". ".join(sentence for sentence in words if sentence) + f". {_shaded(numbers)}"


def _shaded(numbers: Numbers) -> str:
    if not numbers.drawn:
        return "No interval: one seed and no prompts to draw from."
    return f"Shaded: 95 % interval over {numbers.over}; the configurations are given."


def _rows(method: Method, column: str, at: np.ndarray, interval: Interval) -> pd.DataFrame:
    ends = interval.low, interval.high
    if column != "trials":
        ends = np.clip(interval.low, 0, 1), np.clip(interval.high, 0, 1)
    return pd.DataFrame({"method": method.name, column: at, "value": interval.value, "low": ends[0], "high": ends[1]})


def _stack(numbers: Numbers, method: Method) -> dict[str, object]:
    """Shares that add up to 1: sure ones are no longer counted among the others."""
    found = sft_shares(numbers, method)
    return {
        "method": method.name,
        "configurations": method.count,
        "surely_beats": found.surely_beats,
        "beats": found.beats - found.surely_beats,
        "level": max(0.0, round(1 - found.beats - found.harms, 9)),
        "harms": found.harms - found.surely_harms,
        "surely_harms": found.surely_harms,
    }


def _names(numbers: Numbers) -> list[str]:
    return [method.name for method in numbers.methods]
