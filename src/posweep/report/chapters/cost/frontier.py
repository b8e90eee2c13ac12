"""The KL–win frontier: who is near it, how much a KL budget buys with each method, what its best configuration spends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from posweep.report.chapter import Column, Drawing, Part, Sheet
from posweep.report.chapters.cost.best_of_n import rivals
from posweep.report.chapters.cost.sweep import SAID, SIGNIFICANT, Sweep, ends, means, points, titles
from posweep.report.drawing.axes import ROUND_NATS
from posweep.report.drawing.costs import frontiers
from posweep.report.tables import title
from posweep.robustness import (
    Interval,
    Sample,
    configuration_scores,
    cross_fitted_choice,
    cross_fitted_regret,
    crossed_interval,
    frontier_weights,
    holm,
    non_dominated,
    p_value,
    winner,
)
from posweep.robustness.crossed import finished

Table = NDArray[np.float64]

NEAR = 0.02  # win-rate within which a configuration counts as near the frontier
FEWEST = 3  # configurations from which a method has a frontier worth an area


@dataclass(frozen=True)
class Spending:
    """The configurations that have both a win-rate and a KL.

    Attributes:
        wins: by method, (configurations, seeds, prompts).
        kl: in the same shape, nats.
        kept: their places among all of the method's configurations.
        reference: the largest KL at which any of them beats the SFT model, rounded up; None where none does.
        draws: the fewest configurations of any method with an area: all areas are at this number.
    """

    wins: dict[str, Table]
    kl: dict[str, Table]
    kept: dict[str, NDArray[np.intp]]
    reference: float | None
    draws: int

    @classmethod
    def of(cls, sweep: Sweep) -> Spending:
        """Without methods that have no KL."""
        kl = {method: sweep.beside(method, "kl_to_sft") for method in sweep.methods}
        there = {method: finished(table).any(axis=1) for method, table in kl.items()}
        methods = [method for method, found in there.items() if found.any()]
        wins = {method: sweep.wins[method][there[method]] for method in methods}
        spent = {method: kl[method][there[method]] for method in methods}
        counts = [len(table) for table in wins.values() if len(table) >= FEWEST]
        kept = {method: sweep.kept[method][there[method]] for method in methods}
        return cls(wins, spent, kept, _reference(wins, spent), min(counts, default=0))

    @property
    def with_area(self) -> list[str]:
        """Methods with enough configurations for an area."""
        return [method for method, table in self.wins.items() if self.reference and len(table) >= FEWEST]

    def area(self, method: str, sample: Sample, sweep: Sweep) -> Table:
        """The cross-fitted hypervolume at equal N, (replicates,)."""
        wins = self.wins[method]
        weigh = partial(frontier_weights, reference=self.reference or 1.0, draws=self.draws)
        return cross_fitted_choice(weigh, self.kl[method], wins, [wins - 0.5], sample, sweep.splits())[:, 0]

    def at_best(self, method: str, sample: Sample, sweep: Sweep) -> Table:
        """Win-rate and KL of the cross-fitted best, (replicates, 2)."""
        wins, kl = self.wins[method], self.kl[method]
        return cross_fitted_choice(winner, kl, wins, [wins, kl], sample, sweep.splits())


def _reference(wins: dict[str, Table], kl: dict[str, Table]) -> float | None:
    beating = [means(kl[method])[means(wins[method]) > 0.5] for method in wins]
    highest = max((float(found.max()) for found in beating if len(found)), default=0.0)
    return next((nats for nats in ROUND_NATS if nats >= highest), highest) if highest > 0 else None


def spent(sweep: Sweep) -> Part:
    """The part of the chapter about KL."""
    spending = Spending.of(sweep)
    if not spending.wins:
        return Part(silences=(f"No trial has a KL on {sweep.place}, so that there is no frontier.",))
    each = _each(sweep, spending)
    areas, pairs = _areas(sweep, spending) if spending.with_area else (None, None)
    data = _table(sweep, spending, each, areas)
    sheet = Sheet("frontier", "What a win costs in KL", _caption(sweep, spending, each), data, _columns(spending))
    pairs = _both_ways(sweep, pairs)
    silences = _silences(sweep, spending)
    return Part(
        _words(data, pairs, spending), (sheet,), _drawings(sweep, spending), silences, _finding(pairs, spending)
    )


def _each(sweep: Sweep, spending: Spending) -> Interval:
    """Share near the frontier, win-rate and KL at the best, (methods, 3)."""
    sizes = np.cumsum([len(table) for table in spending.wins.values()])[:-1]
    wins, kl = (np.concatenate(list(tables.values())) for tables in (spending.wins, spending.kl))
    behind = np.split(cross_fitted_regret(means(kl), wins, sweep.splits()), sizes)

    def statistic(sample: Sample) -> Table:
        near = [(configuration_scores(table, sample) <= NEAR).mean(axis=1) for table in behind]
        best = [spending.at_best(method, sample, sweep) for method in spending.wins]
        return np.concatenate([np.stack(near, axis=1)[:, :, None], np.stack(best, axis=1)], axis=2)

    return crossed_interval(statistic, sweep.seeds, sweep.prompts, sweep.rng())


def _areas(sweep: Sweep, spending: Spending) -> tuple[Interval, pd.DataFrame]:
    """Every method's area, and which differ, Holm over all pairs: method, other, difference, low, high, p_holm."""
    names = np.array(spending.with_area)
    pairs = np.array(list(combinations(range(len(names)), 2)), dtype=np.intp).reshape(-1, 2)

    def statistic(sample: Sample) -> Table:
        areas = np.stack([spending.area(method, sample, sweep) for method in names], axis=1)
        return np.concatenate([areas, areas[:, pairs[:, 0]] - areas[:, pairs[:, 1]]], axis=1)

    found = crossed_interval(statistic, sweep.seeds, sweep.prompts, sweep.rng())
    apart = found[len(names) :]
    columns = {"method": names[pairs[:, 0]], "other": names[pairs[:, 1]], "difference": apart.value}
    table = pd.DataFrame({**columns, "low": apart.low, "high": apart.high, "p_holm": holm(p_value(apart))})
    return found[: len(names)], table


def _both_ways(sweep: Sweep, pairs: pd.DataFrame | None) -> pd.DataFrame | None:
    """The pairs with the larger p of two: diverged trials dropped, and drawn like any other without ever winning."""
    if pairs is None or pairs.empty or not (sweep.tables.trials["status"] == "diverged").any():
        return pairs
    worst = Sweep.with_metric(sweep.tables, sweep.metric, "worst")
    spending = Spending.of(worst) if worst else None
    if worst is None or spending is None or not spending.with_area:
        return None
    other = pairs[["method", "other"]].merge(_areas(worst, spending)[1], how="left")
    agree = np.sign(other["difference"]) == np.sign(pairs["difference"])
    return pairs.assign(p_holm=np.where(agree, np.maximum(pairs["p_holm"], other["p_holm"]), 1.0))


def _table(sweep: Sweep, spending: Spending, each: Interval, areas: Interval | None) -> pd.DataFrame:
    rows = []
    for place, (method, wins) in enumerate(spending.wins.items()):
        row = {"method": method, "configurations": len(wins)}
        for column, name in enumerate(("near", "win_at_best", "kl_at_best")):
            row |= ends(name, each[place, column])
        if areas is not None and method in spending.with_area:
            row |= ends("area", areas[spending.with_area.index(method)])
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(spending: Spending) -> dict[str, Column]:
    def both(name: str) -> tuple[str, str]:
        return f"{name}_low", f"{name}_high"

    area = Column(f"area, up to {spending.reference:g} nats", interval=both("area")) if spending.with_area else None
    return {
        "method": Column("method", "method"),
        "configurations": Column("N", "count"),
        "win_at_best": Column("win-rate at best", interval=both("win_at_best")),
        "kl_at_best": Column("KL at best (nats)", digits=2, interval=both("kl_at_best")),
        **({"area": area} if area else {}),
        "near": Column("near the frontier", "percent"),
    }


def _caption(sweep: Sweep, spending: Spending, each: Interval) -> str:
    fitted = (
        "chosen on one half of the prompts and scored on the other"
        if sweep.prompts > 1
        else "chosen and scored on the same numbers, which flatters"
    )
    area = (
        f"Area: win-rate above ½ of the best that a KL budget buys, on average of budgets from 0 to {spending.reference:g} "
        f"nats drawn evenly in √KL, of {spending.draws} configurations drawn from each method; the reference is the "
        "largest KL at which any configuration beats the SFT model, rounded up. "
        if spending.with_area
        else ""
    )
    return (
        f"On {sweep.place}. Best and frontier are {fitted}. {area}Near: share of configurations within "
        f"{100 * NEAR:.0f} points of the best of all methods at their KL or less. Intervals: 95 %, over {each.over}."
    )


def _silences(sweep: Sweep, spending: Spending) -> tuple[str, ...]:
    found = []
    if spending.reference is None:
        found.append(
            f"No configuration beats the SFT model on {sweep.place}: no KL buys anything, and no frontier has an area."
        )
    few = [method for method in spending.wins if len(spending.wins[method]) < FEWEST]
    if few and spending.reference is not None:
        found.append(f"Fewer than {FEWEST} configurations are no frontier: no area of {titles(few)}.")
    if sweep.prompts < 2:
        found.append("Without scores by prompt the best and the frontier are those of the luckiest configurations.")
    missing = [method for method in sweep.methods if method not in spending.wins]
    return (*found, *([f"No KL is recorded of {titles(missing)}."] if missing else []))


def _words(data: pd.DataFrame, pairs: pd.DataFrame | None, spending: Spending) -> tuple[str, ...]:
    found = []
    if len(data) <= SAID:
        known = data.dropna(subset=["win_at_best_low", "kl_at_best_low"])
        found += [
            f"At its best configuration {title(row.method)} wins {row.win_at_best:.3f} [{row.win_at_best_low:.3f}, "
            f"{row.win_at_best_high:.3f}] for {row.kl_at_best:.2f} nats [{row.kl_at_best_low:.2f}, "
            f"{row.kl_at_best_high:.2f}]."
            for row in known.itertuples()
        ]
    return (*found, *_differing(pairs, spending))


def _differing(pairs: pd.DataFrame | None, spending: Spending) -> tuple[str, ...]:
    """Whose budgets buy more, where that is beyond doubt."""
    if pairs is None or pairs["p_holm"].isna().all():  # also of no pair
        return ()
    sure = pairs[pairs["p_holm"] < SIGNIFICANT]
    if sure.empty:
        return (
            f"No two methods differ beyond doubt in what a budget of up to {spending.reference:g} nats buys (Holm).",
        )
    if len(sure) > SAID:
        return (f"{len(sure)} of {len(pairs)} pairs of methods differ beyond doubt in what a KL budget buys (Holm).",)
    return tuple(_difference(*_ahead(row), spending) for row in sure.to_dict("records"))


def _ahead(row: dict[str, float | str]) -> tuple[str, str, float, float, float]:
    """The better method first, with a positive difference and its ends."""
    value, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    names = str(row["method"]), str(row["other"])
    return (*names, value, low, high) if value > 0 else (*names[::-1], -value, -high, -low)


def _difference(one: str, other: str, value: float, low: float, high: float, spending: Spending) -> str:
    return (
        f"A KL budget of up to {spending.reference:g} nats buys more with {title(one)} than with {title(other)}: "
        f"{points(value)} points of win-rate [{points(low)}, {points(high)}], on average of budgets."
    )


def _finding(pairs: pd.DataFrame | None, spending: Spending) -> str:
    """The one method whose budget buys more than that of every other, or less, if there is one."""
    if pairs is None or pairs.empty:
        return ""
    ahead = [_ahead(row) for row in pairs[pairs["p_holm"] < SIGNIFICANT].to_dict("records")]
    others = len(spending.with_area) - 1
    for side, most, more in ((0, "most", "more"), (1, "least", "less")):
        for method in spending.with_area:
            mine = [row for row in ahead if row[side] == method]
            if len(mine) == others:
                nearest = min(mine, key=lambda row: row[2])
                than = title(nearest[:2][1 - side]) + (", the nearest of the others" if others > 1 else "")
                value, low, high = (points(end)[1:] if end >= 0 else points(end) for end in nearest[2:])
                return (
                    f"For the KL it spends {title(method)} wins {most}: with a budget of up to {spending.reference:g} nats, "
                    f"{value} points [{low}, {high}] {more} than {than}."
                )
    return ""


def _drawings(sweep: Sweep, spending: Spending) -> tuple[Drawing, ...]:
    """One point per configuration, with the frontiers through the points as they are."""
    parts = []
    for method, wins in spending.wins.items():
        rows = sweep.tables.points(method).iloc[spending.kept[method]]
        kl, win = means(spending.kl[method]), means(wins)
        settings = rows[["configuration", *sweep.tables.settings(method)]]
        parts.append(settings.assign(method=method, kl=kl, win_rate=win, on_own_frontier=non_dominated(kl, win)))
    data = pd.concat(parts, ignore_index=True)
    data["on_frontier"] = non_dominated(data["kl"], data["win_rate"])
    sampling = rivals(sweep)
    stars = "; stars: best of n responses of the SFT model, at the bound of their KL" if len(sampling) else ""
    caption = (
        f"One point per configuration on {sweep.place} (mean over the seeds that finished). Lines: the most that each "
        f"method wins within a KL; grey: that any method wins{stars}. Lines through the luckiest points flatter; the "
        "table does not. No interval is drawn."
    )
    figure = frontiers(data, list(spending.wins), sampling, sweep.label, sweep.tables.note)
    return (Drawing("kl_frontier", "The KL–win frontier", caption, data, figure),)
