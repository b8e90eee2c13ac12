"""The tables that need more than one sweep: methods side by side, order kept, bests carried over, what matters in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from posweep.report.comparison import ANY, Comparison, Shared, Table, scored
from posweep.report.drawing.axes import symbol
from posweep.report.points import logs, written
from posweep.report.tables import Tables, is_win_rate, title
from posweep.robustness import (
    Grid,
    Interval,
    Levels,
    Sample,
    Tasks,
    anova,
    configuration_scores,
    crossed_interval,
    halves,
    holm,
    ice,
    p_value,
    ped_anova,
    rank_correlation,
    transfer,
    two_task_interval,
    typical,
    with_scores,
)

SEED = 0  # of every draw: the same records give the same bytes
SPLITS = 8
ROUNDING = 1e-12  # of a mean over prompts: a smaller error is none
FEWEST = 5
"""Configurations in common that a rank correlation needs."""
MIDDLES = ("median", "iqm", "p10")
PARTS = ("transferred", "best", "default", "typical")
GAINS = ("regret", "over_default", "over_typical")


# --- each method on each task


def method_table(comparison: Comparison) -> tuple[pd.DataFrame, list[str]]:
    """A row per sweep and method: median, interquartile mean, 10th percentile with intervals; and what those are over."""
    rows, over = [], []
    for tables in comparison.tables:
        scores = {method: tables.scores(method) for method in tables.methods}
        counts = {method: int(scored(table).sum()) for method, table in scores.items()}
        there = [method for method, count in counts.items() if count]
        found = _middles([scores[method] for method in there], tables) if there else None
        over.append(found.over if found else "")
        for method in tables.methods:
            row = {"sweep": tables.record.name, "metric": tables.metric, "method": method, "title": title(method)}
            numbers = _numbers(MIDDLES, found[there.index(method)], tables) if found and counts[method] else {}
            rows.append({**row, "configurations": counts[method], **numbers})
    columns = [f"{name}{end}" for name in MIDDLES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["sweep", "metric", "method", "title", "configurations", *columns]), over


def _middles(scores: Sequence[Table], tables: Tables) -> Interval:
    def statistic(sample: Sample) -> Table:
        found = [configuration_scores(with_scores(table), sample) for table in scores]
        middles = [(np.median(s, axis=1), typical(s), np.percentile(s, 10, axis=1)) for s in found]
        return np.stack([np.stack(three, axis=1) for three in middles], axis=1)

    return crossed_interval(statistic, len(tables.seeds), tables.prompts(), np.random.default_rng(SEED))


def _numbers(names: Sequence[str], interval: Interval, scores: Tables | None = None) -> dict[str, float]:
    """Values with both ends, by name; ends of scores that are shares do not leave [0, 1].

    Where no draw differs from another there is nothing to learn a width from, and no ends.
    """
    share = scores is not None and is_win_rate(scores.metric)
    known = (np.where(interval.error > ROUNDING, end, math.nan) for end in (interval.low, interval.high))
    low, high = (np.clip(end, 0, 1) if share else end for end in known)
    ends = zip(names, interval.value, low, high, strict=True)
    return {f"{n}{end}": float(x) for n, *values in ends for end, x in zip(("", "_low", "_high"), values, strict=True)}


def _p(interval: Interval) -> Table:
    """p-values of no difference; NaN where no draw differs from another."""
    return np.where(interval.error > ROUNDING, p_value(interval), math.nan)


# --- do configurations keep their order?


def order_table(comparison: Comparison) -> pd.DataFrame:
    """A row per pair of sweeps and method: Spearman's ρ of the configurations in common."""
    rows = []
    for one, other in comparison.pairs():
        every = [common.kept(common.scored) for common in comparison.shared(one, other)]
        enough = [common for common in every if len(common.points) >= FEWEST]
        names = [common.method for common in enough]
        tasks = comparison.tasks(one, other)
        found = _correlations(enough, tasks) if enough else None
        for common in every:
            row = {"one": comparison.names[one], "other": comparison.names[other], "method": common.method}
            numbers = (
                _numbers(("rho",), found[[names.index(common.method)]]) if common.method in names and found else {}
            )
            rows.append({**row, "title": title(common.method), "configurations": len(common.points), **numbers})
    columns = ["one", "other", "method", "title", "configurations", "rho", "rho_low", "rho_high"]
    table = pd.DataFrame(rows, columns=columns)
    table[["rho_low", "rho_high"]] = table[["rho_low", "rho_high"]].astype(float).clip(-1, 1)
    return table


def _correlations(shared: Sequence[Shared], tasks: Tasks) -> Interval:
    def statistic(one: Sample, other: Sample) -> Table:
        found = [
            rank_correlation(configuration_scores(s.one, one), configuration_scores(s.other, other)) for s in shared
        ]
        return np.stack(found, axis=1)

    return two_task_interval(statistic, tasks, np.random.default_rng(SEED))


def score_table(comparison: Comparison, one: int, other: int) -> pd.DataFrame:
    """A row per configuration in common: its score on either sweep, and whether the first would choose it."""
    rows = []
    for common in comparison.shared(one, other):
        kept = common.kept(common.scored)
        first, second = (_plain(table) for table in (kept.one, kept.other))
        for place, point in enumerate(kept.points):
            row = {"one": comparison.names[one], "other": comparison.names[other], "method": common.method}
            row |= {"point": written(common.method, point), "score_one": first[place], "score_other": second[place]}
            rows.append(row | {"chosen": place == int(first.argmax())})
    return pd.DataFrame(rows, columns=["one", "other", "method", "point", "score_one", "score_other", "chosen"])


def _plain(table: Table) -> Table:
    return configuration_scores(table, Sample.everything(*table.shape[1:]))[0]


# --- what is the best of one task worth on another?

TRANSFER = [
    "one", "other", "method", "title", "configurations", "point", "lost",
    *(f"{name}{end}" for name in (*PARTS, *GAINS) for end in ("", "_low", "_high")),
    *(f"{name}_p" for name in GAINS),
]  # fmt: skip


def transfer_table(comparison: Comparison) -> pd.DataFrame:
    """A row per direction and method, and one for all methods together; Holm over the rows of a direction.

    `point` is what the one sweep would choose, `lost` what it would rather have chosen but has no score on the other.
    """
    rows = []
    for one, other in comparison.directions():
        every = [common for common in comparison.shared(one, other) if common.scored.any()]
        if not every:
            continue
        names = {"one": comparison.names[one], "other": comparison.names[other]}
        found = _transfers(every, comparison.tasks(one, other))
        adjusted = np.stack([holm(_p(found)[:, len(PARTS) + i]) for i in range(len(GAINS))], axis=1)
        chosen = [_chosen(common) for common in every]
        for place, common in enumerate(every):
            identity = {"method": common.method, "title": title(common.method), **chosen[place]}
            rows.append({**names, **identity, **_row(found[place], adjusted[place], comparison.tables[other])})
        if len(every) > 1:
            identity = {"method": ANY, "title": ANY, "configurations": sum(c["configurations"] for c in chosen)}
            rows.append(
                {**names, **identity, **_row(found[len(every)], adjusted[len(every)], comparison.tables[other])}
            )
    return pd.DataFrame(rows, columns=TRANSFER)


def _row(interval: Interval, adjusted: Table, other: Tables) -> dict[str, float]:
    count = len(PARTS)
    found = _numbers(PARTS, interval[:count], other) | _numbers(GAINS, interval[count:])
    return found | {f"{name}_p": float(p) for name, p in zip(GAINS, adjusted, strict=True)}


def _transfers(every: Sequence[Shared], tasks: Tasks) -> Interval:
    """The four scores of `transfer` and their three differences, for each method and for all together."""
    by_prompt = tasks.prompts[1] > 1
    splits = halves((tasks.prompts if by_prompt else tasks.seeds)[1], np.random.default_rng(SEED), SPLITS)
    tables = [(common.one, common.other, common.default) for common in every]
    if len(every) > 1:
        one, other = (np.concatenate(parts) for parts in zip(*((s.one, s.other) for s in every), strict=True))
        tables.append((one, other, None))

    def statistic(one: Sample, other: Sample) -> Table:
        parts = [transfer(a, b, (one, other), splits, d, tasks.same_prompts) for a, b, d in tables]
        return np.stack([np.concatenate([part, _gains(part)], axis=1) for part in parts], axis=1)

    return two_task_interval(statistic, tasks, np.random.default_rng(SEED))


def _gains(part: Table) -> Table:
    transferred, best, default, usual = part.T
    return np.stack([best - transferred, transferred - default, transferred - usual], axis=1)


def _chosen(common: Shared) -> dict[str, Any]:
    """What the one sweep would choose among what has a score on both, and its first choice where that has none."""
    first, there = np.full(len(common.points), -math.inf), scored(common.one)
    first[there] = _plain(common.one[there])
    favourite, kept = int(first.argmax()), int(np.where(common.scored, first, -math.inf).argmax())
    lost = "" if favourite == kept else written(common.method, common.points[favourite])
    point = written(common.method, common.points[kept])
    return {"configurations": int(common.scored.sum()), "point": point, "lost": lost}


# --- does the same hyperparameter matter?

SHARES = [
    "one", "other", "method", "title", "hyperparameter", "symbol",
    *(f"{name}{end}" for name in ("share_one", "share_other", "difference") for end in ("", "_low", "_high")),
    "p", "best_one", "best_other", "how",
]  # fmt: skip


def share_table(comparison: Comparison) -> tuple[pd.DataFrame, list[str]]:
    """A row per pair of sweeps, method and hyperparameter: its main effect on either; and the methods that have none."""
    rows, refused = [], []
    for one, other in comparison.pairs():
        names = {"one": comparison.names[one], "other": comparison.names[other]}
        worst = {common.method: common for common in comparison.shared(one, other, "worst")}
        found = [_design(common, worst[common.method]) for common in comparison.shared(one, other)]
        exact = [(common, how) for common, how in found if how.startswith("ANOVA")]
        if exact:
            rows += [names | row for row in _exact(exact, comparison.tasks(one, other))]
        for common, how in found:
            if not how.startswith("ANOVA"):
                dense = _dense(common)
                rows += [names | row for row in dense]
                refused += [] if dense else [title(common.method)]
    return pd.DataFrame(rows, columns=SHARES), list(dict.fromkeys(refused))


def _design(common: Shared, worst: Shared) -> tuple[Shared, str]:
    """The configurations in common as a full grid, if they are one: with what finished, or with diverged at the worst."""
    kept = common.kept(common.scored)
    tried = (
        (kept, "ANOVA", bool(common.scored.all())),
        (worst, "ANOVA, diverged trials at the worst score", bool(worst.scored.all())),
        (kept, f"ANOVA of the {len(kept.points)} that finished", True),
    )
    for found, how, complete in tried:
        if complete and found.columns and Grid.of(found.columns).full:
            return found, how
    return kept, ""


def _exact(exact: Sequence[tuple[Shared, str]], tasks: Tasks) -> list[dict[str, Any]]:
    """Shares of main effects by ANOVA, under one draw for all methods."""

    def statistic(one: Sample, other: Sample) -> Table:
        parts = [(_main(common.one, one, common), _main(common.other, other, common)) for common, _ in exact]
        first, second = (np.concatenate(shares, axis=1) for shares in zip(*parts, strict=True))
        return np.stack([first, second, second - first], axis=2)

    found = two_task_interval(statistic, tasks, np.random.default_rng(SEED))
    adjusted = holm(_p(found)[:, 2])
    places = [(common, how, name) for common, how in exact for name in common.columns]
    rows = []
    for i, (common, how, name) in enumerate(places):
        numbers = _numbers(("share_one", "share_other", "difference"), found[i])
        ends = {n: min(max(x, 0.0), 1.0) if n.startswith("share") else x for n, x in numbers.items()}
        rows.append(_share(common, name, how) | ends | {"p": adjusted[i]})
    return rows


def _main(table: Table, sample: Sample, common: Shared) -> Table:
    """The share of every hyperparameter's main effect, (replicates, hyperparameters)."""
    return anova(configuration_scores(table, sample), common.columns).shares[:, : len(common.columns)]


def _dense(common: Shared) -> list[dict[str, Any]]:
    """Shares of importance by PED-ANOVA, without an interval; none where there are too few configurations."""
    one, other = (
        ped_anova(_plain(table), common.columns, logs(common.method, list(common.columns))).shares
        for table in (common.one, common.other)
    )
    return [
        _share(common, name, "PED-ANOVA") | {"share_one": one[name], "share_other": other[name]}
        for name in one
        if name in other
    ]


def _share(common: Shared, name: str, how: str) -> dict[str, Any]:
    """What hyperparameter it is of which method, and the level at which each sweep does best on average."""
    row = {"method": common.method, "title": title(common.method), "hyperparameter": name}
    best = [_best_level(_plain(table), common.columns, name) for table in (common.one, common.other)]
    return row | {"symbol": symbol(common.method, name), "best_one": best[0], "best_other": best[1], "how": how}


def _best_level(scores: Table, columns: Levels, name: str) -> Any:
    """The level with the highest mean over all others; None off a grid."""
    curves = ice(scores, columns, name)
    return curves.along[int(curves.mean.argmax())] if np.isfinite(curves.mean).all() else None
