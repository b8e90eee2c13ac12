"""The table of cases. Each method is one row: a function of its name whose docstring derives the row's numbers by hand.

A row gives two pairs; tuples hold the first pair's value and the second's. No number here was computed by the
implementation. `test_objectives.py` and `test_training.py` put every row through all of their tests.

ρ = log π − log π_ref of a response, m the margin inside σ, p̄ the average token probability. Used throughout:
−log σ(0) = log 2, −log σ(1) = log(1 + 1/e), σ(log 2) = ⅔, σ(log 3) = ¾ and σ(−log 3) = ¼.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import e, exp, log, log1p, sqrt

from torch import Tensor

from posweep.objectives import PreferenceLogps

LOG_2 = log(2)
LOG_3 = log(3)
LOG_1_E = log(1 + 1 / e)

Two = tuple[float, float]
"""A value of the first pair and of the second."""


@dataclass(frozen=True)
class AtRest:
    """What holds where nothing is gained: at policy = reference or, without a reference, for two responses alike.

    Args:
        loss: a number, or a function of what the objective was given.
        hyperparameters: those under which it holds, where they are not the row's.
        rewards: of chosen and rejected where they are not 0 (without a reference: where they are not equal).
    """

    loss: float | Callable[[PreferenceLogps], Tensor]
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    rewards: Callable[[PreferenceLogps], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Case:
    """Two pairs whose losses and rewards were derived by hand, and what else a method promises.

    Args:
        hyperparameters: of the method; every one, so that no default is relied on.
        chosen, rejected: log π of the two pairs' responses.
        lengths, rewards, reference: of the chosen responses and then of the rejected ones.
        extras: what the method needs beyond these, by its name in `PreferenceLogps`.
        signs: the signs that gradients take over many pairs at policy = reference (anywhere, without a reference), for
            each input that carries gradient; no other input does.
        per_token: whether the loss is that of averages alone: twice as long and as unlikely is the same to it.
    """

    hyperparameters: Mapping[str, float]
    chosen: Two
    rejected: Two
    lengths: tuple[Two, Two]
    losses: Two
    rewards: tuple[Two, Two]
    at_rest: AtRest
    reference: tuple[Two, Two] | None = None
    extras: Mapping[str, Two] = field(default_factory=dict)
    signs: Mapping[str, set[int]] = field(default_factory=lambda: {"chosen": {-1}, "rejected": {1}})
    per_token: bool = False


CASES: dict[str, Case] = {}


def row(derivation: Callable[[], Case]) -> Callable[[], Case]:
    """Enter a row into the table under its function's name."""
    CASES[derivation.__name__] = derivation()
    return derivation


def common(policy: tuple[Two, Two], reference: tuple[Two, Two]) -> dict[str, Two]:
    """Sums over as many tokens as the shorter response has, of chosen and rejected responses."""
    return {
        f"{who}_{side}_common_logps": values
        for who, sides in (("policy", policy), ("reference", reference))
        for side, values in zip(("chosen", "rejected"), sides, strict=True)
    }


def nll(logps: PreferenceLogps) -> Tensor:
    """−log π(y_w)/|y_w|."""
    return -logps.policy_chosen_logps / logps.chosen_lengths


# fmt: off


@row
def sft() -> Case:
    """−log π(y_w)/|y_w|: 4/4 = 1 and 6/3 = 2. Rewards log π/|y|: −4/4, −6/3; −4/2, −5/5.

    Of two responses alike the loss is the NLL of either.
    """
    return Case(
        {},
        chosen=(-4, -6), rejected=(-4, -5), lengths=((4, 3), (2, 5)),
        losses=(1, 2), rewards=((-1, -2), (-2, -1)),
        at_rest=AtRest(nll),
        signs={"chosen": {-1}},
        per_token=True,
    )


@row
def dpo() -> Case:
    """ρ_w = (3, 2), ρ_l = (−1, 0); m = ½ (3 + 1) − 1 = 1 and ½ (2 − 0) − 1 = 0. Rewards ½ ρ.

    At the reference m = −γ, 0 for γ = 0.
    """
    return Case(
        {"beta": 0.5, "gamma": 1},
        chosen=(-7, -18), rejected=(-11, -30), lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(LOG_1_E, LOG_2), rewards=((1.5, 1), (-0.5, 0)),
        at_rest=AtRest(LOG_2, {"gamma": 0}),
    )


@row
def cdpo() -> Case:
    """ρ_w = ±log 3, ρ_l = ∓log 3; m = ½ (2 log 3) = log 3, and −log 3. Rewards ½ ρ.

    −log σ(log 3) = log 4/3 and −log σ(−log 3) = log 4, so with ε = ¼
    ¾ log 4/3 + ¼ log 4 = log 4 − ¾ log 3, and ¾ log 4 + ¼ log 4/3 = log 4 − ¼ log 3.
    At the reference both terms are log 2 and their weights add up to 1.
    """
    return Case(
        {"beta": 0.5, "epsilon": 0.25},
        chosen=(-10 + LOG_3, -20 - LOG_3), rejected=(-10 - LOG_3, -30 + LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(log(4) - 0.75 * LOG_3, log(4) - 0.25 * LOG_3),
        rewards=((LOG_3 / 2, -LOG_3 / 2), (-LOG_3 / 2, LOG_3 / 2)),
        at_rest=AtRest(LOG_2),
    )


@row
def robust_dpo() -> Case:
    """The pairs of cDPO: m = log 3 and −log 3. With ε = ¼ the divisor 1 − 2ε is ½:

    2 (¾ log 4/3 − ¼ log 4) = log 4 − 3/2 log 3, which is negative, and 2 (¾ log 4 − ¼ log 4/3) = log 4 + ½ log 3.
    At the reference (1 − ε − ε) log 2/(1 − 2ε) = log 2.
    """
    return Case(
        {"beta": 0.5, "epsilon": 0.25},
        chosen=(-10 + LOG_3, -20 - LOG_3), rejected=(-10 - LOG_3, -30 + LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(log(4) - 1.5 * LOG_3, log(4) + 0.5 * LOG_3),
        rewards=((LOG_3 / 2, -LOG_3 / 2), (-LOG_3 / 2, LOG_3 / 2)),
        at_rest=AtRest(LOG_2),
    )


@row
def ln_dpo() -> Case:
    """ρ_w/|y_w| = (1/4, 1/2), ρ_l/|y_l| = (−2/8, 1/4); m = 4 (¼ + ¼) − 1 = 1 and 4 (½ − ¼) − 1 = 0. Rewards 4 ρ/|y|.

    At the reference m = −γ, 0 for γ = 0.
    """
    return Case(
        {"beta": 4, "gamma": 1},
        chosen=(-9, -19), rejected=(-12, -29), lengths=((4, 2), (8, 4)), reference=((-10, -20), (-10, -30)),
        losses=(LOG_1_E, LOG_2), rewards=((1, 2), (-1, 1)),
        at_rest=AtRest(LOG_2, {"gamma": 0}),
        per_token=True,
    )


@row
def simpo() -> Case:
    """log p̄_w = (−4/4, −3/6), log p̄_l = (−4/2, −5/4); m = 4 (−1 + 2) − 3 = 1 and 4 (−½ + 5/4) − 3 = 0. Rewards 4 log p̄.

    Of two responses alike m = −γ, 0 for γ = 0.
    """
    return Case(
        {"beta": 4, "gamma": 3},
        chosen=(-4, -3), rejected=(-4, -5), lengths=((4, 6), (2, 4)),
        losses=(LOG_1_E, LOG_2), rewards=((-4, -2), (-8, -5)),
        at_rest=AtRest(LOG_2, {"gamma": 0}),
        per_token=True,
    )


@row
def ipo() -> Case:
    """τ = ¼ asks for 1/(2τ) = 2. ρ_w/|y_w| = (4/4, −6/6), ρ_l/|y_l| = (−2/2, 0/3).

    (1 + 1 − 2)² = 0 and (−1 − 0 − 2)² = 9; sums would give (4 + 2 − 2)² = 16. Rewards ¼ ρ/|y|.
    At the reference 2² = 1/(4τ²).
    """
    return Case(
        {"tau": 0.25},
        chosen=(-6, -26), rejected=(-12, -30), lengths=((4, 6), (2, 3)), reference=((-10, -20), (-10, -30)),
        losses=(0, 9), rewards=((0.25, -0.25), (-0.25, 0)),
        at_rest=AtRest(4),
        per_token=True,
    )


@row
def kto() -> Case:
    """z0 = mean of the drifts −7 + 10 = 3 and −9 + 8 = −1, which is 1. β = ½, λ_D = 2, λ_U = 4; rewards ½ ρ.

    ρ_w = (1 + 2 log 3, 1): 1 − σ(½ (ρ_w − 1)) = 1 − σ(log 3) = ¼, and 1 − σ(0) = ½.
    ρ_l = (1, 1 + 2 log 3): 1 − σ(½ (1 − ρ_l)) = 1 − σ(0) = ½, and 1 − σ(−log 3) = ¾.
    Losses ½ (2 · ¼ + 4 · ½) = 5/4 and ½ (2 · ½ + 4 · ¾) = 2; with each pair's own z0 they would be other numbers.
    At the reference z0 = 0 and all σ are ½: ½ (½ + ½) for λ = 1.
    """
    return Case(
        {"beta": 0.5, "desirable_weight": 2, "undesirable_weight": 4},
        chosen=(-9 + 2 * LOG_3, -19), rejected=(-9, -29 + 2 * LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        extras={"policy_mismatched_logps": (-7, -9), "reference_mismatched_logps": (-10, -8)},
        losses=(5 / 4, 2), rewards=((0.5 + LOG_3, 0.5), (0.5, 0.5 + LOG_3)),
        at_rest=AtRest(0.5, {"desirable_weight": 1, "undesirable_weight": 1}),
    )


@row
def orpo() -> Case:
    """p̄ = ¾ has log-odds log 3, p̄ = ½ has 0. λ = ½; rewards λ times the log-odds.

    p̄_w = (¾, ½) and p̄_l = (½, ¾), so m = log 3 and −log 3:
    −log ¾ + ½ log 4/3 = 3/2 log 4/3, and −log ½ + ½ log 4 = 2 log 2.
    Of two responses alike the second term is λ log 2.
    """
    return Case(
        {"odds_weight": 0.5},
        chosen=(2 * log(3 / 4), 3 * log(1 / 2)), rejected=(4 * log(1 / 2), 5 * log(3 / 4)), lengths=((2, 3), (4, 5)),
        losses=(1.5 * log(4 / 3), 2 * LOG_2), rewards=((LOG_3 / 2, 0), (0, LOG_3 / 2)),
        at_rest=AtRest(lambda logps: nll(logps) + LOG_2 / 2),
        per_token=True,
    )


@row
def cpo() -> Case:
    """Δ = −4 + 8 = 4 and −2 + 4 = 2; m = ½ · 4 − 1 = 1 and ½ · 2 − 1 = 0. NLL 4/4 = 1 and 2/4 = ½, at weight α = 2.

    Rewards ½ log π. Of two responses alike m = −γ, 0 for γ = 0, and the NLL is left.
    """
    return Case(
        {"beta": 0.5, "nll_weight": 2, "gamma": 1},
        chosen=(-4, -2), rejected=(-8, -4), lengths=((4, 4), (2, 5)),
        losses=(LOG_1_E + 2, LOG_2 + 1), rewards=((-2, -1), (-4, -2)),
        at_rest=AtRest(lambda logps: LOG_2 + 2 * nll(logps), {"gamma": 0}),
    )


@row
def slic() -> Case:
    """δ = 3; Δ = −4 + 5 = 1 and −2 + 9 = 7: max(0, 3 − 1) = 2 and max(0, 3 − 7) = 0. NLL 4/4 and 2/4 at λ = 2.

    Losses 2 + 2 and 0 + 1; rewards log π. Of two responses alike the hinge is at δ. It lets go of the rejected response
    where the pair is apart by δ: its gradient is 0 in some pairs.
    """
    return Case(
        {"delta": 3, "nll_weight": 2},
        chosen=(-4, -2), rejected=(-5, -9), lengths=((4, 4), (2, 5)),
        losses=(4, 1), rewards=((-4, -2), (-5, -9)),
        at_rest=AtRest(lambda logps: 3 + 2 * nll(logps)),
        signs={"chosen": {-1}, "rejected": {0, 1}},
    )


@row
def rrhf() -> Case:
    """log p̄_w = (−8/4, −4/4) = (−2, −1), log p̄_l = (−2/2, −9/3) = (−1, −3); λ = ½; rewards log p̄.

    max(0, −1 + 2) + ½ · 2 = 2 and max(0, −3 + 1) + ½ · 1 = ½. Of two responses alike only the NLL is left. The hinge lets
    go of the rejected response where the order is right: its gradient is 0 in some pairs.
    """
    return Case(
        {"nll_weight": 0.5},
        chosen=(-8, -4), rejected=(-2, -9), lengths=((4, 4), (2, 3)),
        losses=(2, 0.5), rewards=((-2, -1), (-1, -3)),
        at_rest=AtRest(lambda logps: nll(logps) / 2),
        signs={"chosen": {-1}, "rejected": {0, 1}},
        per_token=True,
    )


@row
def r_dpo() -> Case:
    """ρ_w = (3, 2), ρ_l = (−1, 4), |y_w| − |y_l| = (4 − 8, 9 − 5); β = ½, α = ¼.

    m = ½ · 4 − ¼ · 4 = 1 and ½ · (−2) + ¼ · 4 = 0. Rewards ½ ρ + ¼ |y|: 3/2 + 1, 1 + 9/4; −½ + 2, 2 + 5/4.
    At the reference only the lengths are left: m = α (|y_w| − |y_l|), rewards α |y|.
    """
    return Case(
        {"beta": 0.5, "alpha": 0.25},
        chosen=(-7, -18), rejected=(-11, -26), lengths=((4, 9), (8, 5)), reference=((-10, -20), (-10, -30)),
        losses=(LOG_1_E, LOG_2), rewards=((2.5, 3.25), (1.5, 3.25)),
        at_rest=AtRest(
            lambda logps: ((logps.rejected_lengths - logps.chosen_lengths).double() / 4).exp().log1p(),
            rewards=lambda logps: (logps.chosen_lengths / 4, logps.rejected_lengths / 4),
        ),
    )


@row
def dpop() -> Case:
    """ρ_w = (1, −2), ρ_l = (−1, −6), λ = 2: m = ½ (2 − 2 · 0) = 1 and ½ (4 − 2 · 2) = 0. Rewards ½ ρ.

    At the reference the penalty is 0, and so is its slope.
    """
    return Case(
        {"beta": 0.5, "penalty_weight": 2},
        chosen=(-9, -22), rejected=(-11, -36), lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(LOG_1_E, LOG_2), rewards=((0.5, -1), (-0.5, -3)),
        at_rest=AtRest(LOG_2),
    )


@row
def irpo() -> Case:
    """ρ_w = (1, 2), ρ_l = (−1, 2); m = ½ · 2 = 1 and 0. NLL 9/3 = 3 and 18/9 = 2 at α = 2. Rewards ½ ρ.

    At the reference log 2, and the NLL stays.
    """
    return Case(
        {"beta": 0.5, "nll_weight": 2},
        chosen=(-9, -18), rejected=(-11, -28), lengths=((3, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(LOG_1_E + 6, LOG_2 + 4), rewards=((0.5, 1), (-0.5, 1)),
        at_rest=AtRest(lambda logps: LOG_2 + 2 * nll(logps)),
    )


@row
def apo_zero() -> Case:
    """½ ρ_w = (log 3, 0), ½ ρ_l = (−log 3, log 3), which are the rewards.

    1 − ¾ + ¼ = ½ and 1 − ½ + ¾ = 5/4. At the reference 1 − ½ + ½.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-10 + 2 * LOG_3, -20), rejected=(-10 - 2 * LOG_3, -30 + 2 * LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(0.5, 1.25), rewards=((LOG_3, 0), (-LOG_3, LOG_3)),
        at_rest=AtRest(1),
    )


@row
def apo_down() -> Case:
    """½ ρ_w = (−log 3, log 3), ½ ρ_l = (−2 log 3, log 3), which are the rewards; differences log 3 and 0.

    ¼ + 1 − ¾ = ½ and ¾ + 1 − ½ = 5/4. At the reference ½ + 1 − ½; there the slopes of both terms in ρ_w, β/4 and −β/4,
    cancel, and the slope in ρ_l is β/4.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-10 - 2 * LOG_3, -20 + 2 * LOG_3), rejected=(-10 - 4 * LOG_3, -30 + 2 * LOG_3),
        lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(0.5, 1.25), rewards=((-LOG_3, LOG_3), (-2 * LOG_3, LOG_3)),
        at_rest=AtRest(1),
        signs={"chosen": {0}, "rejected": {1}},
    )


@row
def alphapo() -> Case:
    """α = ½: r = 2 (1 − 1/√p̄), so p̄ = 4/9, 1/4, 16/81 have r = 2 (1 − 3/2) = −1, 2 (1 − 2) = −2, 2 (1 − 9/4) = −5/2.

    p̄_w = (4/9, 1/4) and p̄_l = (1/4, 16/81); m = 2 (−1 + 2) − 1 = 1 and 2 (−2 + 5/2) − 1 = 0. Rewards 2 r.
    Of two responses alike m = −γ, 0 for γ = 0.
    """
    return Case(
        {"alpha": 0.5, "beta": 2, "gamma": 1},
        chosen=(2 * log(4 / 9), 3 * log(1 / 4)), rejected=(4 * log(1 / 4), 5 * log(16 / 81)), lengths=((2, 3), (4, 5)),
        losses=(LOG_1_E, LOG_2), rewards=((-2, -4), (-4, -5)),
        at_rest=AtRest(LOG_2, {"gamma": 0}),
        per_token=True,
    )


@row
def simper() -> Case:
    """p̄_w = (¾, ¼), p̄_l = (½, ½), which are the rewards: −¾ + ½ = −¼ and −¼ + ½ = ¼. Of two responses alike 0."""
    return Case(
        {},
        chosen=(2 * log(3 / 4), 3 * log(1 / 4)), rejected=(4 * log(1 / 2), 5 * log(1 / 2)), lengths=((2, 3), (4, 5)),
        losses=(-0.25, 0.25), rewards=((0.75, 0.25), (0.5, 0.5)),
        at_rest=AtRest(0),
        per_token=True,
    )


@row
def chi_po() -> Case:
    """φ = ρ + e^min(ρ, c) − 1 with c = log 3, β = ½; rewards ½ φ.

    ρ = (log 2, −log 2): φ = log 2 + 2 − 1 and −log 2 + ½ − 1; m = ½ (2 log 2 + 3/2) = log 2 + ¾; log(1 + e^−¾/2).
    ρ = (4, 2), both above c: φ = 4 + 3 − 1 = 6 and 2 + 3 − 1 = 4; m = 1. At the reference φ = 0 + 1 − 1 = 0.
    """
    return Case(
        {"beta": 0.5, "cap": LOG_3},
        chosen=(-10 + LOG_2, -16), rejected=(-10 - LOG_2, -28), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(log1p(exp(-0.75) / 2), LOG_1_E), rewards=(((LOG_2 + 1) / 2, 3), (-(LOG_2 + 0.5) / 2, 2)),
        at_rest=AtRest(LOG_2),
    )


@row
def sampo() -> Case:
    """ρ' of the common tokens: −3 + 4 = 1 and −6 + 8 = 2; −6 + 5 = −1 and −8 + 10 = 2. m = ½ (1 + 1) = 1 and 0.

    Rewards ½ ρ'. The sums over all tokens are not read, and no gradient flows through them.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-7, -18), rejected=(-6, -20), lengths=((4, 5), (2, 7)),
        extras=common(policy=((-3, -6), (-6, -8)), reference=((-4, -8), (-5, -10))),
        losses=(LOG_1_E, LOG_2), rewards=((0.5, 1), (-0.5, 1)),
        at_rest=AtRest(LOG_2),
        signs={"chosen_common": {-1}, "rejected_common": {1}},
    )


@row
def ld_dpo() -> Case:
    """α = ¼: ρ' = ¼ ρ over all tokens and ¾ ρ over the common ones; the shorter response's are the same.

    |y_w| = 6 > 3: ρ_w = 5, of which 1 common: ρ'_w = 5/4 + 3/4 = 2, and ρ'_l = ρ_l = 0.
    |y_l| = 4 > 2: ρ_l = 5, of which 1 common: ρ'_l = 2, and ρ'_w = ρ_w = 2.
    m = ½ · 2 = 1 and 0. Rewards ½ ρ'. Gradient flows through both sums.
    """
    return Case(
        {"beta": 0.5, "alpha": 0.25},
        chosen=(-5, -18), rejected=(-10, -25), lengths=((6, 2), (3, 4)), reference=((-10, -20), (-10, -30)),
        extras=common(policy=((-4, -18), (-10, -9)), reference=((-5, -20), (-10, -10))),
        losses=(LOG_1_E, LOG_2), rewards=((1, 1), (0, 1)),
        at_rest=AtRest(LOG_2),
        signs={"chosen": {-1}, "rejected": {1}, "chosen_common": {-1}, "rejected_common": {1}},
    )


@row
def nca() -> Case:
    """r_w = ½ ρ_w = (log 2, 0), r_l = ½ ρ_l = (−log 3, log 3), which are the rewards.

    −log ⅔ − ½ log ⅓ − ½ log ¾ = log 3 − log 2 + ½ log 4 = log 3, and log 2 + ½ log 2 + ½ log 4 = 5/2 log 2.
    At the reference (1 + ½ + ½) log 2.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-10 + 2 * LOG_2, -20), rejected=(-10 - 2 * LOG_3, -30 + 2 * LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(LOG_3, 2.5 * LOG_2), rewards=((LOG_2, 0), (-LOG_3, LOG_3)),
        at_rest=AtRest(2 * LOG_2),
    )


@row
def exo() -> Case:
    """ε = ¼; m = ½ (ρ_w − ρ_l) = log 3 and −log 3, so q = ¾ = 1 − ε and ¼ = ε. Rewards ½ ρ.

    ¾ log 1 + ¼ log 1 = 0 and ¼ log ⅓ + ¾ log 3 = ½ log 3. At the reference ½ log ⅔ + ½ log 2 = ½ log 4/3.
    """
    return Case(
        {"beta": 0.5, "epsilon": 0.25},
        chosen=(-10 + LOG_3, -20 - LOG_3), rejected=(-10 - LOG_3, -30 + LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(0, LOG_3 / 2), rewards=((LOG_3 / 2, -LOG_3 / 2), (-LOG_3 / 2, LOG_3 / 2)),
        at_rest=AtRest(log(4 / 3) / 2),
    )


@row
def sppo() -> Case:
    """β = ¼ asks for ρ_w = 2 and ρ_l = −2. ρ_w = (2, 1), ρ_l = (−2, 0): 0 + 0 and 1 + 4 = 5. Rewards ¼ ρ.

    At the reference 4 + 4 = 1/(2β²).
    """
    return Case(
        {"beta": 0.25},
        chosen=(-8, -19), rejected=(-12, -30), lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(0, 5), rewards=((0.5, 0.25), (-0.5, 0)),
        at_rest=AtRest(8),
    )


@row
def bco() -> Case:
    """r_w = (1 + log 3, 1 − log 3), r_l = (1 − log 3, 1 + log 3): both pairs have the mean 1, so δ = 1.

    −2 log σ(log 3) = 2 log 4/3 and −2 log σ(−log 3) = 2 log 4. ρ = 2 r for β = ½. At the reference 2 log 2.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-8 + 2 * LOG_3, -18 - 2 * LOG_3), rejected=(-8 - 2 * LOG_3, -28 + 2 * LOG_3), lengths=((4, 9), (7, 5)),
        reference=((-10, -20), (-10, -30)),
        losses=(2 * log(4 / 3), 2 * log(4)), rewards=((1 + LOG_3, 1 - LOG_3), (1 - LOG_3, 1 + LOG_3)),
        at_rest=AtRest(2 * LOG_2),
    )


@row
def aot() -> Case:
    """Margins of the policy −5 + 10 = 5 and −9 + 8 = −1; of the reference −8 + 7 = −1 and −6 + 9 = 3.

    The larger ones belong together, and the smaller ones: ½ (5 − 3) = 1 and ½ (−1 + 1) = 0. DPO would take ½ (5 + 1) and
    ½ (−1 − 3). Rewards ½ ρ as they stand: ρ_w = (3, −3), ρ_l = (−3, 1). At the reference all differences are 0.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-5, -9), rejected=(-10, -8), lengths=((4, 9), (7, 5)), reference=((-8, -6), (-7, -9)),
        losses=(LOG_1_E, LOG_2), rewards=((1.5, -1.5), (-1.5, 0.5)),
        at_rest=AtRest(LOG_2),
    )


@row
def discopop() -> Case:
    """β = τ = ½; ρ_w − ρ_l = log 3 and 0, so m = ½ log 3 and 0, m/τ = log 3 and 0, e^−m = 1/√3 and 1. Rewards ½ ρ.

    (1 − ¾) log(1 + 1/√3) + ¾/√3, and ½ log 2 + ½, which is the loss at the reference.
    There, at τ = 1/20, the slope in m is −¾ + 5 (1 − log 2) = 0.78: chosen down and rejected up. At τ = ½ it is −0.60.
    """
    return Case(
        {"beta": 0.5, "tau": 0.5},
        chosen=(-10 + LOG_3, -19), rejected=(-10, -29), lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        losses=(log(1 + 1 / sqrt(3)) / 4 + sqrt(3) / 4, (LOG_2 + 1) / 2), rewards=((LOG_3 / 2, 0.5), (0, 0.5)),
        at_rest=AtRest((LOG_2 + 1) / 2, {"tau": 0.05}),
        signs={"chosen": {1}, "rejected": {-1}},
    )


@row
def wpo() -> Case:
    """log w = (log π − collision)/|y|: w_w = (½, 3), w_l = (1, ½), so the weights are ½ and 3/2. Rewards ½ ρ.

    ρ_w = (1, 2), ρ_l = (−1, 2); m = 1 and 0. At the reference the weights stay: w_w w_l log 2.
    """
    return Case(
        {"beta": 0.5},
        chosen=(-9, -18), rejected=(-11, -28), lengths=((4, 9), (7, 5)), reference=((-10, -20), (-10, -30)),
        extras={
            "policy_chosen_collision_logps": (-9 + 4 * LOG_2, -18 - 9 * LOG_3),
            "policy_rejected_collision_logps": (-11, -28 + 5 * LOG_2),
        },
        losses=(LOG_1_E / 2, 1.5 * LOG_2), rewards=((0.5, 1), (-0.5, 1)),
        at_rest=AtRest(lambda logps: LOG_2 * (
            (logps.policy_chosen_logps - logps.policy_chosen_collision_logps) / logps.chosen_lengths
            + (logps.policy_rejected_logps - logps.policy_rejected_collision_logps) / logps.rejected_lengths
        ).exp()),
    )
