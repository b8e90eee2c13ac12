"""A sweep as tidy tables: one row per trial, one row per configuration, and the summary of each method."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.objectives import OBJECTIVES
from posweep.records import Response, SweepRecord, TrialSpec
from posweep.robustness import cross_fitted_best, describe, share_above, with_scores

STATUSES = ("finished", "diverged", "failed", "missing")
IDENTITY = ["key", "method", "title", "configuration", "seed", "status", "prior", "block", "design"]
SPLIT_SEED, SPLITS = 0, 32  # every method's prompts are halved in the same ways: their cross-fitted bests are paired
SET_MEASURES = ("win_rate_vs_sft", "kl_to_sft", "response_length")


Diverged = Literal["dropped", "worst"]
"""What a diverged trial scores: nothing, or the worst there is. A failed trial scores nothing either way."""


@dataclass(frozen=True)
class Tables:
    """A sweep as every chapter reads it: one row per trial, one per configuration, and scores as arrays.

    Attributes:
        record: of the sweep, without adaptive trials: those were placed where scores were high.
        trials: what `trials` makes of it.
        configurations: what `configurations` makes of that.
        whole: the record with adaptive trials; None where there are none. Only the search's own table reads it.
    """

    record: SweepRecord
    trials: pd.DataFrame
    configurations: pd.DataFrame
    whole: SweepRecord | None = None
    _kept: dict[Any, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, record: SweepRecord) -> Tables:
        """The tables of a record."""
        planned = record.planned()
        by_trial = trials(planned)
        return cls(planned, by_trial, configurations(by_trial), None if planned is record else record)

    @property
    def adaptive(self) -> int:
        """How many trials a search placed where scores were high: they enter nothing but its own table."""
        return len(self.whole.plan) - len(self.record.plan) if self.whole else 0

    @property
    def metric(self) -> str:
        """The primary metric, `<set>/<measure>`."""
        return self.record.primary_metric

    @property
    def place(self) -> str:
        """The evaluation set of the primary metric."""
        return self.metric.partition("/")[0]

    @cached_property
    def methods(self) -> list[str]:
        """The sweep's methods in the order of its plan."""
        return methods(self.record)

    @cached_property
    def seeds(self) -> list[int]:
        """Every seed of the plan, in order: the second axis of `scores`."""
        return sorted({spec.seed for spec in self.record.plan})

    @property
    def note(self) -> str:
        """The footnote of every figure."""
        return "Trials without a point — " + ended_otherwise(self.trials) + "."

    def points(self, method: str) -> pd.DataFrame:
        """A method's rows of `configurations`, in the order of the first axis of `scores`, without empty columns."""
        rows = self.configurations[self.configurations["method"] == method]
        return rows.dropna(axis=1, how="all").reset_index(drop=True)

    def settings(self, method: str, varied: bool = True) -> list[str]:
        """The hyperparameters and training settings of a method's points, or those that take more than one value."""
        rows = self.points(method)
        known = {*IDENTITY, *STATUSES, "trials", *measures_of(rows)}
        names = [name for name in rows.columns if name not in known]
        return [name for name in names if rows[name].nunique() > 1] if varied else names

    def scores(self, method: str, metric: str | None = None, diverged: Diverged = "dropped") -> NDArray[np.float64]:
        """A method's scores, (configurations, seeds, prompts); NaN where a trial has none.

        Without rows behind the metric (or where a finished trial lacks some) there is one "prompt": the trial's own
        number.

        Args:
            metric: the primary one where None.
            diverged: whether diverged trials score nothing or the worst: 0 for shares, else the lowest of any trial.
        """
        metric = metric or self.metric
        if (method, metric) not in self._kept:
            self._kept[method, metric] = self._scores(method, metric)
        found = self._kept[method, metric]
        if diverged == "dropped":
            return found
        lost = np.array([[self._status.get((c, s)) == "diverged" for s in self.seeds] for c in self._ids(method)])
        return np.where(lost.reshape(*found.shape[:2], 1), self.worst(metric), found)

    def prompts(self, metric: str | None = None) -> int:
        """How many prompts stand behind a metric's scores; 1 where there are no rows."""
        return max((self.scores(method, metric).shape[2] for method in self.methods), default=1)

    def worst(self, metric: str | None = None) -> float:
        """What a diverged trial scores at worst: 0 for shares, else the lowest of any trial."""
        metric = metric or self.metric
        share = is_win_rate(metric) or metric.endswith("accuracy")
        return 0.0 if share or metric not in self.trials else float(self.trials[metric].min())

    def _ids(self, method: str) -> list[str]:
        return list(dict.fromkeys(spec.configuration for spec in self.record.plan if spec.method == method))

    @cached_property
    def _status(self) -> dict[tuple[str, int], str]:
        return {(spec.configuration, spec.seed): status(self.record, spec.key) for spec in self.record.plan}

    def _scores(self, method: str, metric: str) -> NDArray[np.float64]:
        plan = [spec for spec in self.record.plan if spec.method == method]
        finished = [spec for spec in plan if status(self.record, spec.key) == "finished"]
        rows = self._by_prompt(metric)
        count = rows.shape[1] if rows is not None else 1
        first, second = self._ids(method), self.seeds
        table = np.full((len(first), len(second), count), math.nan)
        places = {c: i for i, c in enumerate(first)}, {s: j for j, s in enumerate(second)}
        for spec in finished:
            own = rows[self._row_of[spec.key]] if rows is not None else self._measure(spec.key, metric)
            table[places[0][spec.configuration], places[1][spec.seed]] = own
        return table

    def _measure(self, key: str, metric: str) -> float:
        value = self.record.results[key].measures.get(metric, math.nan)
        return value if math.isfinite(value) else math.nan

    @cached_property
    def _row_of(self) -> dict[str, int]:
        """Where a finished trial stands in `_by_prompt`."""
        finished = [spec.key for spec in self.record.plan if status(self.record, spec.key) == "finished"]
        return {key: place for place, key in enumerate(finished)}

    def _by_prompt(self, metric: str) -> NDArray[np.float64] | None:
        """A measure of every finished trial by prompt, (trials, prompts); None unless all have the same prompts."""
        if ("rows", metric) not in self._kept:
            found = _rows(self.record, list(self._row_of), metric)
            self._kept["rows", metric] = np.empty((0, 0)) if found is None else found
        found = self._kept["rows", metric]
        return found if found.size else None


def _rows(record: SweepRecord, keys: list[str], metric: str) -> NDArray[np.float64] | None:
    place, _, measure = metric.partition("/")
    read = _reader(record, measure)
    if read is None:
        return None
    found = []
    for key in keys:
        mine = {row.index: read(row) for row in record.responses.get(key, ()) if row.set == place}
        found.append(mine)
    prompts = sorted(found[0]) if found else []
    if len(prompts) < 2 or any(mine.keys() != found[0].keys() for mine in found):
        return None  # half a table would compare configurations on different prompts
    table = np.array([[mine[p] for p in prompts] for mine in found], dtype=np.float64)
    return table if np.isfinite(table).all() else None


def _reader(record: SweepRecord, measure: str) -> Callable[[Response], float] | None:
    """How a measure is read off a response; None for one that has no rows."""
    judge, _, name = measure.rpartition("/")
    if name in FROM_ROWS:
        return FROM_ROWS[name]
    if name.startswith("win_rate_"):
        column = f"{judge}/{name.removeprefix('win_rate_')}".lstrip("/")
        return lambda row: row.wins.get(column, math.nan)
    if name == "mean_score":
        return lambda row: row.scores.get(judge or next(iter(row.scores), ""), math.nan)
    return None


FROM_ROWS: dict[str, Callable[[Response], float]] = {
    "kl_to_sft": lambda row: row.kl,
    "response_length": lambda row: row.length,
    "truncated": lambda row: row.truncated,
}


def title(method: str) -> str:
    """A method's name as plots write it."""
    return OBJECTIVES[method].title if method in OBJECTIVES else method


def methods(record: SweepRecord) -> list[str]:
    """The sweep's methods in the order of its plan."""
    return list(dict.fromkeys(spec.method for spec in record.plan))


def evaluation_sets(record: SweepRecord) -> list[str]:
    """The evaluation sets that anything was measured on, in order of appearance."""
    measured = _in_order([record.baseline, *(result.measures for result in record.results.values())])
    parts = (name.partition("/") for name in measured)
    return list(dict.fromkeys(place for place, _, measure in parts if measure in SET_MEASURES))


def facts_of(record: SweepRecord, kind: str) -> dict[str, dict[str, Any]]:
    """The facts named `<kind>/<name>/<what>`, by name."""
    known: dict[str, dict[str, Any]] = {}
    for fact, value in record.facts.items():
        if fact.startswith(f"{kind}/") and fact.count("/") > 1:
            _, name, what = fact.split("/", 2)
            known.setdefault(name, {})[what] = value
    return known


def status(record: SweepRecord, key: str) -> str:
    """What a trial came to; `missing` where the tracker holds no result."""
    return record.results[key].status if key in record.results else "missing"


def trials(record: SweepRecord) -> pd.DataFrame:
    """One row per trial of the plan: identity, the values that were varied, the measures (NaN where there is none)."""
    points = _in_order(spec.point for spec in record.plan)
    measures = _in_order(result.measures for result in record.results.values())
    rows = [_trial_row(record, spec) for spec in record.plan]
    return pd.DataFrame(rows, columns=[*IDENTITY, *points, *measures])


def _in_order(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names in any of the mappings, each once, in order of appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _trial_row(record: SweepRecord, spec: TrialSpec) -> dict[str, Any]:
    result = record.results.get(spec.key)
    identity = (spec.key, spec.method, title(spec.method), spec.configuration, spec.seed)
    found = dict(zip(IDENTITY, (*identity, status(record, spec.key), spec.prior, spec.block, spec.design), strict=True))
    point = {name: str(value) if isinstance(value, list | tuple) else value for name, value in spec.point.items()}
    return {**found, **point, **(result.measures if result else {})}


def configurations(trials: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: how its trials ended, and its measures as means over the seeds that finished.

    A standard error (`<measure>_se`) is the mean of its trials' too. Seeds share the prompts, so that is at least the
    error over prompts of the seed mean, and equal to it where the seeds agree.
    """
    by = ["method", "configuration"]
    groups = trials.groupby(by, sort=False)
    settings = [name for name in trials.columns if name not in (*IDENTITY, *measures_of(trials))]
    counted = groups["status"].value_counts().unstack(fill_value=0).reindex(columns=list(STATUSES), fill_value=0)
    finished = trials[trials["status"] == "finished"].groupby(by, sort=False)[measures_of(trials)].mean()
    fixed = groups[["title", "prior", "design", *settings]].first()
    table = fixed.join(groups.size().rename("trials")).join(counted).join(finished)
    return table.reset_index()


def measures_of(trials: pd.DataFrame) -> list[str]:
    """The columns that are measures: those named `<set>/<measure>`."""
    return [name for name in trials.columns if "/" in name]


def plain_scores(configurations: pd.DataFrame, method: str, metric: str) -> NDArray[np.float64]:
    """One method's scores, one per configuration; NaN where no seed finished; (configurations,)."""
    rows = configurations[configurations["method"] == method]
    if metric not in rows:
        return np.full(len(rows), math.nan)
    return np.asarray(rows[metric], dtype=np.float64)


def is_win_rate(metric: str) -> bool:
    """Whether a metric is a share of wins, for which ½ means equal."""
    return metric.rpartition("/")[2].startswith("win_rate")


def best(tables: Tables, method: str) -> tuple[float, bool]:
    """The primary metric of a method's best configuration, and whether it is cross-fitted or the plain maximum.

    Cross-fitted over prompts (`robustness.cross_fitted_best`) where the metric has rows behind it; elsewhere the
    maximum, which flatters.
    """
    scores = with_scores(tables.scores(method))
    if scores.shape[2] > 1:
        by_prompt = np.nanmean(scores, axis=1)
        return cross_fitted_best(by_prompt, np.random.default_rng(SPLIT_SEED), splits=SPLITS).value, True
    return describe(plain_scores(tables.configurations, method, tables.metric)).maximum, False


def summary(tables: Tables) -> dict[str, Any]:
    """The content of `summary.json`: each method's distribution of the primary metric over configurations.

    Scores are means over seeds; diverged and failed trials are dropped and counted; None where nothing has a score.
    """
    record = tables.record
    return {
        "sweep": record.name,
        "primary_metric": record.primary_metric,
        "evaluation": record.primary_metric.partition("/")[0],
        "failures": "dropped",
        "methods": {method: _method_summary(tables, method) for method in methods(record)},
    }


def _method_summary(tables: Tables, method: str) -> dict[str, Any]:
    record = tables.record
    values = plain_scores(tables.configurations, method, record.primary_metric)
    found = describe(values)
    beating = share_above(values, 0.5) if record.primary_metric.endswith("win_rate_vs_sft") else math.nan
    ended = Counter(status(record, spec.key) for spec in record.plan if spec.method == method)
    return {
        "trials": ended.total(),
        **{name: ended[name] for name in STATUSES[:3]},
        "best": _or_none(best(tables, method)[0]),
        "median": _or_none(found.median),
        "iqm": _or_none(found.interquartile_mean),
        "p10": _or_none(found.tenth_percentile),
        "share_beating_sft": _or_none(beating),
    }


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def ended_otherwise(trials: pd.DataFrame) -> str:
    """The footnote: trials that left no point, by method. `diverged: DPO 1 of 12; failed: none of 36; …`"""
    return "; ".join(f"{word}: {_counted(trials, word)}" for word in STATUSES[1:])


def _counted(trials: pd.DataFrame, status: str) -> str:
    """How many trials of each method ended so; only the methods that have one."""
    parts = [
        f"{name} {(group['status'] == status).sum()} of {len(group)}"
        for name, group in trials.groupby("title", sort=False)
        if (group["status"] == status).any()
    ]
    return ", ".join(parts) or f"none of {len(trials)}"
