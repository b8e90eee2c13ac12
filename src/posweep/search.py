"""The search for each method's peak after its planned trials, round by round; the door to Ray Tune's searchers.

A searcher only proposes points. They become ordinary trials with ordinary keys, which the ordinary executor runs, so that
workers, retries, signals, ledger and tracker are those of all trials. What is proposed depends on settings and results
alone: an interrupted search that starts again finds its first rounds finished in the ledger, and goes on as if nothing had
been.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from posweep.fields import fingerprint
from posweep.folder import PLAN, folder_of
from posweep.ledger import Ledger, write_atomically
from posweep.objectives import OBJECTIVES
from posweep.plan import Plan, Planner
from posweep.records import TrialResult, TrialSpec
from posweep.settings import Configuration
from posweep.space import Axis, Space, spaces

LOST = "search.json"
"""In the sweep's folder, by method: the trials that had no result when their round was read."""
SCORE = "score"
Round = list[tuple[str, int, list[TrialSpec]]]
"""Method, number of the point, and its trials, one a seed."""


class Search:
    """The search of one sweep. A launch does for each round what it does for the planned trials.

    Args:
        configuration: says how many points a method, and how many of them before any is known.
        plan: the planned trials, which the samplers know from the start.
        ledger: holds what became of them, and of every round.

    Raises:
        ConfigError: there is nothing to search, or not within a method's range.
    """

    def __init__(self, configuration: Configuration, plan: Plan, ledger: Ledger):
        self.configuration, self.plan, self.ledger = configuration, plan, ledger
        self.spaces = spaces(configuration, plan)

    def rounds(self) -> Iterator[list[TrialSpec]]:
        """The trials of each round, finished ones too; the next is asked for when each has finished, diverged or failed."""
        settings, planner = self.configuration.search, Planner(self.configuration)
        samplers = {method: self._sampler(space) for method, space in self.spaces.items()}
        for first in range(0, settings.trials, settings.at_once):
            numbers = range(first, min(first + settings.at_once, settings.trials))
            asked = [
                (method, number, self._trials(planner, method, sampler.suggest(str(number))))
                for method, sampler in samplers.items()
                for number in numbers
            ]
            yield [spec for *_, specs in asked for spec in specs]
            for (method, number, _), value in zip(asked, self._values(asked), strict=True):
                known = None if value is None else {SCORE: value}
                samplers[method].on_trial_complete(str(number), known, error=value is None)

    def _trials(self, planner: Planner, method: str, proposed: Mapping[str, Any]) -> list[TrialSpec]:
        """A proposal as trials: every seed of the sweep, for their mean is what the search looks at."""
        space, seeds = self.spaces[method], self.configuration.sweep.seeds
        block = {"method": method, "index": space.index, "prior": "search"}
        return [planner.trial(block, space.point(proposed), seed, adaptive=True) for seed in seeds]

    def _sampler(self, space: Space) -> Any:
        """A searcher that knows the planned points."""
        from optuna import logging, samplers
        from ray.tune.search.optuna import OptunaSearch

        logging.set_verbosity(logging.ERROR)
        seed = int(fingerprint([self.configuration.search.seed, space.method]), 16) % 2**32
        searcher = OptunaSearch(
            {name: _distribution(axis) for name, axis in space.axes.items()}, metric=SCORE, mode="max",
            sampler=samplers.TPESampler(seed=seed),
        )  # fmt: skip
        points: dict[str, list[TrialSpec]] = {}
        for spec in self.plan:
            if spec.method == space.method:
                points.setdefault(spec.configuration, []).append(spec)
        known: Round = [(space.method, number, specs) for number, specs in enumerate(points.values())]
        for (*_, specs), value in zip(known, self._values(known), strict=True):
            if value is not None:
                searcher.add_evaluated_point(space.place(specs[0]), value)
        return searcher

    # --- what a sampler is told

    def _values(self, asked: Round) -> list[float | None]:
        """The value of each point: the mean over its seeds; None where none has a result."""
        results = self.ledger.finished(spec for *_, specs in asked for spec in specs)
        self._remember(asked, results)
        return [
            self._value(method, [results[s.key] for s in specs if s.key not in self._lost[method]])
            for method, _, specs in asked
        ]

    def _value(self, method: str, results: Sequence[TrialResult]) -> float | None:
        """The mean of the primary metric, diverged trials at the worst."""
        metric = self.configuration.sweep.primary_metric
        scores = [self._worst[method] if r.status == "diverged" else r.measures.get(metric, math.nan) for r in results]
        known = [score for score in scores if math.isfinite(score)]
        return sum(known) / len(known) if known else None

    @cached_property
    def _worst(self) -> dict[str, float]:
        """What a diverged trial counts as: 0 for shares, else the lowest of the method's planned trials."""
        metric = self.configuration.sweep.primary_metric
        if metric.rpartition("/")[2].startswith("win_rate") or metric.endswith("accuracy"):
            return dict.fromkeys(self.spaces, 0.0)
        found = self.ledger.finished(self.plan)
        known = {m: [found[s.key] for s in self.plan if s.method == m and s.key in found and s.key not in self._lost[m]]
                 for m in self.spaces}  # fmt: skip
        return {
            method: min((one.measures.get(metric, math.inf) for one in results), default=math.inf)
            for method, results in known.items()
        }

    # --- what was lost once stays lost to the samplers, so that a later retry does not turn the search

    def _remember(self, asked: Round, results: Mapping[str, TrialResult]) -> None:
        """Note the trials without a result, on disk too."""
        missing = {(method, spec.key) for method, _, specs in asked for spec in specs if spec.key not in results}
        if all(key in self._lost[method] for method, key in missing):
            return
        for method, key in missing:
            self._lost[method].add(key)
        mine = {method: {"of": self._identity(method), "keys": sorted(keys)} for method, keys in self._lost.items()}
        write_atomically(self.ledger.folder / LOST, {**self._noted, **mine})

    @cached_property
    def _lost(self) -> dict[str, set[str]]:
        """As noted by earlier launches of the same search."""
        found = {method: self._noted.get(method, {}) for method in self.spaces}
        return {
            m: set(one.get("keys", ())) if one.get("of") == self._identity(m) else set() for m, one in found.items()
        }

    @cached_property
    def _noted(self) -> dict[str, dict[str, Any]]:
        """What lies there, of methods that this launch does not search too; nothing where it cannot be read."""
        try:
            noted = json.loads((self.ledger.folder / LOST).read_text(encoding="utf-8"))
            return {method: one for method, one in noted.items() if isinstance(one, dict)}
        except (OSError, ValueError, AttributeError):
            return {}

    def _identity(self, method: str) -> str:
        """Of everything that the proposals for a method depend on, besides results."""
        settings, planned = self.configuration.search, [s.score_key for s in self.plan if s.method == method]
        metric = self.configuration.sweep.primary_metric
        return fingerprint([self.spaces[method], planned, metric, settings.seed, settings.at_once])


def outline(configuration: Configuration, plan: Plan) -> list[str]:
    """What will be searched, in a sentence or two; nothing without a search.

    Raises:
        ConfigError: there is nothing to search, or not within a method's range.
    """
    settings, seeds = configuration.search, len(configuration.sweep.seeds)
    if settings.kind == "none":
        return []
    searched = spaces(configuration, plan)
    each = f"adaptive points a method, each with {seeds} seeds," if seeds > 1 else "adaptive trials a method"
    said = [
        f"search: {settings.kind}, {settings.trials} {each} after the planned ones "
        f"({settings.trials * seeds * len(searched)} in all); they enter no distribution."
    ]
    still = [OBJECTIVES[method].title for method in configuration.methods if method not in searched]
    return [*said, f"search: nothing of {', '.join(still)} varies, so there is nothing to search."] if still else said


def stand_ins(configuration: Configuration, plan: Plan) -> list[TrialSpec]:
    """Planned trials, one for each that the search has still to run: where it will look, nobody knows yet."""
    if configuration.search.kind == "none":
        return []
    last = with_searched(configuration, plan).adaptive
    finished = Ledger(folder_of(configuration)).finished(last)
    done = Counter(spec.method for spec in last if spec.key in finished)
    found: list[TrialSpec] = []
    for method in spaces(configuration, plan):
        left = max(0, configuration.search.trials * len(configuration.sweep.seeds) - done[method])
        found += itertools.islice(itertools.cycle(spec for spec in plan if spec.method == method), left)
    return found


def with_searched(configuration: Configuration, plan: Plan) -> Plan:
    """The plan with the adaptive trials of the last launch, as far as they are trials of this configuration."""
    try:
        last = Plan.from_jsonl(plan.name, (folder_of(configuration) / PLAN).read_text(encoding="utf-8")).adaptive
        if not last:
            return plan
        planner = Planner(configuration)
        again = [planner.trial({"method": s.method, "index": s.block, "prior": s.prior},
                               {name: s.point[name] for name in s.varied}, s.seed, adaptive=True)
                 for s in last if s.method in configuration.methods]  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError):  # none, or written by another version
        return plan
    return plan.extended(spec for spec in again if spec.key in {old.key for old in last})


def _distribution(axis: Axis) -> Any:
    """An axis as the samplers know it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.ends is None:
        return CategoricalDistribution(axis.values)
    return (IntDistribution if axis.whole else FloatDistribution)(*axis.ends, log=axis.log)
