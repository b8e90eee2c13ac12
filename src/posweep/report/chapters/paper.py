"""The paper's own figures, in its order: performance, length, KL and KL per token; score against hyperparameters and KL."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from posweep.records import SweepRecord
from posweep.report.chapter import Chapter, Drawing
from posweep.report.drawing.distributions import distribution
from posweep.report.drawing.frontier import TOGETHER, frontier, spotlights
from posweep.report.drawing.histogram import bins, histograms
from posweep.report.drawing.panels import MANY
from posweep.report.drawing.sensitivity import sensitivity, varying
from posweep.report.tables import IDENTITY, STATUSES, Tables, evaluation_sets, measures_of, methods

WHISKERS = "Bars: ±1.96 standard errors over prompts, given these seeds and this SFT checkpoint"
UNMARKED = "No interval is drawn: there are too many points"
JUDGED = "Win-rates are the judge's; ties count half"
BOXES = (
    "One point per configuration (mean over the seeds that finished); box: quartiles and median, whiskers: extremes; "
    "from 20 points on also a density"
)


def chapter(tables: Tables) -> Chapter | None:
    """How good a method is over its grid; nothing before anything was measured."""
    if not evaluation_sets(tables.record):
        return None
    drawn = tuple(drawings(tables))
    silences = () if drawn else ("No trial has finished with a measure yet.",)
    return Chapter("grid", "How good is a method over its grid?", drawings=drawn, silences=silences)


def drawings(tables: Tables) -> list[Drawing]:
    """Every figure that the sweep's measures allow, in the order a reader needs them."""
    makers = (performance, win_rates, lengths_and_kl, by_hyperparameter, kl_against_win_rate)
    return [drawing for make in makers for drawing in make(tables)]


def performance(tables: Tables) -> list[Drawing]:
    """How many of each method's configurations reach which score, on the primary metric; nothing without any score."""
    metric = tables.metric
    shown = tables.configurations.rename(columns={metric: "value"})
    shown = shown.reindex(columns=["method", "value"]).replace([np.inf, -np.inf], np.nan).dropna()
    if shown.empty:
        return []
    edges = bins(shown["value"])
    counted = {method: np.histogram(group["value"], edges)[0] for method, group in shown.groupby("method", sort=False)}
    columns = {"low": edges[:-1], "high": edges[1:]}
    parts = [pd.DataFrame({"method": m, **columns, "configurations": found}) for m, found in counted.items()]
    line, label = sft_line(tables.record)
    solid = "Line: the SFT model; " if line is not None else ""
    caption = (
        f"Configurations (means over the seeds that finished) by {metric}, all methods on the same bins. {solid}triangle: "
        f"median. No interval is drawn. {JUDGED}."
    )
    figure = histograms(shown, edges, tables.methods, label, line, tables.note)
    heading = f"How many configurations reach which {metric}"
    return [Drawing("performance_histogram", heading, caption, pd.concat(parts, ignore_index=True), figure)]


def win_rates(tables: Tables) -> list[Drawing]:
    """How win-rates against the SFT model spread over each method's configurations."""
    fresh = _baseline(tables.record, "win_rate_vs_sft")
    lines = {"SFT model (½)": dict.fromkeys(evaluation_sets(tables.record), 0.5)}
    lines |= {"A/A: SFT against fresh SFT": fresh} if fresh else {}
    words = f"Solid line: ½, as good as the SFT model; dotted: SFT against fresh responses of its own. {JUDGED}"
    heading = "Win-rate against SFT, over each method's configurations"
    return _distribution(tables, "win_rate_vs_sft", heading, "win-rate against SFT", lines, words)


def lengths_and_kl(tables: Tables) -> list[Drawing]:
    """The same for how long responses are and how far policies move from the SFT model, per response and per token."""
    zero = {"SFT model (0)": dict.fromkeys(evaluation_sets(tables.record), 0.0)}
    own = _baseline(tables.record, "response_length")
    own_words = "Line: the SFT model's own mean length" if own else "The SFT model's own length is not recorded"
    lengths = {"SFT model": own} if own else {}
    far, axis = "KL to the SFT model", "KL to SFT (nats per response, √ scale)"
    per_token, token_axis = "KL to the SFT model per token", "KL to SFT (nats per token, √ scale)"
    itself = "Line: the SFT model itself, 0"
    share = f"Sum of KL over sum of tokens: long responses do not count as far moves. {itself}"
    return [
        *_distribution(tables, "response_length", "Response length", "response length (tokens)", lengths, own_words),
        *_distribution(tables, "kl_to_sft", far, axis, zero, itself),
        *_distribution(tables, "kl_to_sft_per_token", per_token, token_axis, zero, share),
    ]


def by_hyperparameter(tables: Tables) -> list[Drawing]:
    """The primary metric against each hyperparameter; nothing where no method varies any."""
    trials, metric = tables.trials, tables.record.primary_metric
    settings = [name for name in trials.columns if name not in (*IDENTITY, *measures_of(trials))]
    varied = varying(trials, settings)
    if metric not in trials or not varied:
        return []
    line, label = sft_line(tables.record)
    data = _scored(trials, metric)[[*IDENTITY[:6], *settings, metric]]
    caption = (
        f"One point per trial, darker for a higher learning rate; line: median at each value (in groups of equal size "
        f"where values hardly repeat); crosses: diverged trials, at the bottom. No interval is drawn. {JUDGED}."
    )
    figure = sensitivity(data, varied, metric, label, line, tables.note)
    return [Drawing("score_by_hyperparameter", f"{metric} against each hyperparameter", caption, data, figure)]


def sft_line(record: SweepRecord) -> tuple[float | None, str]:
    """Where the SFT model stands on the primary metric, and how the axis is called."""
    place, _, measure = record.primary_metric.partition("/")
    words = measure.replace("_", " ").replace("win rate vs sft", "win-rate against SFT")
    line = 0.5 if measure.endswith("win_rate_vs_sft") else record.baseline.get(record.primary_metric)
    return line, f"{words} ({place})"


def kl_against_win_rate(tables: Tables) -> list[Drawing]:
    """What each trial wins for the KL it spends."""
    spent = {"kl_to_sft": "kl", "kl_to_sft_se": "kl_se"}
    won = {"win_rate_vs_sft": "win_rate", "win_rate_vs_sft_se": "win_rate_se"}
    data = _by_set(tables.record, tables.trials, {**spent, **won}).dropna(subset=["kl", "win_rate"])
    data = data[data["status"] == "finished"]
    if data.empty:
        return []
    heading, names = "Win-rate against what it costs in KL", methods(tables.record)
    if len(names) > TOGETHER:
        place = tables.record.primary_metric.partition("/")[0]
        data = data[data["set"] == (place if place in set(data["set"]) else data["set"].iloc[0])]
        caption = (
            f"One point per trial on {data['set'].iloc[0]}, one panel per method; grey: the trials of all methods. "
            f"The SFT model stands at (0, ½). No interval is drawn. {JUDGED}."
        )
        return [Drawing("kl_against_win_rate", heading, caption, data, spotlights(data, names, tables.note))]
    marked = WHISKERS if len(data) <= MANY else UNMARKED
    caption = f"One point per trial; star: the SFT model at (0, ½). {marked}. {JUDGED}."
    figure = frontier(data, names, tables.note)
    return [Drawing("kl_against_win_rate", heading, caption, data, figure)]


def _distribution(
    tables: Tables, measure: str, heading: str, label: str, lines: Mapping[str, Mapping[str, float]], words: str
) -> list[Drawing]:
    """One measure's figure; nothing where it was never measured."""
    renamed = {measure: "value", f"{measure}_se": "standard_error"}
    data = _by_set(tables.record, tables.configurations, renamed)
    shown = data.dropna(subset=["value"])
    if shown.empty:
        return []
    figure = distribution(shown, methods(tables.record), label, lines, tables.note, nats=measure.startswith("kl"))
    marked = WHISKERS if len(shown) <= MANY else UNMARKED
    return [Drawing(measure, heading, f"{BOXES}. {marked}. {words}.", data, figure)]


def _by_set(record: SweepRecord, table: pd.DataFrame, renamed: dict[str, str]) -> pd.DataFrame:
    """One evaluation set below another: identity, the set, some measures under plain names; NaN for missing, infinite."""
    kept = [name for name in (*IDENTITY, *STATUSES) if name in table]
    parts = []
    for place in evaluation_sets(record):
        columns = {f"{place}/{measure}": name for measure, name in renamed.items()}
        found = table.reindex(columns=[*kept, *columns]).rename(columns=columns).assign(set=place)
        parts.append(found.astype(dict.fromkeys(renamed.values(), float)))
    return pd.concat(parts, ignore_index=True).replace([np.inf, -np.inf], np.nan)


def _scored(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The trials with the metric of those that finished."""
    return trials.assign(**{metric: trials[metric].where(trials["status"] == "finished")})


def _baseline(record: SweepRecord, measure: str) -> dict[str, float]:
    """The SFT model's own value on each set that has one."""
    names = evaluation_sets(record)
    return {name: record.baseline[f"{name}/{measure}"] for name in names if f"{name}/{measure}" in record.baseline}
