"""How much of what configurations differ by each hyperparameter explains: exactly on a full grid, else PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posweep.errors import ShapeError
from posweep.robustness.grid import Grid, Levels, missing

Table = NDArray[np.float64]
Term = tuple[str, ...]
"""The hyperparameters of an effect: one for a main effect, several for an interaction."""

FEWEST = 50
"""Configurations that PED-ANOVA needs: its best tenth is then five."""

ROUNDING = 1e-24
"""A variance that is this share of the mean square is the rounding of equal scores."""


@dataclass(frozen=True)
class Anova:
    """The variance of scores over a grid, taken apart.

    Attributes:
        terms: main effects first, then interactions of two, of three, … up to all.
        shares: of the variance, (…, terms); they add up to 1; NaN where all scores are equal.
        residual: the term that also holds all luck of training: the highest interaction, where every cell was trained
            once and nothing but the design could tell the two apart; None where there were more seeds.
    """

    terms: tuple[Term, ...]
    shares: Table
    residual: Term | None


@dataclass(frozen=True)
class PedAnova:
    """Which hyperparameters the best configurations agree on.

    Attributes:
        shares: hyperparameter → share of the importance of all; they add up to 1; empty where refused.
        refused: why there is none; empty where there is.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""


def anova(scores: Table, levels: Levels, seeds: int = 1) -> Anova:
    """The share of the variance over a full grid that every main effect and every interaction explains, exactly.

        share_u = Σ_cells f_u² / Σ_cells (f − f̄)²,   f_u = Π_{i∈u} (1 − M_i) Π_{i∉u} M_i f,   M_i: mean over axis i

    A main effect is what a hyperparameter does on average over the others, an interaction what it does beyond that,
    depending on them. Luck of seeds and prompts is spread over all shares in proportion to their degrees of freedom: none
    is ever quite 0, and an interval that stays above 0 does not show that a hyperparameter matters.

    Args:
        scores: (…, configurations), each a mean over seeds and prompts.
        levels: hyperparameter → its value in every configuration; those with a single value are left out.
        seeds: behind every score; with one, `residual` names the term that cannot be told from luck.

    Raises:
        ShapeError: the configurations are not a full grid with one score per cell (`Grid.full`): shares would depend on
            the order in which effects are taken.

    Source: Fisher 1925; as functional ANOVA of hyperparameters, Hutter et al. 2014, An efficient approach for assessing
        hyperparameter importance. On a full grid no model of the scores is needed.
    """
    grid = Grid.of({name: values for name, values in levels.items() if len(Grid.of({name: values}).levels[0]) > 1})
    if not grid.full or scores.shape[-1] != len(grid.cells) or not np.isfinite(scores).all():
        raise ShapeError(f"ANOVA needs a full grid with one score per cell, got {scores.shape[-1]} configurations.")
    order = np.lexsort(grid.cells.T[::-1])
    cells = scores[..., order].reshape(*scores.shape[:-1], *grid.shape)
    axes = tuple(range(cells.ndim - len(grid.shape), cells.ndim))
    effects = [subset for size in range(1, len(axes) + 1) for subset in combinations(range(len(axes)), size)]
    parts = np.stack([_part(cells, axes, effect) for effect in effects], axis=-1)
    variance = cells.var(axis=axes)[..., None]
    differ = variance > ROUNDING * (cells**2).mean(axis=axes)[..., None]
    shares = np.divide(parts, variance, out=np.full_like(parts, np.nan), where=differ)
    terms = tuple(tuple(grid.names[i] for i in effect) for effect in effects)
    return Anova(terms, shares, terms[-1] if seeds < 2 else None)


def ped_anova(scores: Table, levels: Levels, logs: frozenset[str] = frozenset(), best: float = 0.1) -> PedAnova:
    """How far the distribution of each hyperparameter among the best configurations differs from that among all.

        importance_i = E_all[ (p_best(x_i) / p_all(x_i) − 1)² ],   p: kernel densities; conditional ones by regime

    It needs no grid. Interactions do not show. A hyperparameter that only some configurations have is compared among
    those, and having it counts.

    Args:
        scores: (configurations,); higher is better; NaN is dropped.
        levels: hyperparameter → its value in every configuration, NaN or None where a configuration has none.
        logs: the hyperparameters whose densities are taken on a log axis.
        best: the share of configurations called best.

    Returns:
        Shares of the sum of importances; refused below 50 configurations, of which the best would be fewer than five.
        Where no hyperparameter matters the shares are all equal.

    Source: Watanabe, Bansal and Hutter 2023, PED-ANOVA, arXiv 2304.10255; conditional spaces: arXiv 2601.20800; as in
        Optuna 5.
    """
    there = np.flatnonzero(np.isfinite(scores))
    columns = {name: [values[i] for i in there] for name, values in levels.items()}
    varied = {name: values for name, values in columns.items() if len(set(map(str, values))) > 1}
    if len(there) < FEWEST:
        return PedAnova(refused=f"PED-ANOVA needs {FEWEST} configurations with a score, there are {len(there)}")
    if not varied:
        return PedAnova(refused="no hyperparameter varies")
    return PedAnova(_by_optuna(scores[there], varied, logs, best))


def _part(cells: Table, axes: tuple[int, ...], effect: tuple[int, ...]) -> Table:
    """The mean square of one effect over the grid."""
    for place, axis in enumerate(axes):
        mean = cells.mean(axis=axis, keepdims=True)
        cells = cells - mean if place in effect else mean
    return np.asarray((cells**2).mean(axis=axes), dtype=np.float64)


def _by_optuna(scores: Table, columns: Mapping[str, list[Any]], logs: frozenset[str], best: float) -> dict[str, float]:
    import optuna  # only this statistic needs it

    spaces = {name: _space(values, name in logs) for name, values in columns.items()}
    with _quiet():
        study = optuna.create_study(direction="maximize")
        for row, score in enumerate(scores):
            params = {name: plain for name in columns if (plain := _plain(columns[name][row])) is not None}
            own = {name: spaces[name] for name in params}
            study.add_trial(optuna.create_trial(value=float(score), params=params, distributions=own))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(columns))
    return {name: float(found[name]) for name in columns}


def _space(values: list[Any], log: bool) -> Any:
    """The distribution a hyperparameter came from, as far as its values tell."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    there = [plain for value in values if (plain := _plain(value)) is not None]
    numbers = [value for value in there if not isinstance(value, str)]
    if len(numbers) < len(there):
        return CategoricalDistribution(list(dict.fromkeys(there)))
    return FloatDistribution(min(numbers), max(numbers), log=log and min(numbers) > 0)


def _plain(value: Any) -> float | str | None:
    """A value as Optuna takes it; None where there is none."""
    if missing(value):
        return None
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its log lines and its remarks on experimental arguments; its settings are put back."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
