"""The tables of the page, each a function of the sweep's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from posweep.records import SweepRecord, TrialSpec
from posweep.report.drawing.axes import number, symbol
from posweep.report.page.markup import Safe, count, decimals, folded, html, link, named, paragraph, table, with_error
from posweep.report.tables import Tables, evaluation_sets, facts_of, is_win_rate, methods, plain_scores, status, title

FEW, FAILURES = 30, 500  # trials that did not finish: more than the first are folded, more than the second cut
WORK = ("train", "generate", "kl", "judge", "measure")
PER_SET = {  # measure → heading, digits
    "win_rate_vs_sft": ("win-rate vs SFT", 3),
    "win_rate_vs_chosen": ("win-rate vs chosen", 3),
    "kl_to_sft": ("KL to SFT (nats)", 2),
    "response_length": ("length (tokens)", 1),
    "truncated": ("truncated", 3),
    "distinct": ("distinct", 3),
}

MEASURES = {  # how each is said, those of every judge alike
    "win_rate_vs_sft": "win-rate against SFT",
    "win_rate_vs_chosen": "win-rate against chosen",
    "mean_score": "mean score",
    "kl_to_sft": "KL to SFT (nats per response)",
    "kl_to_sft_per_token": "KL to SFT (nats per token)",
    "response_length": "response length (tokens)",
    "truncated": "share truncated",
    "distinct": "share distinct",
    "preference_accuracy": "preference accuracy",
    "chosen_logps_change": "change of log π(chosen) (nats)",
    "rejected_logps_change": "change of log π(rejected) (nats)",
}
DISTRIBUTIONS = {"iid": "in distribution", "ood": "out of distribution"}


def metric_words(metric: str) -> str:
    """A metric without its set, as people say it: `win-rate against SFT (judge proxy)`."""
    judge, _, measure = metric.partition("/")[2].rpartition("/")
    return MEASURES.get(measure, measure.replace("_", " ")) + (f" (judge {judge})" if judge else "")


def distribution_table(summary: Mapping[str, Any]) -> Safe:
    """`summary.json` as a table."""
    digits = 3 if is_win_rate(summary["primary_metric"]) else 2
    statistics = ("best", "median", "iqm", "p10", "share_beating_sft")
    headers = ("method", "trials", "finished", "diverged", "failed", "best", "median", "IQM", "10th pct.", "beat SFT")
    rows = [
        [named(name, title(name)), *(row[key] for key in ("trials", "finished", "diverged", "failed"))]
        + [decimals(row[key], digits) for key in statistics[:-1]]
        + [None if row["share_beating_sft"] is None else f"{row['share_beating_sft']:.0%}"]
        for name, row in summary["methods"].items()
    ]
    return table(headers, rows, sortable=True)


def fresh_table(record: SweepRecord) -> Safe:
    """The A/A row: what the judge says of the SFT model against fresh responses of its own."""
    names = [f"{place}/win_rate_vs_sft" for place in evaluation_sets(record)]
    rates = [with_error(record.baseline.get(name), record.baseline.get(f"{name}_se")) for name in names]
    return table(["", *evaluation_sets(record)], [["A/A: SFT against fresh SFT", *rates]], own=1)


def per_set_table(tables: Tables) -> Safe:
    """Medians over configurations on one evaluation set after another, the SFT model's own values below each."""
    headers = ("set", "method", *(heading for heading, _ in PER_SET.values()))
    rows = [row for place in evaluation_sets(tables.record) for row in _set_rows(tables, place)]
    return table(headers, rows, text=2)


def _set_rows(tables: Tables, place: str) -> list[list[object]]:
    rows: list[list[object]] = []
    named_so = _set_name(tables.record, place)
    for method in methods(tables.record):
        found = [plain_scores(tables.configurations, method, f"{place}/{measure}") for measure in PER_SET]
        medians = [decimals(float(pd.Series(v).median()), d) for v, (_, d) in zip(found, PER_SET.values(), strict=True)]
        rows.append(["" if rows else named_so, named(method, title(method)), *medians])
    own = [decimals(tables.record.baseline.get(f"{place}/{m}"), digits) for m, (_, digits) in PER_SET.items()]
    rows.append(["", Safe("<em>SFT model</em>"), *own])
    return rows


def _set_name(record: SweepRecord, place: str) -> Safe:
    """A set's name and, where it is known, whether its prompts are like those trained on."""
    found = facts_of(record, "set").get(place, {}).get("distribution")
    below = f'<br><span class="faint">{html(DISTRIBUTIONS.get(str(found), found))}</span>' if found else ""
    return Safe(html(place) + below)


def seconds_table(record: SweepRecord) -> Safe:
    """Seconds by stage, summed over each method's trials, and the share that was none of the trials' own work."""
    spent = {method: _seconds(record, method) for method in (*methods(record), None)}
    stages = [stage for stage in dict.fromkeys(name for row in spent.values() for name in row) if stage != "total"]
    rows: list[list[object]] = []
    for method, row in spent.items():
        name = named(method, title(method)) if method else "all"
        rows.append([name, *(decimals(row.get(s), 1) for s in stages), decimals(_total(row), 1), _overhead(row)])
    return table(["method", *stages, "total", "overhead"], rows)


def _seconds(record: SweepRecord, method: str | None) -> dict[str, float]:
    """Seconds by stage of one method's trials, or of all."""
    spent: dict[str, float] = {}
    for spec in record.plan:
        if spec.key in record.results and method in (None, spec.method):
            for stage, seconds in record.results[spec.key].seconds.items():
                spent[stage] = spent.get(stage, 0.0) + seconds
    return spent


def _total(spent: Mapping[str, float]) -> float:
    return spent.get("total", sum(spent.values()))


def _overhead(spent: Mapping[str, float]) -> str | None:
    total = _total(spent)
    return f"{1 - sum(spent.get(stage, 0.0) for stage in WORK) / total:.1%}" if total > 0 else None


def data_table(record: SweepRecord) -> Safe | None:
    """What was counted when the data were read, training pairs first; None where nothing was."""
    known = facts_of(record, "data")
    columns = dict.fromkeys(what for facts in known.values() for what in facts)
    places = sorted(known, key=lambda place: place != "train")
    rows = [
        [place, *(count(known[place][what]) if what in known[place] else None for what in columns)] for place in places
    ]
    return table(["", *(what.replace("_", " ") for what in columns)], rows, wrap=True) if rows else None


def trials_table(tables: Tables, limit: int) -> Safe | None:
    """The first trials of the plan; None where there is none."""
    record, metric = tables.record, tables.record.primary_metric
    place = metric.partition("/")[0]
    shown = dict.fromkeys((metric, f"{place}/kl_to_sft", f"{place}/response_length"))
    rows = [_trial_row(record, spec, list(shown)) for spec in record.plan[:limit]]
    headers = ("trial", "method", "configuration", "status", "seed", *(name.replace("_", " ") for name in shown))
    return table(headers, rows, text=4, sortable=True) if rows else None


def configuration_words(spec: TrialSpec) -> str:
    """What tells a configuration from its neighbours: `β 0.1, γ 0, learning rate 3e-4`."""
    return ", ".join(f"{symbol(spec.method, name)} {number(value)}" for name, value in spec.point.items())


def _trial_row(record: SweepRecord, spec: TrialSpec, shown: list[str]) -> list[object]:
    result = record.results.get(spec.key)
    found = result.measures if result else {}
    values = [with_error(found.get(n), found.get(f"{n}_se"), 3 if is_win_rate(n) else 2) for n in shown]
    words = (named(spec.method, title(spec.method)), configuration_words(spec), status(record, spec.key))
    return [_run_link(record, spec), *words, spec.seed, *values]


def _run_link(record: SweepRecord, spec: TrialSpec) -> Safe:
    """The beginning of a trial's key, leading to its run."""
    return Safe(f"<code>{link(spec.key[:12], record.run_urls.get(spec.key))}</code>")


def failures_table(record: SweepRecord) -> Safe | None:
    """Trials that a mistake or the machine ended, and trials that diverged, with what they said."""
    ended = [(s, record.results[s.key]) for s in record.plan if status(record, s.key) in ("failed", "diverged")]
    rows = [
        [_run_link(record, s), named(s.method, title(s.method)), configuration_words(s), r.status, r.message]
        for s, r in ended[:FAILURES]
    ]
    headers = ("trial", "method", "configuration", "status", "message")
    shown = table(headers, rows, text=len(headers), sortable=True)
    more = paragraph(
        f"{len(ended) - FAILURES:,} more are in tables/trials.csv." if len(ended) > FAILURES else "", "faint"
    )
    if not rows:
        return None
    return Safe((folded(f"{len(rows)} trials", shown) if len(rows) > FEW else shown) + more)
