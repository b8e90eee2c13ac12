"""Length against win, and win-rates at equal length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from posweep.records import Opponents
from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.cost.sweep import SAID, SIGNIFICANT, Sweep, ends, means, points, titles
from posweep.report.drawing.costs import against_length, raw_against_controlled
from posweep.report.tables import Tables, is_win_rate, measures_of, title
from posweep.robustness import (
    Interval,
    LengthControl,
    Sample,
    configuration_scores,
    crossed_interval,
    holm,
    length_control,
    p_value,
)
from posweep.robustness.crossed import finished

Table = NDArray[np.float64]

MODEL = (
    "logit P(win) = θ of the run + φ·tanh(Δ/s), Δ the response's length less the mean length of its opponents on the "
    "prompt, s the pooled standard deviation of Δ; at equal length Δ = 0. One φ for all runs of a judge and set. Inspired "
    "by the length control of AlpacaEval, and not the same"
)
NO_OPPONENTS = (
    "Length control needs the lengths of the responses that were compared with, which this record does not hold."
)


@dataclass(frozen=True)
class Controlled:
    """A metric's length model, and each method's runs in it.

    Attributes:
        model: of all runs.
        raw: by method, wins of the runs that could be controlled, (configurations, seeds, prompts).
        scores: their pseudo-scores at equal length, in the same shape; NaN where refused.
        ratio: by method, each configuration's mean length over that of its opponents.
        refused: by method, why runs could not be controlled, one entry each.
    """

    model: LengthControl
    raw: dict[str, Table]
    scores: dict[str, Table]
    ratio: dict[str, Table]
    refused: dict[str, list[str]]


def controlled(sweep: Sweep) -> Part:
    """The part of the chapter about length."""
    drawn = _against_length(sweep)
    found = control(sweep)
    if found is None:
        reason = NO_OPPONENTS if sweep.prompts > 1 else "Length control needs scores and lengths by prompt."
        return Part(drawings=drawn, silences=(reason,))
    coefficients = _coefficients(sweep)
    methods = [method for method in sweep.methods if np.isfinite(found.scores[method]).any()]
    intervals = _medians(sweep, found, methods)
    data = _table(sweep, found, methods, intervals)
    sheets = (_sheet(sweep, data, intervals), _coefficient_sheet(sweep, coefficients))
    pictures = (*drawn, *_raw_against_controlled(sweep, found))
    words = (*_coefficient_words(sweep, coefficients), *_words(data))
    return Part(words, sheets, pictures, _silences(sweep, found))


def control(sweep: Sweep) -> Controlled | None:
    """The length model of the metric; None where opponents' lengths or rows by prompt are not recorded."""
    rows = sweep.opponents(sweep.place, sweep.prompts)
    if rows is None or sweep.prompts < 2:
        return None
    theirs = opponent_lengths(rows, sweep.versus)
    lengths = {method: sweep.scores(method, f"{sweep.place}/response_length") for method in sweep.methods}
    if any(lengths[method].shape != sweep.wins[method].shape for method in sweep.methods):
        return None
    model = _fit(sweep.wins, lengths, theirs)
    sizes = np.cumsum([table.shape[0] * table.shape[1] for table in sweep.wins.values()])[:-1]
    parts = dict(zip(sweep.methods, np.split(model.scores, sizes), strict=True))
    scores = {method: parts[method].reshape(sweep.wins[method].shape) for method in sweep.methods}
    raw = {method: np.where(np.isnan(scores[method]), np.nan, sweep.wins[method]) for method in sweep.methods}
    ratio = {method: means(lengths[method]) / theirs.mean() for method in sweep.methods}
    reasons = np.split(np.array(model.refused, dtype=object), sizes)
    refused = {m: [r for r in found if r and r != "no score"] for m, found in zip(sweep.methods, reasons, strict=True)}
    return Controlled(model, raw, scores, ratio, refused)


def opponent_lengths(rows: list[Opponents], versus: str) -> Table:
    """Mean length of what a response is compared with, (prompts,), tokens."""
    own = [row.sft_lengths if versus == "sft" else (row.chosen_length,) for row in rows]
    return np.array([np.mean(found) for found in own], dtype=np.float64)


def _fit(wins: Mapping[str, Table], lengths: Mapping[str, Table], theirs: Table) -> LengthControl:
    """The model of all methods' runs, one below another."""
    flat = [np.concatenate([table.reshape(-1, table.shape[2]) for table in t.values()]) for t in (wins, lengths)]
    return length_control(flat[0], flat[1] - theirs)


def _coefficients(sweep: Sweep) -> pd.DataFrame:
    """φ of every judge and set against the same opponents: judge, set, coefficient, low, high, scale, runs."""
    rows = []
    for metric in measures_of(sweep.tables.trials):
        if is_win_rate(metric) and metric.endswith(f"win_rate_vs_{sweep.versus}"):
            other = Sweep.with_metric(sweep.tables, metric)
            found = control(other) if other else None
            if other and found and np.isfinite(found.model.coefficient):
                rows.append(_coefficient(other, found.model))
    return pd.DataFrame(rows, columns=["judge", "set", "coefficient", "low", "high", "p", "scale", "runs"])


def _coefficient(sweep: Sweep, model: LengthControl) -> dict[str, float | str]:
    margin = float(student.ppf(0.975, sweep.prompts - 1)) * model.error
    ratio = abs(model.coefficient) / model.error if model.error > 0 else np.inf
    return {
        "judge": sweep.judged,
        "set": sweep.place,
        "coefficient": model.coefficient,
        "low": model.coefficient - margin,
        "high": model.coefficient + margin,
        "p": float(2 * student.sf(ratio, sweep.prompts - 1)),
        "scale": model.scale,
        "runs": sum(not reason for reason in model.refused),
    }


def _medians(sweep: Sweep, found: Controlled, methods: list[str]) -> Interval:
    """Medians over configurations of raw, controlled and their difference, (methods, 3)."""

    def statistic(sample: Sample) -> Table:
        rows = []
        for method in methods:
            kept = finished(found.scores[method]).any(axis=1)
            pair = [configuration_scores(t[method][kept], sample) for t in (found.raw, found.scores)]
            raw, level = (np.median(scores, axis=1) for scores in pair)
            rows.append(np.stack([raw, level, level - raw], axis=1))
        return np.stack(rows, axis=1) if rows else np.empty((len(sample.seeds), 0, 3))

    return crossed_interval(statistic, sweep.seeds, sweep.prompts, sweep.rng())


def _table(sweep: Sweep, found: Controlled, methods: list[str], intervals: Interval) -> pd.DataFrame:
    adjusted = holm(p_value(intervals[:, 2]))
    rows = []
    for method in sweep.methods:
        reasons = Counter(found.refused[method])
        row: dict[str, float | str] = {
            "method": method,
            "controlled_runs": int(finished(found.scores[method]).sum()),
            "refused_runs": reasons.total(),
            "why": "; ".join(f"{count} {reason}" for reason, count in reasons.most_common()),
            "length_ratio": float(np.median(found.ratio[method])),
            "coefficient": found.model.coefficient,
        }
        if method in methods:
            place = methods.index(method)
            for column, name in enumerate(("raw", "controlled", "difference")):
                row |= ends(name, intervals[place, column])
            row["p_holm"] = float(adjusted[place])
        rows.append(row)
    names = [f"{name}{end}" for name in ("raw", "controlled", "difference") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows).reindex(columns=[*rows[0], *(n for n in [*names, "p_holm"] if n not in rows[0])])


def _sheet(sweep: Sweep, data: pd.DataFrame, intervals: Interval) -> Sheet:
    caption = (
        f"Medians over configurations of the win-rate by {sweep.judged} on {sweep.place}, of runs that could be controlled: "
        "those whose responses are at most as long, and at least as long, as their opponents on 5 % of the prompts or more; "
        f"the others are refused. {MODEL}. Length ratio: mean length over that of the opponents, all configurations. "
        f"Intervals: 95 %, over {intervals.over}; p of the difference after Holm."
    )
    columns = {
        "method": Column("method", "method"),
        "length_ratio": Column("length ratio", digits=2),
        "raw": Column("win-rate", interval=("raw_low", "raw_high")),
        "controlled": Column("at equal length", interval=("controlled_low", "controlled_high")),
        "difference": Column("difference", interval=("difference_low", "difference_high")),
        "p_holm": Column("p", "p"),
        "controlled_runs": Column("runs", "count"),
        "refused_runs": Column("refused", "count"),
        "why": Column("why", "text"),
    }
    return Sheet("length_control", "Win-rates at equal length", caption, data, columns)


def _coefficient_sheet(sweep: Sweep, data: pd.DataFrame) -> Sheet:
    caption = (
        f"φ: by how much the log odds of a win against {sweep.versus} rise from equal length to far longer, from prompt to "
        f"prompt within runs; an association, not a cause. {MODEL}. Intervals: 95 %, over the set's prompts, given these "
        "runs and this SFT checkpoint."
    )
    columns = {
        "judge": Column("judge", "text"),
        "set": Column("set", "text"),
        "coefficient": Column("φ", digits=2, interval=("low", "high")),
        "scale": Column("s (tokens)", digits=1),
        "runs": Column("runs", "count"),
    }
    return Sheet("length_coefficients", "How wins go with length, by judge and set", caption, data, columns)


def _coefficient_words(sweep: Sweep, data: pd.DataFrame) -> tuple[str, ...]:
    mine = data[(data["judge"] == sweep.judged) & (data["set"] == sweep.place)]
    if mine.empty or not float(mine["p"].iloc[0]) < SIGNIFICANT:
        return ()
    row = mine.iloc[0]
    more = "more" if row["coefficient"] > 0 else "less"
    return (
        f"Within runs, {sweep.judged} judges longer responses to win {more} often on {sweep.place}: φ = "
        f"{row['coefficient']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] log odds.".replace("-", "−"),
    )


def _words(data: pd.DataFrame) -> tuple[str, ...]:
    sure = data[data["p_holm"] < SIGNIFICANT]
    if len(sure) > SAID:
        return (
            f"At equal length the median win-rate of {len(sure)} of {len(data)} methods differs beyond doubt (Holm).",
        )
    return tuple(
        f"At equal length the median win-rate of {title(row['method'])} is {row['controlled']:.3f} instead of "
        f"{row['raw']:.3f}: {points(row['difference'])} points [{points(row['difference_low'])}, "
        f"{points(row['difference_high'])}]."
        for row in sure.to_dict("records")
    )


def _silences(sweep: Sweep, found: Controlled) -> tuple[str, ...]:
    if not np.isfinite(found.model.coefficient):
        return (
            "No length model: of every run, length alone tells wins from losses, or is never that of its opponents.",
        )
    lost = [method for method in sweep.methods if not np.isfinite(found.scores[method]).any()]
    return (
        (f"Without a run that meets its opponents' length: {titles(lost)}; nothing is said of them at equal length.",)
        if lost
        else ()
    )


def _against_length(sweep: Sweep) -> tuple[Drawing, ...]:
    data = _configurations(sweep.tables, sweep)
    if data.empty:
        return ()
    own = sweep.tables.record.baseline.get(f"{sweep.place}/response_length")
    line = "Vertical line: the SFT model's own mean length; horizontal" if own else "Horizontal line"
    caption = (
        f"One point per configuration on {sweep.place} (mean over the seeds that finished). {line}: ½. No interval is "
        "drawn."
    )
    figure = against_length(data, sweep.methods, own, sweep.label, sweep.tables.note)
    return (Drawing("length_against_win", "Win-rate against response length", caption, data, figure),)


def _configurations(tables: Tables, sweep: Sweep) -> pd.DataFrame:
    """Length and win-rate of each configuration that has both."""
    parts = []
    for method in sweep.methods:
        length = means(sweep.beside(method, "response_length"))
        rows = tables.points(method).iloc[sweep.kept[method]][["configuration", *tables.settings(method)]]
        parts.append(rows.assign(method=method, length=length, win_rate=means(sweep.wins[method])))
    return pd.concat(parts, ignore_index=True).dropna(subset=["length", "win_rate"])


def _raw_against_controlled(sweep: Sweep, found: Controlled) -> tuple[Drawing, ...]:
    parts = [
        pd.DataFrame({"method": m, "raw": means(sweep.wins[m]), "controlled": means(found.scores[m])})
        for m in sweep.methods
    ]
    data = pd.concat(parts, ignore_index=True)
    if data["controlled"].isna().all():
        return ()
    caption = (
        f"One point per configuration on {sweep.place}. Below the diagonal: a configuration owes part of its win-rate to "
        f"its length. Crosses at the bottom: no run of it could be controlled. No interval is drawn."
    )
    figure = raw_against_controlled(data, sweep.methods, sweep.label, sweep.tables.note)
    return (Drawing("length_controlled", "Win-rate at equal length against the raw one", caption, data, figure),)
