"""What sampling alone buys: the best of n responses of the SFT model by a judge's score, a baseline without training."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posweep.errors import ShapeError
from posweep.robustness.tuning import expected_best

Table = NDArray[np.float64]


def best_of_n(scores: ArrayLike, values: ArrayLike, n: ArrayLike | None = None) -> Table:
    """The expected value of the response of highest score among n, over all subsets of K responses to a prompt.

        E[v of the best of n] = Σ_r C(K − r, n − 1) / C(K, n) · v_(r),   score s_(1) ≥ … ≥ s_(K)

    Of responses with equal scores each is as likely to be kept; so v of a tie is the mean over those that tie. Unbiased for
    n fresh responses, unlike the best of n drawn with replacement from the K.

    Args:
        scores: by which the best is chosen, (…, K).
        values: what is wanted of it: its wins, its length; in the same shape.
        n: numbers of responses drawn, (budgets,), 1 … K; all of them where None.

    Returns:
        (…, budgets), in the unit of the values; n = 1 is their mean. Chosen and judged by the same judge, it is what an
        oracle would reach: the judge has no errors of its own to be exploited.

    Raises:
        ShapeError: scores and values differ in shape.

    Source: Stiennon et al. 2020, arXiv 2009.01325, and Nakano et al. 2021, arXiv 2112.09332, section 3 (best-of-n and its
        unbiased estimate from more than n samples).
    """
    found, wanted = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if found.shape != wanted.shape:
        raise ShapeError(f"scores and values must have the same shape, got {found.shape} and {wanted.shape}.")
    level = found[..., :, None] == found[..., None, :]
    shared = (level * wanted[..., None, :]).sum(axis=-1) / level.sum(axis=-1)
    order = np.argsort(found, axis=-1, kind="stable")
    return expected_best(np.take_along_axis(shared, order, -1), n)


def best_of_n_kl(n: ArrayLike) -> Table:
    """How far best-of-n moves from the model it samples, at most.

        KL ≤ log n − (n − 1)/n

    Args:
        n: responses drawn, at least 1.

    Returns:
        Nats per response, in the shape of `n`. It is reached where no two responses tie; with likely repeats the true KL
        is smaller.

    Source: Beirami et al. 2024, Theoretical guarantees on the best-of-n alignment policy, arXiv 2401.01879, theorem 1.
    """
    counts = np.asarray(n, dtype=np.float64)
    return np.log(counts) - (counts - 1) / counts
