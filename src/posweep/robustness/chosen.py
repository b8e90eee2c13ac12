"""What one half of the prompts chooses, scored on the other: best, frontier, regret, head-to-head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from posweep.errors import ShapeError
from posweep.robustness.best import Halves
from posweep.robustness.crossed import Sample, configuration_scores
from posweep.robustness.frontier import FLOOR, best_within

Table = NDArray[np.float64]
Choose = Callable[[Table, Table], Table]
"""From KL and wins, (replicates, configurations), to how much of each configuration is chosen, in the same shape."""
Pick = Callable[[Table], int]
"""From scores, (configurations,), to the position of one."""

DIGITS = 12  # of a win-rate: the rest is the order of summation, which would break ties


def winner(kl: Table, wins: Table) -> Table:
    """A `Choose`: all weight on the configuration that wins most, whatever its KL; on the first of equals."""
    best = np.zeros(wins.shape)
    np.put_along_axis(best, np.round(wins, DIGITS).argmax(axis=-1)[..., None], 1.0, -1)
    return best


def cross_fitted_choice(
    choose: Choose, kl: Table, wins: Table, measured: Sequence[Table], sample: Sample, splits: Sequence[Halves]
) -> Table:
    """Measures of what is chosen by KL and wins, on other prompts than those it is chosen by.

        ½ ( Σ_c q_c(A) x̄_B(c) + Σ_c q_c(B) x̄_A(c) ),   A, B random halves, q: `choose`

    With `winner` and the wins themselves it is the `cross_fitted_best`, with the KL what that best costs; with
    `frontier_weights` and the wins less ½ it is the `hypervolume` of what half of the prompts would choose, freed of the
    luck that a frontier through noisy points is made of.

    Args:
        choose: from the KL and the wins of one half of the prompts, (replicates, configurations), to weights.
        kl: (configurations, seeds, prompts), every configuration with a score; nats.
        wins: of the same runs and prompts.
        measured: what is wanted of the chosen, each (configurations, seeds, prompts).
        sample: the replicates; each half of the prompts keeps its weights.
        splits: of `halves`, the same for every method that is compared, and every replicate; their mean is taken.

    Returns:
        (replicates, measured). With a single prompt there is nothing to split: it chooses for itself, which flatters. In an
        interval each replicate chooses anew: where configurations are equal that is about a quarter too wide.

    Source: cross-fitting as in Chernozhukov et al. 2018, arXiv 1608.00060, with prompts as the sample that is split.
    """
    if wins.shape[2] < 2:
        weights = choose(configuration_scores(kl, sample), configuration_scores(wins, sample))
        return _measured(weights, [configuration_scores(table, sample) for table in measured])
    total = np.zeros((len(sample.seeds), len(measured)))
    for pair in splits:
        for half, other in (pair, pair[::-1]):
            chosen = choose(*(configuration_scores(table[:, :, half], sample.part(half)) for table in (kl, wins)))
            total += _measured(chosen, [configuration_scores(t[:, :, other], sample.part(other)) for t in measured])
    return total / (2 * len(splits))


def pick_best(scores: Table) -> int:
    """The configuration of the highest score; the first of equals."""
    return int(np.argmax(scores))


def pick_median(scores: Table) -> int:
    """The configuration in the middle of the order; the lower of two."""
    return int(np.argsort(scores, kind="stable")[(len(scores) - 1) // 2])


def cross_fitted_regret(kl: Table, table: Table, splits: Sequence[Halves]) -> Table:
    """How far each configuration stays behind the one that half of the prompts would choose within its KL.

        r_cjp = x_{b(c) j p} − x_cjp,   b(c): wins most on the other half among kl ≤ kl_c; the SFT model (½) where none
        wins more than half

    The `regret` of noisy win-rates measures every configuration against the luckiest; here luck is left behind on the
    other half, and of equal configurations all are at 0. Where they differ it errs downward: it is the distance to the
    best that half of the prompts can find.

    Args:
        kl: KL to the SFT model in nats, (configurations,).
        table: wins, (configurations, seeds, prompts), every configuration with a score.
        splits: of `halves`.

    Returns:
        (configurations, seeds, prompts); its mean over seeds and prompts is the regret, in win-rate.

    Source: as `regret` and `cross_fitted_choice`.
    """
    scores = filled(table)
    if scores.shape[2] < 2:
        return _behind(kl, scores.mean(axis=(1, 2)), scores)
    found, means = np.zeros(scores.shape), scores.mean(axis=1)
    for pair in splits:
        for half, other in (pair, pair[::-1]):
            found[:, :, other] += _behind(kl, means[:, half].mean(axis=1), scores[:, :, other])
    return found / len(splits)


def head_to_head(
    scores: Sequence[Table], selections: Sequence[Table], pick: Pick, splits: Sequence[Halves]
) -> tuple[Table, Table]:
    """How often one method's response gets the higher score, each method at the configuration that is picked.

        h_XY = P( s_X > s_Y ) + ½ P( s_X = s_Y ),   on the same prompt, ties half

    A judge compares responses that are independent given the prompt. Trials of one seed share their sampling noise, so
    the pairs are of different seeds where there are at least two, and pairs of the same seed only say how far seeds move
    the result. With one seed responses are coupled: where two policies answer alike they tie, and elsewhere luck common
    to both is gone, so that small steady differences count for more than between independent responses.

    Args:
        scores: of each method, (configurations, seeds, prompts), every configuration with a score.
        selections: what each method's configuration is picked by, (configurations, prompts).
        pick: on one half of the prompts; the other half is compared.
        splits: of `halves`.

    Returns:
        Wins and ties, both (methods, methods, seeds, prompts), row against column, given the configurations picked: the
        mean over seeds and prompts is the win-rate, that over prompts of one seed is moved as that seed moves it.

    Raises:
        ShapeError: the methods have other seeds or prompts than each other.

    Source: the definition above; cross-fitted as `cross_fitted_best`.
    """
    if len({table.shape[1:] for table in scores}) > 1:
        raise ShapeError(f"methods must share seeds and prompts, got {[table.shape for table in scores]}.")
    whole = [filled(table) for table in scores]
    seeds, prompts = whole[0].shape[1:]
    wins, ties = np.zeros((2, len(whole), len(whole), seeds, prompts))
    for pair in splits:
        for half, other in (pair, pair[::-1]):
            picked = [pick(chosen_by[:, half].mean(axis=1)) for chosen_by in selections]
            found = np.stack([table[at][:, other] for table, at in zip(whole, picked, strict=True)])
            for row, ours in enumerate(found):
                wins[row][..., other] += _compared(ours, found, _beats)
                ties[row][..., other] += _compared(ours, found, _levels)
    return wins / len(splits), ties / len(splits)


def filled(table: Table) -> Table:
    """The scores with the mean of its configuration's other seeds where a run has none."""
    missing = np.isnan(table)
    if not missing.any():
        return table
    count = np.maximum((~missing).sum(axis=1, keepdims=True), 1)
    return np.where(missing, np.where(missing, 0.0, table).sum(axis=1, keepdims=True) / count, table)


def _measured(weights: Table, scores: Sequence[Table]) -> Table:
    """The scores of what was chosen, (replicates, measured)."""
    return np.stack([(weights * score).sum(axis=1) for score in scores], axis=1)


def _behind(kl: Table, means: Table, scores: Table) -> Table:
    chosen = best_within(kl, means)
    offered = np.where((chosen < 0)[:, None, None], FLOOR, scores[np.maximum(chosen, 0)])
    return np.asarray(offered - scores, dtype=np.float64)


def _beats(ours: Table, theirs: Table) -> Table:
    return (ours > theirs) + 0.5 * (ours == theirs)


def _levels(ours: Table, theirs: Table) -> Table:
    return (ours == theirs).astype(np.float64)


def _compared(ours: Table, theirs: Table, outcome: Callable[[Table, Table], Table]) -> Table:
    """One method's responses against all methods', (methods, seeds, prompts).

    The mean over seeds is that of pairs of different seeds; around it, each seed lies where its own pair lies.

    Args:
        ours: (seeds, prompts).
        theirs: (methods, seeds, prompts).
        outcome: of two responses.
    """
    same = outcome(ours, theirs)
    seeds = len(ours)
    if seeds < 2:
        return same
    shifted = [outcome(ours, np.roll(theirs, shift, axis=1)) for shift in range(1, seeds)]
    apart = np.mean(shifted, axis=(0, 2))[:, None]
    return np.asarray(same - same.mean(axis=1, keepdims=True) + apart, dtype=np.float64)
