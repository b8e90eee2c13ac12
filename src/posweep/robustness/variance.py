"""Where the variance of a method's scores comes from: its hyperparameters, the seed, the prompts, or chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from posweep.robustness.crossed import finished, with_scores

Table = NDArray[np.float64]
Term = frozenset[str]

AXES = ("configuration", "seed", "prompt")
PARTS = ("hyperparameters", "seeds", "prompts", "residual")


@dataclass(frozen=True)
class Components:
    """Variance components of a method's scores, in squares of their unit.

    Attributes:
        terms: what varies (axes joined by `×`) → the variance of a single response's score that it accounts for,
            estimated without bias, then cut at 0.
        merged: term → what else it holds, because this sweep cannot tell them apart.
        cut: terms whose estimate was negative and stands at 0.
        unseen: terms that no number of this sweep can show.
        complete: configurations that finished with every seed; the others are not used.
        dropped: how many those are.
        prompts: behind each run's score.
    """

    terms: Mapping[str, float]
    merged: Mapping[str, tuple[str, ...]]
    cut: tuple[str, ...]
    unseen: tuple[str, ...]
    complete: int
    dropped: int
    prompts: int

    def of_a_run(self) -> dict[str, float]:
        """The variance of a run's score (its mean over prompts) by part: where another such number would differ, and why.

            hyperparameters σ_c²;  seeds σ_s² + σ_cs²;  prompts (σ_p² + σ_cp²)/P;  residual (σ_sp² + σ_csp²)/P

        With one seed (or without prompts) the highest interaction left is the residual, and the part that nothing is known
        of is NaN, as all are without an estimate.
        """
        found = dict.fromkeys(PARTS, 0.0 if self.terms else math.nan)
        found |= {part_of(frozenset([axis])): math.nan for axis in AXES if axis in self.unseen}
        highest = max(self.terms, key=lambda name: name.count("×"), default="")
        for name, variance in self.terms.items():
            part = "residual" if name == highest and "×" in name else part_of(frozenset(name.split("×")))
            found[part] += variance / (self.prompts if "prompt" in name else 1)
        return found


def part_of(term: Term) -> str:
    """Which of the four parts a term belongs to: an interaction with the configuration belongs to what it interacts with."""
    luck = term - {"configuration"}
    return "residual" if len(luck) > 1 else {"seed": "seeds", "prompt": "prompts"}.get("".join(luck), PARTS[0])


def variance_components(table: Table) -> Components:
    """How much configurations, seeds, prompts and their interactions each contribute to the variance of a score.

        x_cjp = μ + a_c + b_j + d_p + (ab)_cj + (ad)_cp + (bd)_jp + e_cjp
        σ_T² = Σ_{U ⊇ T} (−1)^{|U|−|T|} MS_U / Π_{axis ∉ T} n_axis

    The estimates solve the expected mean squares of the balanced crossed layout, so they are unbiased whatever the
    distribution; near 0 they can be negative and are then cut at 0. Configurations count as a finite set (their variance
    has the divisor C − 1), not as a sample of all.

    Args:
        table: (configurations, seeds, prompts), any unit; a configuration without a score for some seed is dropped.

    Returns:
        The components; without terms where fewer than two axes have more than one level, since nothing can be told
        apart then.

    Raises:
        ShapeError: the table is not three-dimensional.

    Source: Searle, Casella and McCulloch 1992, Variance Components, chapter 4; Brennan 2001, Generalizability Theory,
        section 3.4 (p × i × o).
    """
    kept = table[finished(table).all(axis=1)] if with_scores(table).size else table[:0]
    several = [axis for axis, count in zip(AXES, kept.shape, strict=True) if count > 1]
    single = [axis for axis, count in zip(AXES, kept.shape, strict=True) if count < 2]
    counts = dict(zip(AXES, kept.shape, strict=True))
    found = _estimates(kept, several) if len(several) > 1 and len(kept) else {}
    return Components(
        terms={_name(term): max(value, 0.0) for term, value in found.items()},
        merged={_name(term): tuple(_name(term | other) for other in _subsets(single)) for term in found if single},
        cut=tuple(_name(term) for term, value in found.items() if value < 0),
        unseen=tuple(map(_name, _subsets(single))),
        complete=len(kept),
        dropped=len(table) - len(kept),
        prompts=max(counts["prompt"], 1),
    )


def _estimates(table: Table, axes: list[str]) -> dict[Term, float]:
    """The unbiased estimate of every term over these axes, main effects first."""
    squares = {term: _mean_square(table, term) for term in _subsets(axes)}
    counts = dict(zip(AXES, table.shape, strict=True))
    return {
        term: sum((-1) ** len(other - term) * square for other, square in squares.items() if other >= term)
        / math.prod(counts[axis] for axis in axes if axis not in term)
        for term in squares
    }


def _mean_square(table: Table, term: Term) -> float:
    """MS_T: the squared effects of a term, each as often as it occurs in the table, over their degrees of freedom."""
    effect, freedom = table, 1
    for place, axis in enumerate(AXES):
        mean = effect.mean(axis=place, keepdims=True)
        effect = effect - mean if axis in term else mean
        freedom *= table.shape[place] - 1 if axis in term else 1
    return float(np.square(effect).sum() * (table.size / effect.size) / freedom)


def _subsets(axes: list[str]) -> list[Term]:
    return [frozenset(names) for size in range(1, len(axes) + 1) for names in combinations(axes, size)]


def _name(term: Term) -> str:
    return "×".join(axis for axis in AXES if axis in term)
