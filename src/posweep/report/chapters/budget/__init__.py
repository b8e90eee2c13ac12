"""Which method is likely to work with a budget of n trials? Expected best of n, its cost, and shares that will do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from posweep.report.chapter import Chapter
from posweep.report.chapters.budget.drawings import against_sft, drawings
from posweep.report.chapters.budget.numbers import Numbers, numbers
from posweep.report.chapters.budget.sheets import Unit, budget_sheet, sft_shares, shares_sheet
from posweep.report.tables import Tables, is_win_rate, title

LEVEL = 0.05
AHEAD = 3  # methods that a sentence names together


def chapter(tables: Tables) -> Chapter | None:
    """What a budget buys; nothing before a configuration has a score."""
    found = numbers(tables)
    if found is None:
        return None
    unit = Unit.of(tables, found)
    sheets = [budget_sheet(tables, found, unit)]
    sheets += [shares_sheet(found, against_sft(tables))] if is_win_rate(tables.metric) else []
    finding = leaders(tables, found)
    return Chapter(
        "budget",
        "Which method is likely to work with a budget of n trials?",
        words=tuple(sentence for sentence in (*words(tables, found), finding) if sentence),
        sheets=tuple(sheets),
        drawings=drawings(tables, found, unit),
        silences=tuple(silences(tables, found)),
        finding=finding,
    )


def words(tables: Tables, found: Numbers) -> Iterator[str]:
    """What the numbers say of all methods together."""
    for place, n in enumerate(found.budgets):
        values = [v for m in found.methods if np.isfinite(v := found.found["at", m.name].value[place])]
        what = "One configuration chosen at random" if n == 1 else f"The best of {n}"
        if len(values) > 1:
            yield f"{what} is expected to score {min(values):.3f} to {max(values):.3f} on {tables.metric}, by method."
    pairs = found.adjusted[:, *np.triu_indices(len(found.methods), 1)]
    if np.isfinite(pairs).any():
        yield (
            f"Of {np.isfinite(pairs).sum()} comparisons of two methods at equal n ({_listed(found.budgets)}), "
            f"{(pairs < LEVEL).sum()} are significant at 5 % after Holm's correction (over {_luck(found)})."
        )
    if against_sft(tables) and found.drawn:
        total = sum(method.count for method in found.methods)
        sure = [(sft_shares(found, method), method.count) for method in found.methods]
        better = round(sum(share.surely_beats * count for share, count in sure))
        worse = round(sum(share.surely_harms * count for share, count in sure))
        yield (
            f"{better} of {total} configurations surely beat the SFT model (their own 95 % interval lies above ½), {worse} "
            "are surely worse."
        )


def leaders(tables: Tables, found: Numbers) -> str:
    """Which method, or which few, are significantly ahead of all others at which budgets; empty where none is."""
    budgets: dict[tuple[int, ...], list[int]] = {}
    for place in range(len(found.budgets)):
        if top := _ahead(found, place):
            budgets.setdefault(top, []).append(place)
    said = [_leading(found, top, places) for top, places in budgets.items()]
    basis = f"Expected best of n on {tables.metric}; p after Holm's correction; over {_luck(found)}."
    return " ".join([*said, basis]) if said else ""


def _ahead(found: Numbers, place: int) -> tuple[int, ...]:
    """The methods before the first significant step, if they are few and diverged trials do not turn it round."""
    ranked = found.ranking(place)
    if len(ranked.tiers) < 2 or len(ranked.tiers[0]) > AHEAD:
        return ()
    top = ranked.tiers[0]
    turned = any(better in top for pairs in ranked.broken.values() for better, _ in pairs)
    return () if turned else top


def _leading(found: Numbers, top: tuple[int, ...], places: list[int]) -> str:
    """`With 1 or 3 trials SimPO is ahead of every other method: …`, in the numbers of the last of these budgets."""
    place, names = places[-1], [title(found.methods[one].name) for one in top]
    second = next(one for one in found.order(place) if one not in top)
    last = max(top, key=lambda one: found.order(place).index(one))
    more, low, high = found.difference(place, last, second)
    one = found.methods[last].name
    best = found.found["at", one][place]
    when = f"With {_listed([found.budgets[p] for p in places], 'or')} trial{'s' if found.budgets[place] > 1 else ''}"
    who = f"{names[0]} is" if len(top) == 1 else f"{_listed(names)} (not significantly different) are"
    others = (
        "every other method"
        if len(found.order(place)) == len(found.methods)
        else "all that have as many configurations"
    )
    return (
        f"{when} {who} ahead of {others}: {title(one)} is expected to reach {best.value:.3f} [{best.low:.3f}, "
        f"{best.high:.3f}], {more:.3f} [{low:.3f}, {high:.3f}] above the next, {title(found.methods[second].name)} "
        f"(p {_p(found.adjusted[place, last, second])})."
    )


def silences(tables: Tables, found: Numbers) -> Iterator[str]:
    """What this sweep cannot say."""
    named = {method.name: method.count for method in found.methods}
    lost = [title(name) for name in tables.methods if name not in named]
    if lost:
        yield f"No configuration of {_listed(lost)} has a score: no budget can be judged."
    single = [title(name) for name, count in named.items() if count == 1]
    if single:
        yield f"{_listed(single)} ran with a single configuration: there is nothing to choose among, and no curve."
    if len(set(named.values())) > 1:
        yield (
            f"Methods have {min(named.values())} to {max(named.values())} configurations: they are compared at equal n "
            "only, never by the best of all."
        )
    if found.prompts < 2:
        few = f"only {tables.prompts()} scores" if tables.prompts() > 1 else "no scores"
        yield f"{tables.metric} has {few} by prompt: the expected best cannot be freed of luck and is too high."
    if not found.drawn:
        yield "One seed and no prompts to draw from: there are no intervals and no comparisons."
    if all(np.isnan(method.hours) for method in found.methods):
        yield "No trial says how long it took: curves are against trials only."
    if not is_win_rate(tables.metric):
        yield f"{tables.metric} is no win-rate: no ε is named, and no share that beats the SFT model."
    elif not against_sft(tables):
        yield f"{tables.metric} is not against the SFT model: the shares that beat it are not known."


def _luck(found: Numbers) -> str:
    """What the comparisons are over."""
    return found.found["pairs", ""].over


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _listed(parts: Iterable[object], word: str = "and") -> str:
    *most, last = map(str, parts)
    return f"{', '.join(most)} {word} {last}" if most else last
