"""What failed, and whether the verdict depends on how diverged trials are counted."""

from __future__ import annotations

import pandas as pd

from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.certainty.part import described, described_columns, described_values, drawn, interval
from posweep.report.drawing.failures import failure_policies
from posweep.report.tables import STATUSES, Diverged, Tables, title
from posweep.robustness import Interval, configuration_scores

POLICIES = {"dropped": "diverged dropped", "worst": "diverged at worst"}


def failures(tables: Tables) -> Part:
    """How trials ended by method, and the statistics of the primary metric under both policies."""
    counts = pd.DataFrame([_counts(tables, method) for method in tables.methods])
    policies: tuple[Diverged, ...] = ("dropped", "worst")
    found = {policy: [_interval(tables, method, policy) for method in tables.methods] for policy in policies}
    values = [pd.DataFrame([described_values(one, policy) for one in mine]) for policy, mine in found.items()]
    data = pd.concat([counts, *values], axis=1)
    caption = _caption(tables, found["dropped"][0].over)
    sheet = Sheet("failures_by_method", "How trials ended, and what it does to the numbers", caption, data, _columns())
    lost = int(counts[list(STATUSES[1:])].to_numpy().sum())
    if not lost:
        return Part(("Every trial finished: nothing depends on how failures are counted.",), (sheet,))
    if data["median_worst"].isna().all():
        return Part(_words(counts), (sheet,))
    figure = failure_policies(data, tables.metric, tables.note)
    heading = f"Trials that did not finish, and the median of {tables.metric} under both policies"
    return Part(_words(counts), (sheet,), (Drawing("failure_policies", heading, caption, data, figure),))


def _interval(tables: Tables, method: str, policy: Diverged) -> Interval:
    table = tables.scores(method, diverged=policy)
    return interval(tables, lambda sample: described(configuration_scores(table, sample)))


def _counts(tables: Tables, method: str) -> dict[str, object]:
    ended = tables.trials.loc[tables.trials["method"] == method, "status"]
    counts = {name: int((ended == name).sum()) for name in STATUSES}
    shares = {f"{name}_share": counts[name] / len(ended) for name in STATUSES[1:]}
    return {"method": method, "trials": len(ended), **counts, **shares}


def _columns() -> dict[str, Column]:
    counted = {name: Column(name, "count") for name in ("trials", *STATUSES[1:])}
    return {"method": Column("method", "method"), **counted, **described_columns(POLICIES)}


def _caption(tables: Tables, over: str) -> str:
    lowest = tables.worst()
    worst = "0" if lowest == 0 else f"{lowest:.3g}, the lowest of any trial"
    intervals = f" Intervals: 95 %, over {over}, given the configurations." if drawn(tables) else ""
    return (
        f"Statistics of {tables.metric} over configurations (means over seeds), twice: diverged trials dropped, and at the "
        f"worst value ({worst}). Dropping flatters methods that diverge. Failed and missing trials were lost to the machine "
        f"or to a mistake, not to the method: they are never imputed.{intervals}"
    )


def _words(counts: pd.DataFrame) -> tuple[str, ...]:
    diverged, lost = int(counts["diverged"].sum()), int(counts["failed"].sum() + counts["missing"].sum())
    who = ", ".join(
        f"{title(row.method)} {row.diverged} of {row.trials}" for row in counts.itertuples() if row.diverged
    )
    first = f"Diverged: {who}." if diverged else "No trial diverged."
    rest = (
        f" {lost} trial{'s' * (lost != 1)} failed or have no result and are left out of every statistic."
        if lost
        else ""
    )
    return (first + rest,)
