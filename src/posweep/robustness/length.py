"""Whether a judge's wins are bought with length: win-rates with the difference in length set to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from posweep.errors import ShapeError

Table = NDArray[np.float64]

COVERED = 0.05
"""Least share of prompts on which a run's responses are at most, and at least, as long as their opponents."""
STEPS, PRECISION = 50, 1e-10
NO_SCORE = "no score"
ONLY_LONGER, ONLY_SHORTER = "nearly always longer than its opponents", "nearly always shorter than its opponents"
NO_FIT = "length alone tells wins from losses, or never varies"


@dataclass(frozen=True)
class LengthControl:
    """Win-rates of runs with and without what their length explains.

    Attributes:
        coefficient: φ, the change of a run's log odds of winning from equal length to far longer; 0 for a judge whom
            length does not impress, NaN where nothing could be fitted.
        error: its standard error over prompts, given these runs.
        scale: s, tokens: the difference in length at which about three quarters (tanh 1) of φ are reached.
        raw: each run's win-rate as it is, (runs,).
        controlled: σ(θ), its win-rate at equal length, (runs,); NaN where refused.
        scores: pseudo-scores, (runs, prompts), whose mean over prompts is `controlled` and whose spread is that of its
            error: a table like any other, for `crossed_interval`. NaN where refused.
        refused: why a run has no controlled win-rate, (runs,); "" where it has one.
    """

    coefficient: float
    error: float
    scale: float
    raw: Table
    controlled: Table
    scores: Table
    refused: tuple[str, ...]


def length_control(wins: Table, differences: Table, least: float = COVERED) -> LengthControl:
    """Each run's win-rate against opponents of the same length, were its judge's liking for length the same everywhere.

        logit P(win)_rp = θ_r + φ · tanh(Δ_rp / s),   controlled win-rate: σ(θ_r)

    Δ is a response's length less the mean length of its opponents on the same prompt. There is one intercept per run and
    one φ for all runs, fitted by maximum quasi-likelihood (the wins may be shares of several opponents). Intercepts
    absorb how runs differ, so that φ is how wins go with length from prompt to prompt within runs: an association, which
    is the judge's liking for length as far as prompts that draw longer responses are not easier or harder to win. It is
    not AlpacaEval's length-controlled win-rate, which needs the difficulty of its own prompts.

    Args:
        wins: in [0, 1], (runs, prompts), of one judge on one evaluation set; NaN for a run without scores.
        differences: Δ in tokens, in the same shape.
        least: a run is refused, and kept out of the fit, where less than this share of prompts has Δ ≤ 0, or Δ ≥ 0:
            there, equal length would be extrapolated.

    Returns:
        The model. A run that always wins or always loses keeps its win-rate and adds nothing to φ.

    Raises:
        ShapeError: the tables are not two-dimensional or differ.

    Source: inspired by Dubois et al. 2024, Length-controlled AlpacaEval, arXiv 2404.04475, section 3; Wedderburn 1974
        (quasi-likelihood); Liang and Zeger 1986 (errors over clusters, here prompts); Jaeckel 1972 (the infinitesimal
        jackknife, behind the pseudo-scores).
    """
    if wins.ndim != 2 or wins.shape != differences.shape:
        raise ShapeError(f"wins and differences must be (runs, prompts), got {wins.shape} and {differences.shape}.")
    refused = _refused(wins, differences, least)
    allowed = np.array([not reason for reason in refused], dtype=np.bool_)
    raw = _means(wins)
    scores = np.full(wins.shape, math.nan)
    sided = allowed & ((raw <= 0) | (raw >= 1))
    scores[sided] = raw[sided, None]
    fitted = allowed & ~sided
    scale = float(np.sqrt(differences[fitted].var(axis=1).mean())) if fitted.any() else 0.0
    fit = _fit(wins[fitted], np.tanh(differences[fitted] / scale)) if scale > 0 else None
    if fit is None:
        reasons = tuple(NO_FIT if inside else reason for inside, reason in zip(fitted, refused, strict=True))
        return LengthControl(math.nan, math.nan, math.nan, raw, _means(scores), scores, reasons)
    scores[fitted] = fit.pseudo_scores
    return LengthControl(fit.coefficient, fit.error, scale, raw, _means(scores), scores, refused)


def _means(table: Table) -> Table:
    """Over prompts; NaN without any."""
    return table.mean(axis=1) if table.shape[1] else np.full(len(table), math.nan)


@dataclass(frozen=True)
class _Fit:
    """A solution of the likelihood equations, with each prompt's influence on it."""

    coefficient: float
    error: float
    pseudo_scores: Table


def _refused(wins: Table, differences: Table, least: float) -> tuple[str, ...]:
    """Why a run cannot be controlled; "" where it can."""
    found = []
    for won, difference in zip(wins, differences, strict=True):
        if not won.size or not np.isfinite(won).all() or not np.isfinite(difference).all():
            found.append(NO_SCORE)
        elif (difference <= 0).mean() < least:
            found.append(ONLY_LONGER)
        else:
            found.append(ONLY_SHORTER if (difference >= 0).mean() < least else "")
    return tuple(found)


def _fit(wins: Table, length: Table) -> _Fit | None:
    """Newton's method on all intercepts and the one slope; None where it finds no maximum.

    The information matrix is an arrow (intercepts meet only in the slope), so a step costs one pass over the rows.
    """
    intercept, slope = logit(wins.mean(axis=1)), 0.0
    for _ in range(STEPS):
        chance = expit(intercept[:, None] + slope * length)
        residual, weight = wins - chance, chance * (1 - chance)
        own, mixed = weight.sum(axis=1), (weight * length).sum(axis=1)
        curvature = float((weight * length**2).sum() - (mixed**2 / own).sum())
        if not curvature > PRECISION * length.size:
            return None
        by_prompt = ((length - (mixed / own)[:, None]) * residual).sum(axis=0) / curvature
        step = float(by_prompt.sum())
        moved = residual.sum(axis=1) / own - mixed / own * step
        size = max(abs(step), float(np.abs(moved).max()))
        if size < PRECISION:
            return _influenced(slope, intercept, by_prompt, residual / own[:, None], mixed / own)
        shrunk = min(1.0, 2.0 / size)  # the likelihood is concave: a long step overshoots, a short one never does
        intercept, slope = intercept + shrunk * moved, slope + shrunk * step
    return None


def _influenced(slope: float, intercept: Table, by_prompt: Table, own: Table, mixed: Table) -> _Fit:
    """Each prompt's influence on the slope and, through it too, on the win-rates at equal length."""
    prompts = len(by_prompt)
    controlled = expit(intercept)
    on_intercept = own - mixed[:, None] * by_prompt
    pseudo = controlled[:, None] + prompts * (controlled * (1 - controlled))[:, None] * on_intercept
    error = math.sqrt(prompts / (prompts - 1) * float((by_prompt**2).sum())) if prompts > 1 else math.nan
    return _Fit(slope, error, pseudo)
