"""What the judges are, and how far they agree on the responses that all of them saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from posweep.records import Response, SweepRecord, TrialSpec
from posweep.report.page.markup import Safe, count, decimals, fact, table
from posweep.report.tables import facts_of, is_win_rate, status
from posweep.robustness import agreement, kappa, rank_agreement

BOOTSTRAP_SEED = 0  # every pair of judges sees the same draws of prompts
OPPONENTS = {"vs_sft": "the SFT model", "vs_chosen": "the chosen responses"}
TERMS = {
    "agreement": "share of comparisons on which both prefer the same side; a tie of one alone counts half, of both fully",
    "κ": "Cohen's kappa of win, tie and loss with linear weights, over all trials: 1 when they always agree, 0 when no "
    "more often than by chance, given how often each says win, tie or loss",
    "τ-b": "Kendall's, of the configurations' win-rates (means over seeds): 1 when both judges order them alike, 0 when "
    "one order says nothing of the other, −1 when one is the other reversed. Both read the same responses, whose luck "
    "moves both win-rates alike",
    "interval": "of τ-b, 95 % over prompts: each draw of prompts is one for all configurations and both judges, given "
    "these seeds and this SFT checkpoint",
}
COLUMNS = (
    "set", "opponent", "judge", "other_judge", "agreement", "kappa", "tau_b", "tau_b_low", "tau_b_high", "comparisons",
    "configurations", "prompts",
)  # fmt: skip


def judges(record: SweepRecord) -> dict[str, str]:
    """Every judge whose wins are recorded, primary first, with what the names of its wins begin with.

    The primary judge's wins carry no name: it is the first of the sweep's judges that no other win is named after.
    """
    first = [rows[0] for rows in record.responses.values() if rows]
    wins = dict.fromkeys(name.rpartition("/")[0] for row in first for name in row.wins)
    others = [name for name in wins if name]
    named = [name for name in _named(record, first) if name not in others]
    primary = {named[0] if named else "the primary judge": ""} if "" in wins else {}
    ordered = sorted(others, key=_named(record, first).index) if set(others) <= set(_named(record, first)) else others
    return primary | {name: f"{name}/" for name in ordered}


def _named(record: SweepRecord, rows: list[Response]) -> list[str]:
    """The judges that the sweep's facts and the responses' scores name, in the order of the sweep."""
    told = [name.strip() for name in str(record.facts.get("judges", "")).split(",")]
    return list(dict.fromkeys(name for name in (*told, *(name for row in rows for name in row.scores)) if name))


def judge_agreement(record: SweepRecord) -> pd.DataFrame:
    """One row per pair of judges on the primary metric's set and opponent; no rows where fewer than two judged it."""
    place, _, measure = record.primary_metric.partition("/")
    opponent = measure.rpartition("/")[2].removeprefix("win_rate_") if is_win_rate(measure) else "vs_sft"
    finished = [spec for spec in record.plan if status(record, spec.key) == "finished"]
    wins = {judge: _wins(record, finished, place, prefix + opponent) for judge, prefix in judges(record).items()}
    known = {judge: table for judge, table in wins.items() if np.isfinite(table).any()}
    rows = [
        (place, opponent, one, other, *_agreement(np.stack([known[one], known[other]]), finished))
        for one, other in combinations(known, 2)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _wins(record: SweepRecord, trials: Sequence[TrialSpec], place: str, name: str) -> np.ndarray:
    """One judge's wins, (trials, prompts); NaN where it lacks one."""
    rows = [[row for row in record.responses.get(spec.key, ()) if row.set == place] for spec in trials]
    table = np.full((len(trials), max((row.index + 1 for mine in rows for row in mine), default=0)), math.nan)
    for at, mine in enumerate(rows):
        table[at, [row.index for row in mine]] = [row.wins.get(name, math.nan) for row in mine]
    return table


def _agreement(pair: np.ndarray, trials: Sequence[TrialSpec]) -> tuple[float, ...]:
    """Every number of one row: single comparisons pooled over trials, ranks of configurations as means over seeds.

    Args:
        pair: both judges' wins, (2, trials, prompts).
        trials: the second axis.
    """
    both = np.isfinite(pair).all(axis=0)
    first, second = (_by_configuration(table, both, trials) for table in pair)
    ranks = rank_agreement(first, second, np.random.default_rng(BOOTSTRAP_SEED))
    one, other = pair[:, both]
    return (agreement(one, other), kappa(one, other), ranks.tau, ranks.low, ranks.high, int(both.sum()), *first.shape)


def _by_configuration(wins: np.ndarray, both: np.ndarray, trials: Sequence[TrialSpec]) -> np.ndarray:
    """Means over seeds, (configurations, prompts that every trial has)."""
    there = np.atleast_1d(both.any(axis=1))
    prompts = both[there].all(axis=0)
    names = [(spec.method, spec.configuration) for spec, has in zip(trials, there, strict=True) if has]
    table = pd.DataFrame(wins[there][:, prompts], index=pd.MultiIndex.from_tuples(names) if names else None)
    means = table.groupby(level=[0, 1], sort=False).mean() if names else table
    return means.to_numpy(dtype=np.float64)


def agreement_words(agreed: pd.DataFrame) -> str:
    """Over what the numbers of `agreement_table` are."""
    place, opponent = agreed["set"].iloc[0], agreed["opponent"].iloc[0]
    return (
        f"Responses of finished trials on {place}, compared with {OPPONENTS.get(opponent, opponent)}; "
        "each row is over the comparisons that both of its judges made."
    )


def agreement_table(agreed: pd.DataFrame) -> Safe | None:
    """A row per pair of judges; None where there is no pair."""
    headers = ("judges", "agreement", "κ", "τ-b", "interval", "comparisons", "configurations", "prompts")
    rows = [
        [f"{row.judge}, {row.other_judge}", decimals(row.agreement), decimals(row.kappa, 2), decimals(row.tau_b, 2)]
        + [interval(row.tau_b_low, row.tau_b_high)]
        + [count(n) for n in (row.comparisons, row.configurations, row.prompts)]
        for row in agreed.itertuples()
    ]
    return table(headers, rows) if rows else None


def interval(low: float, high: float) -> str | None:
    """Both ends, or None where there is none."""
    ends = decimals(low, 2), decimals(high, 2)
    return f"{ends[0]} … {ends[1]}" if all(ends) else None


def judge_table(record: SweepRecord) -> Safe | None:
    """What is known of each judge, its own accuracy beside what length alone predicts; None where nothing is."""
    known = facts_of(record, "judge")
    there = {what for facts in known.values() for what in facts}
    first = [what for what in ("model", "held_out_accuracy", "longer_wins_accuracy") if what in there]
    columns = [*first, *sorted(there - set(first))]
    rows = [
        [judge, *(_judge_fact(what, found[what]) if what in found else None for what in columns)]
        for judge, found in known.items()
    ]
    words = ["judge", *(what.replace("_", " ") for what in columns)]
    return table(words, rows, text=1 + ("model" in first)) if rows else None


def _judge_fact(what: str, value: object) -> str:
    """Accuracies with three digits; other whole numbers are counts, kept as floats by those who add them up."""
    return fact(value) if what == "model" or what.endswith("accuracy") else count(value)
