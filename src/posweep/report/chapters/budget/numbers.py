"""What the chapter says in numbers: every statistic of every method under the same seeds, prompts and halves of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from posweep.report.tables import SPLIT_SEED, SPLITS, Diverged, Tables, facts_of, is_win_rate
from posweep.robustness import (
    Interval,
    Sample,
    configuration_scores,
    cross_fitted_ranks,
    cross_fitted_ranks_of_all,
    crossed_interval,
    draw_variance,
    expected_best,
    halves,
    holm,
    p_value,
    performance_profile,
    robust_share,
    tuning_area,
    tuning_cost,
)
from posweep.robustness.best import Halves
from posweep.robustness.crossed import finished
from posweep.robustness.ranking import Ranking, order, ranking

Table = NDArray[np.float64]
Parts = Callable[[Sample], Mapping[tuple[str, str], Table]]
"""From a sample to statistics by what they are and of which method, (replicates, …) each."""

SMALL = (1, 3)  # budgets that anybody has
EVERY = 60  # configurations; of more, the curve is computed at that many budgets, evenly on a log axis
ENOUGH = 20  # prompts: fewer can be neither split nor drawn from, and count as one
EVEN = 0.5  # the SFT model's win-rate against itself
NAMED = (0.02, 0.05, 0.1)  # ε of a win-rate that the sheet names


@dataclass(frozen=True)
class Method:
    """What a budget can be spent on.

    Attributes:
        name: of the method.
        scores: of its configurations that finished, (configurations, seeds, prompts).
        elsewhere: their scores in distribution, to choose by, (configurations, seeds, other prompts); None without such.
        budgets: the numbers of trials that its curve is computed at.
        hours: of a trial, mean over those that have a result; GPU-hours where a trial has a GPU; NaN where not recorded.
        random: whether every point was drawn at random.
    """

    name: str
    scores: Table
    elsewhere: Table | None
    budgets: NDArray[np.int64]
    hours: float
    random: bool

    @property
    def count(self) -> int:
        """Configurations with a score."""
        return len(self.scores)


@dataclass(frozen=True)
class Numbers:
    """Every statistic of the chapter.

    Attributes:
        methods: those with a configuration that finished, in the order of the plan.
        budgets: at which methods are compared; the last is the most that most of them have.
        thresholds: of the performance profiles.
        epsilons: of the robust shares.
        found: what and method → its interval; shapes follow budgets, thresholds, epsilons or configurations.
        worst: `at`, `beats` and `harms` with diverged trials at the worst score; empty where none diverged.
        adjusted: p-values after Holm over all pairs and budgets, (budgets, methods, methods); where configurations were
            drawn at random, other draws count as luck, too.
        prompts: that are split and drawn; 1 where there are too few.
        over: what the intervals are over.
    """

    methods: tuple[Method, ...]
    budgets: tuple[int, ...]
    thresholds: Table
    epsilons: Table
    found: Mapping[tuple[str, str], Interval]
    worst: Mapping[tuple[str, str], Interval]
    adjusted: Table
    prompts: int
    over: str

    @property
    def drawn(self) -> bool:
        """Whether seeds or prompts were drawn."""
        return not self.over.startswith("nothing")

    def ranking(self, place: int) -> Ranking:
        """The order of methods at one budget, as far as it is significant and outlives counting diverged trials."""
        variants = {"diverged at the worst": _column(self.worst, self.methods, place)} if self.worst else {}
        return ranking(_column(self.found, self.methods, place), self.adjusted[place], variants)

    def difference(self, place: int, better: int, worse: int) -> tuple[float, float, float]:
        """How much more one method is expected to reach than another at one budget, and its interval."""
        first, second = _pairs(len(self.methods))
        pair = list(zip(first, second, strict=True)).index((min(better, worse), max(better, worse)))
        found = self.found["pairs", ""][place * len(first) + pair]
        ends = (found.value, found.low, found.high) if better < worse else (-found.value, -found.high, -found.low)
        return float(ends[0]), float(ends[1]), float(ends[2])

    def order(self, place: int) -> tuple[int, ...]:
        """Methods by index, the highest expected best at a budget first."""
        return order(_column(self.found, self.methods, place))


def numbers(tables: Tables) -> Numbers | None:
    """The statistics of a sweep; None before any configuration has a score."""
    methods = _methods(tables, "dropped")
    if not methods:
        return None
    budgets = _budgets([method.count for method in methods])
    thresholds, epsilons = _thresholds(tables, methods), _epsilons(tables, methods)
    prompts = methods[0].scores.shape[2]
    splits = halves(prompts, np.random.default_rng(SPLIT_SEED), SPLITS)

    def parts(sample: Sample) -> Mapping[tuple[str, str], Table]:
        ranks = _ranks(methods, sample, splits)
        found = {("pairs", ""): _differences(ranks, budgets), ("draws", ""): _draws(methods, ranks, budgets)}
        for m in methods:
            found |= _statistics(m, ranks[m.name], sample, budgets, thresholds, epsilons)
        return found

    found = intervals(parts, len(tables.seeds), prompts)
    found["pairs", ""] = _wider(found["pairs", ""], found["draws", ""].value)
    adjusted = _adjusted(found["pairs", ""], len(methods), len(budgets))
    worst = _at_worst(tables, budgets) if (tables.trials["status"] == "diverged").any() else {}
    over = found["draws", ""].over
    return Numbers(methods, budgets, thresholds, epsilons, found, worst, adjusted, prompts, over)


def intervals(parts: Parts, seeds: int, prompts: int) -> dict[tuple[str, str], Interval]:
    """The interval of every part; all are computed in the same replicates, so that differences are paired."""
    widths = {key: value.shape[1] for key, value in parts(Sample.everything(seeds, prompts)).items()}
    ends = np.cumsum([0, *widths.values()])

    def joined(sample: Sample) -> Table:
        return np.concatenate(list(parts(sample).values()), axis=1)

    whole = crossed_interval(joined, seeds, prompts, np.random.default_rng(SPLIT_SEED))
    return {key: whole[start:end] for key, start, end in zip(widths, ends[:-1], ends[1:], strict=True)}


def _methods(tables: Tables, diverged: Diverged) -> tuple[Method, ...]:
    made = (_method(tables, name, diverged) for name in tables.methods)
    return tuple(method for method in made if method.count)


def _method(tables: Tables, name: str, diverged: Diverged) -> Method:
    scores = _enough(tables.scores(name, diverged=diverged))
    there = finished(scores).any(axis=1)
    metric = selection_metric(tables)
    elsewhere = tables.scores(name, metric, diverged)[there] if metric else None
    if elsewhere is not None and not finished(elsewhere).any(axis=1).all():
        elsewhere = None  # what was never measured in distribution cannot be chosen there
    designs = set(tables.points(name)["design"])
    return Method(name, scores[there], elsewhere, _grid(int(there.sum())), _hours(tables, name), designs == {"random"})


def _enough(scores: Table) -> Table:
    """Scores by prompt, or their means where prompts are too few."""
    return scores if scores.shape[2] >= ENOUGH else scores.mean(axis=2, keepdims=True)


def selection_metric(tables: Tables) -> str | None:
    """The primary metric in distribution, to choose by, where the primary metric itself is of another set."""
    measure = tables.metric.partition("/")[2]
    sets = facts_of(tables.record, "set")
    inside = [name for name, facts in sets.items() if facts.get("distribution") == "iid" and name != tables.place]
    return next((f"{name}/{measure}" for name in inside if f"{name}/{measure}" in tables.trials), None)


def _hours(tables: Tables, name: str) -> float:
    record = tables.record
    results = (record.results.get(spec.key) for spec in record.plan if spec.method == name)
    seconds = [result.seconds["total"] for result in results if result and "total" in result.seconds]
    return float(np.mean(seconds)) / 3600 * (gpus(tables) or 1) if seconds else math.nan


def gpus(tables: Tables) -> float:
    """How many GPUs a trial has; 0 where none, or where that is not recorded."""
    return float(tables.record.facts.get("gpus a trial", 0) or 0)


def _grid(count: int) -> NDArray[np.int64]:
    if count <= EVERY:
        return np.arange(1, count + 1)
    spread = np.rint(np.geomspace(1, count, EVERY)).astype(np.int64)
    return np.unique(np.concatenate([spread, [n for n in SMALL if n <= count]]))


def _budgets(counts: Sequence[int]) -> tuple[int, ...]:
    """Few trials, and as many as three methods of four have: one narrow method shall not shorten all curves."""
    return tuple(sorted({*(n for n in SMALL if n <= max(counts)), sorted(counts)[len(counts) // 4]}))


def _thresholds(tables: Tables, methods: Sequence[Method]) -> Table:
    values = np.concatenate([np.nanmean(m.scores, axis=(1, 2)) for m in methods])
    low, high = float(values.min()), float(values.max())
    if is_win_rate(tables.metric):  # ½ is among them
        steps = np.arange(max(math.floor(low * 50) * 4 - 4, 0), min(math.ceil(high * 50) * 4 + 4, 200) + 1)
        return np.asarray(steps / 200, dtype=np.float64)
    margin = 0.04 * (high - low or 1.0)
    return np.linspace(low - margin, high + margin, 151)


def _epsilons(tables: Tables, methods: Sequence[Method]) -> Table:
    if is_win_rate(tables.metric):
        return np.asarray(np.arange(41) / 200, dtype=np.float64)
    return np.linspace(0, max(float(np.ptp(np.nanmean(m.scores, axis=(1, 2)))) for m in methods), 41)


def _ranks(methods: Sequence[Method], sample: Sample, splits: Sequence[Halves]) -> dict[str, Table]:
    found = cross_fitted_ranks_of_all([method.scores for method in methods], sample, splits)
    return {method.name: ranked for method, ranked in zip(methods, found, strict=True)}


def _statistics(
    method: Method, ranks: Table, sample: Sample, budgets: Sequence[int], thresholds: Table, epsilons: Table
) -> dict[tuple[str, str], Table]:
    curve, own = expected_best(ranks, method.budgets), configuration_scores(method.scores, sample)
    found = {
        "curve": curve,
        "at": expected_best(ranks, budgets),
        "all": ranks[:, -1:],
        "area": tuning_area(ranks, budgets[-1])[:, None],
        "cost": tuning_cost(curve, n=method.budgets)[:, None],
        "robust": robust_share(ranks, epsilons),
        "profile": performance_profile(own, thresholds),
        "own": own,
        **_against_sft(own),
    }
    if method.elsewhere is not None:
        found["inside"] = cross_fitted_ranks(method.scores, sample, (), method.elsewhere)[:, -1:]
    return {(what, method.name): value for what, value in found.items()}


def _against_sft(own: Table) -> dict[str, Table]:
    """The shares of configurations that win more than half against the SFT model, and less."""
    return {"beats": (own > EVEN).mean(axis=1)[:, None], "harms": (own < EVEN).mean(axis=1)[:, None]}


def _differences(ranks: Mapping[str, Table], budgets: Sequence[int]) -> Table:
    """Every method less every later one at every budget, (replicates, budgets × pairs)."""
    at = np.stack([expected_best(ranked, budgets) for ranked in ranks.values()], axis=2)
    first, second = _pairs(at.shape[2])
    return (at[:, :, first] - at[:, :, second]).reshape(len(at), -1)


def _pairs(count: int) -> tuple[list[int], list[int]]:
    pairs = list(combinations(range(count), 2))
    return [first for first, _ in pairs], [second for _, second in pairs]


def _draws(methods: Sequence[Method], ranks: Mapping[str, Table], budgets: Sequence[int]) -> Table:
    """How much each difference varies over other random draws of configurations, like `_differences`; 0 on grids.

    Of the data as they are, so only the first replicate is looked at.
    """
    each = [draw_variance(ranks[m.name][0], budgets) if m.random else np.zeros(len(budgets)) for m in methods]
    first, second = _pairs(len(methods))
    of_pairs = np.stack(each, axis=1)[:, first] + np.stack(each, axis=1)[:, second]
    return np.broadcast_to(of_pairs.ravel(), (len(next(iter(ranks.values()))), of_pairs.size))


def _wider(interval: Interval, variance: Table) -> Interval:
    """An interval with more variance in its error, and what else it then is over."""
    error = np.sqrt(interval.error**2 + variance)
    margin = student.ppf(0.975, interval.freedom) * error
    over = f"{interval.over}, and other random draws of configurations" if (variance > 0).any() else interval.over
    return Interval(interval.value, error, interval.freedom, interval.value - margin, interval.value + margin, over)


def _adjusted(differences: Interval, count: int, budgets: int) -> Table:
    """The p-values of all differences after Holm, as a symmetric matrix per budget; NaN on the diagonal."""
    found = np.full((budgets, count, count), math.nan)
    first, second = _pairs(count)
    values = holm(p_value(differences)).reshape(budgets, -1)
    found[:, first, second] = found[:, second, first] = values
    return found


def _at_worst(tables: Tables, budgets: Sequence[int]) -> dict[tuple[str, str], Interval]:
    """What a diverged trial does when it scores the worst: it costs a trial like any other, and harms."""
    methods = _methods(tables, "worst")
    prompts = methods[0].scores.shape[2]
    splits = halves(prompts, np.random.default_rng(SPLIT_SEED), SPLITS)

    def parts(sample: Sample) -> Mapping[tuple[str, str], Table]:
        found = {("at", n): expected_best(ranked, budgets) for n, ranked in _ranks(methods, sample, splits).items()}
        for m in methods:
            shares = _against_sft(configuration_scores(m.scores, sample))
            found |= {(what, m.name): value for what, value in shares.items()}
        return found

    return intervals(parts, len(tables.seeds), prompts)


def _column(found: Mapping[tuple[str, str], Interval], methods: Sequence[Method], place: int) -> Table:
    return np.array([found["at", method.name].value[place] for method in methods])
