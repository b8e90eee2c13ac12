"""What a win costs in KL: which configurations nobody beats for less, how far the others stay behind, the area they span."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posweep.robustness.tuning import draw_weights

Table = NDArray[np.float64]

FLOOR = 0.5
"""The win-rate of the SFT model against itself, which costs no KL: what a frontier starts from."""


def non_dominated(kl: ArrayLike, win: ArrayLike) -> NDArray[np.bool_]:
    """Which configurations nobody beats: none wins as much for less KL, none wins more for as much.

        i is dominated  ⟺  ∃ j: kl_j ≤ kl_i, win_j ≥ win_i, and one of the two strictly

    Args:
        kl: KL to the SFT model in nats, (…, configurations).
        win: win-rates in the same shape; a configuration with a NaN in either is on no frontier.

    Returns:
        True for the configurations on the frontier; equal ones stand there together. Of noisy numbers, it is the
        luckiest that are on it.

    Source: Pareto dominance, as in Deb 2001, Multi-Objective Optimization using Evolutionary Algorithms, section 2.4.
    """
    costs, wins = _without_gaps(kl, win)
    order = np.lexsort((-wins, costs), axis=-1)
    cost, value = np.take_along_axis(costs, order, -1), np.take_along_axis(wins, order, -1)
    within = np.maximum.accumulate(value, axis=-1)
    cheaper = _before(within, _first_of_equals(cost))
    found = np.zeros(value.shape, dtype=np.bool_)
    np.put_along_axis(found, order, (value == within) & (value > cheaper), -1)
    return found & np.isfinite(costs)


def best_within(kl: ArrayLike, win: ArrayLike) -> NDArray[np.intp]:
    """For each configuration, the one that wins most among those that cost no more KL than it.

        c(i) = argmax_{j: kl_j ≤ kl_i} win_j

    Args:
        kl: KL to the SFT model in nats, (…, configurations).
        win: win-rates in the same shape; a configuration with a NaN in either is never chosen.

    Returns:
        Positions along the last axis, in the same shape; −1 where none within the budget wins more than ½, so that the
        SFT model itself is as good.

    Source: the definition above.
    """
    costs, wins = _without_gaps(kl, win)
    order = np.lexsort((-wins, costs), axis=-1)
    value = np.take_along_axis(wins, order, -1)
    within = np.maximum.accumulate(value, axis=-1)
    before = np.concatenate([np.full_like(value[..., :1], -np.inf), within[..., :-1]], axis=-1)
    risen = np.where(value > before, np.arange(value.shape[-1]), 0)
    best = np.take_along_axis(order, np.maximum.accumulate(risen, axis=-1), -1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.where(within > FLOOR, best, -1), -1)
    return found


def regret(kl: ArrayLike, win: ArrayLike) -> Table:
    """How much win-rate each configuration leaves behind: the most that its KL could have bought, less what it won.

        r_i = max( ½, max_{j: kl_j ≤ kl_i} win_j ) − win_i

    Args:
        kl: KL to the SFT model in nats, (…, configurations).
        win: win-rates in the same shape.

    Returns:
        In win-rate, 0 on the frontier; NaN where a number is missing. The ½ is the SFT model, which costs nothing.

    Source: the definition above; on noisy win-rates, see `cross_fitted_regret`.
    """
    costs, wins = _without_gaps(kl, win)
    chosen = best_within(costs, wins)
    offered = np.where(chosen < 0, FLOOR, np.take_along_axis(wins, np.maximum(chosen, 0), -1))
    return np.where(np.isfinite(wins), offered - np.where(np.isfinite(wins), wins, 0.0), math.nan)


def frontier_weights(kl: ArrayLike, win: ArrayLike, reference: float, draws: int | None = None) -> Table:
    """The share of the √KL axis on which each configuration is the best that a budget can buy.

        q_i = 1/√K ∫₀^√K P( i wins most of those drawn that cost at most x² ) dx,   K the reference

    Args:
        kl: KL to the SFT model in nats, (…, configurations).
        win: win-rates in the same shape; a configuration with a NaN in either is drawn and never chosen.
        reference: the largest KL budget of interest, K > 0 nats.
        draws: of how many configurations, drawn without replacement, the best is taken; all of them where None.

    Returns:
        In the shape of `kl`. What is missing to 1 is the share on which no configuration wins more than ½ and the SFT
        model itself is as good.

    Source: the weights of an order statistic in a random subset, as of the expected maximum in Dodge et al. 2019,
        arXiv 1909.03004, without replacement (Tang et al. 2020, arXiv 2004.13705).
    """
    costs, wins = _without_gaps(kl, win)
    order = np.argsort(-wins, axis=-1, kind="stable")
    cost = np.sqrt(np.maximum(np.take_along_axis(costs, order, -1), 0.0))
    cost = np.where(np.take_along_axis(wins, order, -1) > FLOOR, cost, np.inf)
    chance = np.append(0.0, best_of_draws(cost.shape[-1], draws or cost.shape[-1]))
    end = math.sqrt(reference)
    steps = np.sort(np.minimum(cost, end), axis=-1)
    widths = np.diff(steps, axis=-1, append=end)
    held = np.zeros_like(cost)
    for step in np.flatnonzero((widths > 0).any(axis=tuple(range(widths.ndim - 1)))):
        within = cost <= steps[..., step, None]
        held += widths[..., step, None] * within * chance[np.cumsum(within, axis=-1) * within]
    found = np.empty_like(held)
    np.put_along_axis(found, order, held / end, -1)
    return found


def best_of_draws(count: int, draws: int) -> Table:
    """How likely the r-th best of `count` things is the best of `draws` of them, drawn without replacement.

        P(r) = C(count − r, draws − 1) / C(count, draws),   r = 1 … count

    Args:
        count: how many there are.
        draws: how many are drawn, at least 1 and at most `count`.

    Returns:
        (count,), from the best to the worst; adds up to 1.

    Source: Tang et al. 2020, arXiv 2004.13705.
    """
    return draw_weights(count, np.array([draws]))[0, ::-1]


def hypervolume(kl: ArrayLike, win: ArrayLike, reference: float, draws: int | None = None) -> Table:
    """The area between a frontier and the SFT model: how much win-rate above ½ a KL budget buys, on average of budgets.

        V = 1/√K ∫₀^√K ( max( ½, max_{i: kl_i ≤ x²} win_i ) − ½ ) dx

    The axis is √KL: for small moves the gain of tuning grows about linearly with it, and in nats one far configuration
    would own the area. The reference point is (K, ½).

    Args:
        kl: KL to the SFT model in nats, (…, configurations).
        win: win-rates in the same shape; a configuration with a NaN in either is never on the frontier.
        reference: the largest KL budget of interest, K > 0 nats.
        draws: n; where given, the expectation over all subsets of n configurations, so that a method with more of them
            has no more chances than another.

    Returns:
        In win-rate, (…): 0.05 says that with a budget between 0 and K nats, drawn evenly in √KL, the best within it wins
        five points more than half. Times √K it is the hypervolume of the points in (√KL, win-rate).

    Source: Zitzler and Thiele 1999, Multiobjective evolutionary algorithms (the S-metric); the √KL axis after Gao et
        al. 2022, arXiv 2210.10760.
    """
    wins = np.asarray(win, dtype=np.float64)
    held = frontier_weights(kl, wins, reference, draws)
    return np.asarray((held * np.where(held > 0, wins - FLOOR, 0.0)).sum(axis=-1), dtype=np.float64)


def _without_gaps(kl: ArrayLike, win: ArrayLike) -> tuple[Table, Table]:
    """Both with an infinite cost and loss where either is missing."""
    costs, wins = np.broadcast_arrays(np.asarray(kl, dtype=np.float64), np.asarray(win, dtype=np.float64))
    missing = np.isnan(costs) | np.isnan(wins)
    return np.where(missing, np.inf, costs), np.where(missing, -np.inf, wins)


def _first_of_equals(ordered: Table) -> NDArray[np.intp]:
    """Where the run of equal values starts that each value belongs to."""
    new = np.ones(ordered.shape, dtype=np.bool_)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return np.maximum.accumulate(np.where(new, np.arange(ordered.shape[-1]), 0), axis=-1)


def _before(accumulated: Table, first: NDArray[np.intp]) -> Table:
    """The accumulated value just before each run of equals; −∞ before the first."""
    padded = np.concatenate([np.full_like(accumulated[..., :1], -np.inf), accumulated], axis=-1)
    return np.take_along_axis(padded, first, -1)
