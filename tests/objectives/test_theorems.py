"""What holds between methods, what a formula promises beyond two numbers, and the mistakes that public code has made."""

from math import exp, log

import pytest
import torch

from posweep.objectives import OBJECTIVES, PreferenceLogps, hyperparameters

from ..rounding import rounding
from .cases import CASES
from .inputs import (
    SIDES,
    agree,
    close,
    objective,
    part,
    random_logps,
    slopes,
    with_gains,
    with_gradient,
)


def equal_lengths(length: int, **given):
    lengths = torch.full((8,), length)
    return random_logps(chosen_lengths=lengths, rejected_lengths=lengths, **given)


def changed(logps, **functions):
    """The same, with functions of some fields in their place."""
    return PreferenceLogps(**{name: functions.get(name, lambda v: v)(value) for name, value in vars(logps).items()})


def constant_reference(value: float):
    return {f"reference_{side}_logps": torch.full((8,), value, dtype=torch.float64) for side in SIDES}


def flipped(logps):
    """The same pairs with the labels exchanged."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    swap = {name: name.replace(side, other[side]) for name in vars(logps) for side in SIDES if side in name}
    return PreferenceLogps(**{name: getattr(logps, swap.get(name, name)) for name in vars(logps)})


# --- the cube: reference × length normalisation × margin


@pytest.mark.parametrize(("beta", "length"), [(2.0, 10), (5.0, 7), (1.0, 1)])
def test_with_equal_lengths_ln_dpo_is_dpo_at_beta_over_length(beta, length):
    logps = equal_lengths(length)
    assert agree(
        objective("ln_dpo", beta=beta, gamma=0.5)(logps), objective("dpo", beta=beta / length, gamma=0.5)(logps)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_with_a_null_reference_ln_dpo_is_simpo(gamma):
    logps = random_logps(**constant_reference(0))
    assert agree(objective("ln_dpo", beta=2.5, gamma=gamma)(logps), objective("simpo", beta=2.5, gamma=gamma)(logps))


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_with_a_null_reference_dpo_is_cpo_without_its_nll(gamma):
    logps = random_logps(**constant_reference(0))
    cpo = objective("cpo", beta=0.3, nll_weight=0, gamma=gamma)
    assert agree(objective("dpo", beta=0.3, gamma=gamma)(logps), cpo(logps))


def test_dpo_does_not_see_a_constant_in_the_reference():
    """Only for sums: a constant is more per token of a short response."""
    near, far = (random_logps(**constant_reference(value)) for value in (0, -50))
    losses = {name: [objective(name)(logps).losses for logps in (near, far)] for name in ("dpo", "ln_dpo")}
    assert close(*losses["dpo"])
    assert not close(*losses["ln_dpo"], rtol=0.1)


def test_with_equal_lengths_simpo_is_cpo_without_its_nll():
    """The NLL left on is the mistake: it makes CPO-SimPO of SimPO."""
    logps, simpo = equal_lengths(5), objective("simpo", beta=2, gamma=1)
    assert agree(simpo(logps), objective("cpo", beta=2 / 5, nll_weight=0, gamma=1)(logps))
    assert not close(simpo(logps).losses, objective("cpo", beta=2 / 5, nll_weight=1, gamma=1)(logps).losses, rtol=0.1)


@pytest.mark.parametrize("name", ["dpo", "ln_dpo", "simpo", "cpo", "alphapo"])
def test_gamma_is_the_margin_itself_and_not_its_ratio_to_beta(name):
    """Where the margin without γ is γ, the loss is log 2, whatever β. CPO's NLL is off."""
    for beta in (0.5, 3.0):
        own = {"nll_weight": 0.0} if name == "cpo" else {}
        logps = part(random_logps(), slice(0, 1))
        found = objective(name, beta=beta, gamma=0.0, **own)(logps)
        if (margin := float(found.chosen_rewards - found.rejected_rewards)) < 0:
            logps, margin = flipped(logps), -margin
        assert close(objective(name, beta=beta, gamma=margin, **own)(logps).losses, [log(2)])


# --- methods that contain DPO


CONTAIN_DPO = {
    "cdpo": {"epsilon": 0.0},
    "robust_dpo": {"epsilon": 0.0},
    "r_dpo": {"alpha": 0.0},
    "dpop": {"penalty_weight": 0.0},
    "irpo": {"nll_weight": 0.0},
    "ld_dpo": {"alpha": 1.0},
}


@pytest.mark.parametrize("name", CONTAIN_DPO)
def test_switched_off_it_is_dpo(name):
    """And switched on it is not: a label smoothing, say, must not be accepted and ignored."""
    logps = random_logps()
    dpo = objective("dpo", beta=0.3, gamma=0)(logps)
    assert agree(objective(name, **{"beta": 0.3, **CONTAIN_DPO[name]})(logps), dpo)
    assert not close(objective(name, beta=0.3)(logps).losses, dpo.losses, rtol=1e-2)


@pytest.mark.parametrize("name", ["sampo", "ld_dpo"])
def test_with_equal_lengths_what_looks_at_common_tokens_is_dpo(name):
    logps = equal_lengths(6)
    assert agree(objective(name, beta=0.3)(logps), objective("dpo", beta=0.3)(logps))
    assert not agree(objective(name, beta=0.3)(random_logps()), objective("dpo", beta=0.3)(random_logps()))


def test_sampo_does_not_read_the_sums_over_all_tokens():
    logps = random_logps()
    other = changed(logps, policy_chosen_logps=lambda v: v - 5, policy_rejected_logps=lambda v: 2 * v)
    assert agree(objective("sampo")(other), objective("sampo")(logps))


@pytest.mark.parametrize("alpha", [0.2, 0.7])
def test_ld_dpo_lies_between_common_tokens_and_all_of_them(alpha):
    logps = random_logps()
    ld_dpo, dpo, sampo = (objective(n, beta=0.3, **more)(logps)
                          for n, more in (("ld_dpo", {"alpha": alpha}), ("dpo", {}), ("sampo", {})))  # fmt: skip
    expected = alpha * dpo.chosen_rewards + (1 - alpha) * sampo.chosen_rewards
    assert close(ld_dpo.chosen_rewards, expected)


# --- wrong labels


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.45])
def test_robust_dpo_is_unbiased(epsilon):
    """Labels flipped at rate ε: the expected loss is DPO's on clean ones."""
    logps, robust = random_logps(), objective("robust_dpo", beta=0.3, epsilon=epsilon)
    expected = (1 - epsilon) * robust(logps).losses + epsilon * robust(flipped(logps)).losses
    assert close(expected, objective("dpo", beta=0.3)(logps).losses, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.45])
def test_cdpo_is_the_expected_dpo_loss_under_flipped_labels(epsilon):
    logps, dpo = random_logps(), objective("dpo", beta=0.3)
    expected = (1 - epsilon) * dpo(logps).losses + epsilon * dpo(flipped(logps)).losses
    assert close(objective("cdpo", beta=0.3, epsilon=epsilon)(logps).losses, expected)


@pytest.mark.parametrize("name", ["cdpo", "robust_dpo", "exo"])
def test_half_of_the_labels_cannot_be_wrong(name):
    """At ε = ½ labels say nothing: cDPO and EXO pull to a margin of 0, and robust DPO divides by it."""
    known = hyperparameters(OBJECTIVES[name])["epsilon"]
    assert known.allows(0.49)
    assert not known.allows(0.5)


@pytest.mark.parametrize("name", ["cdpo", "exo"])
@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.4])
def test_pairs_are_pushed_apart_until_sigma_of_the_margin_is_one_minus_epsilon(name, epsilon):
    """A minimum: the slope changes its sign there. EXO is 0 at it, cDPO is the entropy of ε."""
    goal = log((1 - epsilon) / epsilon) / 0.5
    logps = with_gains([goal - 0.5, goal, goal + 0.5], [0.0, 0.0, 0.0])
    found = objective(name, beta=0.5, epsilon=epsilon)(logps)
    below, at, above = slopes(found, logps)["chosen"].tolist()
    assert below < 0 < above
    assert abs(at) < 1e-12
    entropy = -epsilon * log(epsilon) - (1 - epsilon) * log(1 - epsilon)
    assert found.losses[1].item() == pytest.approx({"cdpo": entropy, "exo": 0}[name], abs=1e-12)


# --- per token, and not


PER_TOKEN = [name for name, case in CASES.items() if case.per_token]
NLL_WEIGHT = {"cpo": "nll_weight", "slic": "nll_weight", "irpo": "nll_weight", "rrhf": "nll_weight"}


def twice_as_long(logps):
    return PreferenceLogps(**{name: 2 * value for name, value in vars(logps).items()})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_per_token_does_not_see_responses_twice_as_long_and_as_unlikely(name):
    """IPO among it: summed, its target would mean something else for every length."""
    logps = random_logps()
    found = objective(name, **CASES[name].hyperparameters)
    assert close(found(twice_as_long(logps)).losses, found(logps).losses) == CASES[name].per_token


@pytest.mark.parametrize("name", NLL_WEIGHT)
def test_nll_terms_are_per_token_whatever_the_rest_is(name):
    """What the weight of the NLL adds is −log π(y_w)/|y_w|, also where the other term takes sums."""
    for logps in (random_logps(), twice_as_long(random_logps())):
        none, three = (objective(name, **{NLL_WEIGHT[name]: weight})(logps).losses for weight in (0, 3))
        assert close(three - none, -3 * logps.policy_chosen_logps / logps.chosen_lengths)


@pytest.mark.parametrize("name", sorted({*PER_TOKEN, *NLL_WEIGHT}))
def test_lengths_are_those_given_and_not_counted_from_log_probabilities(name):
    """A response that is certain has log π = 0 and its length all the same."""
    zero = torch.zeros(8, dtype=torch.float64)
    logps = random_logps(policy_chosen_logps=zero, reference_chosen_logps=zero - 6, policy_rejected_logps=zero)
    found = objective(name)(logps)
    assert found.losses.isfinite().all()
    if name in ("ln_dpo", "ipo"):
        scale = objective(name).beta if name == "ln_dpo" else objective(name).tau
        assert close(found.chosen_rewards, scale * 6 / logps.chosen_lengths, rtol=rounding())


def test_sft_ignores_the_rejected_response():
    logps = random_logps()
    other = changed(logps, policy_rejected_logps=lambda v: v - 100, rejected_lengths=lambda v: v + 3)
    assert torch.equal(objective("sft")(other).losses, objective("sft")(logps).losses)


# --- rewards of another shape


def test_alphapo_at_zero_is_simpo():
    logps = random_logps()
    assert agree(
        objective("alphapo", alpha=0.0, beta=2, gamma=0.5)(logps), objective("simpo", beta=2, gamma=0.5)(logps)
    )


def test_alphapo_tends_to_simpo():
    """To first order in α, from both sides: a tenth of α leaves a tenth of the difference."""
    logps = random_logps()
    simpo = objective("simpo", beta=2, gamma=0.5)(logps).losses
    far, near, behind = (
        objective("alphapo", alpha=a, beta=2, gamma=0.5)(logps).losses - simpo for a in (1e-4, 1e-5, -1e-5)
    )
    assert near.abs().max() < 1e-4
    assert close(near, far / 10, rtol=1e-2, atol=1e-9)
    assert close(behind, -near, rtol=1e-2, atol=1e-9)


def test_alphapo_is_its_formula():
    logps, alpha = random_logps(), 0.25
    average = (logps.policy_chosen_logps / logps.chosen_lengths).exp()
    assert close(objective("alphapo", alpha=alpha, beta=3)(logps).chosen_rewards, 3 * (1 - average**-alpha) / alpha)


def test_caps_leave_what_lies_below_them_and_stop_what_lies_beyond():
    """AlphaPO's exponent at 20 (80 nats a token at α = ¼), ORPO's odds at a million to one."""
    token = torch.ones(4)
    alphapo = objective("alphapo", alpha=0.25)(PreferenceLogps(torch.tensor([-70.0, -79, -81, -90]), *[token] * 3))
    assert alphapo.chosen_rewards.diff().sign().tolist() == [-1, -1, 0]
    orpo = objective("orpo")(PreferenceLogps(torch.tensor([-1e-2, -1e-5, -1e-7, 0.0]), *[token] * 3))
    assert orpo.chosen_rewards.diff().sign().tolist() == [1, 1, 0]
    assert orpo.chosen_rewards[-1].item() == pytest.approx(0.1 * log(1e6), rel=1e-4)


def test_orpo_is_its_formula_of_odds():
    logps = random_logps()
    chosen, rejected = (
        (getattr(logps, f"policy_{side}_logps") / getattr(logps, f"{side}_lengths")).exp() for side in SIDES
    )
    ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    expected = -chosen.log() - 0.7 * (ratio / (1 + ratio)).log()
    assert close(objective("orpo", odds_weight=0.7)(logps).losses, expected)


def test_simper_is_bounded():
    losses = torch.cat([objective("simper")(random_logps(64, seed)).losses for seed in range(8)])
    assert -1 < losses.min() < -0.2
    assert 0.2 < losses.max() < 1


@pytest.mark.parametrize("gain", [-3.0, 0.0, 2.0, 5.0])
def test_chi_po_multiplies_the_slope_of_dpo_by_one_plus_the_ratio_up_to_its_cap(gain):
    """dφ/dρ = 1 + e^ρ below c and 1 above: at the reference gradients are twice DPO's."""
    logps = with_gains(gain, gain)  # alike, so that the margin is 0 and σ' the same
    chi_po, dpo = objective("chi_po", beta=0.3, cap=4.0), objective("dpo", beta=0.3)
    expected = (1 + exp(gain) if gain < 4 else 1) * slopes(dpo(logps), logps)["chosen"]
    assert close(slopes(chi_po(logps), logps)["chosen"], expected)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.11, 0.5, 1.0])
def test_the_slope_of_discopop_at_the_reference_changes_its_sign_at_a_tenth(tau):
    """−¾ + (1 − log 2)/(4τ), which is 0 at τ = (1 − log 2)/3 = 0.102."""
    logps = with_gains(0.0, 0.0)
    slope = slopes(objective("discopop", beta=1.0, tau=tau)(logps), logps)["chosen"]
    assert close(slope, -0.75 + (1 - log(2)) / (4 * tau))
    assert (slope > 0) == (tau < 0.102)


# --- targets and hinges


def test_ipo_and_sppo_are_zero_at_their_targets_and_grow_beyond_them():
    """IPO: 1/(2τ) = 5 nats a token apart, over ten tokens; SPPO: 1/(2β) = 5 nats up and down."""
    ipo = objective("ipo", tau=0.1)(with_gains([50.0, 60.0, 40.0], [0.0, 0.0, 0.0]))
    assert close(ipo.losses, [0, 1, 1])
    sppo = objective("sppo", beta=0.1)(with_gains([5.0, 6.0, 5.0], [-5.0, -5.0, -7.0]))
    assert close(sppo.losses, [0, 1, 4])


@pytest.mark.parametrize("delta", [0.0, 1.0, 5.0])
def test_slic_lets_go_of_pairs_apart_by_delta(delta):
    logps = random_logps(pairs=64)
    found = objective("slic", delta=delta, nll_weight=0)(logps)
    apart = logps.policy_chosen_logps - logps.policy_rejected_logps
    assert torch.equal(found.losses == 0, apart >= delta)
    assert close(found.losses + apart, torch.maximum(apart, torch.tensor(delta)))


def test_dpop_is_dpo_where_the_chosen_response_gained():
    logps = random_logps(pairs=64)
    gained = logps.policy_chosen_logps >= logps.reference_chosen_logps
    dpop, dpo = (objective(name, beta=0.1)(logps).losses for name in ("dpop", "dpo"))
    assert close(dpop[gained], dpo[gained])
    assert (dpop[~gained] > dpo[~gained] + 1e-2).all()


def test_apo_zero_judges_each_response_alone_and_apo_down_does_not():
    """The slope in the chosen gain, at two gains of the rejected response."""
    near, far = with_gains(1.0, 0.5), with_gains(1.0, -4.0)
    found = {name: [slopes(objective(name)(logps), logps)["chosen"] for logps in (near, far)]
             for name in ("apo_zero", "apo_down")}  # fmt: skip
    assert torch.equal(*found["apo_zero"])
    assert not close(*found["apo_down"], rtol=1e-2)


def test_apo_down_pushes_down_what_has_risen_and_apo_zero_up():
    logps = with_gains(3.0, -20.0)
    signs = {name: slopes(objective(name, beta=0.5)(logps), logps)["chosen"].sign().item() for name in
             ("apo_zero", "apo_down")}  # fmt: skip
    assert signs == {"apo_zero": -1, "apo_down": 1}


def test_nca_holds_the_chosen_reward_at_log_2():
    """−(1 − σ(r)) + ½ σ(r) = 0 at σ(r) = ⅔: beyond, the chosen response is pushed down again."""
    logps = with_gains([2 * log(2) - 1, 2 * log(2), 2 * log(2) + 1], [0.0, 0.0, 0.0])
    below, at, above = slopes(objective("nca", beta=0.5)(logps), logps)["chosen"].tolist()
    assert below < -1e-3
    assert above > 1e-3
    assert abs(at) < 1e-12


def test_r_dpo_pushes_less_where_the_chosen_response_is_longer():
    logps = with_gains([0.0, 0.0], [0.0, 0.0])
    logps = changed(logps, chosen_lengths=lambda v: v + torch.tensor([10, -5]))
    longer, shorter = slopes(objective("r_dpo", beta=0.1, alpha=0.2)(logps), logps)["chosen"].tolist()
    assert longer == pytest.approx(-0.1 / (1 + exp(2)))
    assert shorter == pytest.approx(-0.1 / (1 + exp(-1)))


# --- what a batch shares


@pytest.mark.parametrize("drift", [-3.0, 0.0, 2.0])
def test_the_reference_point_of_kto_is_never_negative(drift):
    """It is the mean drift where that is positive: gains equal to it then lose half, ½ (½ λ_D + ½ λ_U). The weights differ,
    for with equal ones both responses' errors would cancel.
    """
    zero = max(0.0, drift)
    mismatched = {
        "policy_mismatched_logps": torch.tensor([drift - 1, drift + 1]),
        "reference_mismatched_logps": torch.zeros(2),
    }
    logps = with_gains([zero, zero], [zero, zero])
    found = objective("kto", beta=0.7, desirable_weight=3, undesirable_weight=1)(
        PreferenceLogps(**{**vars(logps), **mismatched})
    )
    assert close(found.losses, 1)


def test_the_reference_point_of_kto_is_that_of_the_batch_and_carries_no_gradient():
    logps = with_gradient(random_logps())
    drift = logps.policy_mismatched_logps - logps.reference_mismatched_logps
    assert (drift < 0).any()
    assert drift.mean() > 0
    found = slopes(objective("kto")(logps), logps)
    assert set(found) == {"chosen", "rejected"}
    sigma = (0.1 * (logps.chosen_gain() - drift.mean())).sigmoid()
    assert close(found["chosen"], (-0.5 * 0.1 * sigma * (1 - sigma)).detach())


@pytest.mark.parametrize("constant", [-7.0, 30.0])
def test_bco_does_not_see_a_constant_in_all_rewards(constant):
    """δ moves along. In only the chosen ones it does not cancel."""
    logps, bco = random_logps(), objective("bco", beta=0.3)
    moved = changed(logps, **{f"policy_{side}_logps": lambda v: v + constant for side in SIDES})
    assert close(bco(moved).losses, bco(logps).losses, rtol=1e-9)
    assert not close(bco(changed(logps, policy_chosen_logps=lambda v: v + constant)).losses, bco(logps).losses)


def test_the_shift_of_bco_carries_no_gradient():
    """The gradient of a pair is that of its own two terms: −β (1 − σ(r_w − δ)), β (1 − σ(δ − r_l))."""
    logps = with_gradient(random_logps())
    chosen, rejected = 0.3 * logps.chosen_gain().detach(), 0.3 * logps.rejected_gain().detach()
    shift = (chosen + rejected).mean() / 2
    found = slopes(objective("bco", beta=0.3)(logps), logps)
    assert close(found["chosen"], -0.3 * (shift - chosen).sigmoid())
    assert close(found["rejected"], 0.3 * (rejected - shift).sigmoid())


def test_aot_of_one_pair_is_dpo():
    for row in range(8):
        logps = part(random_logps(), slice(row, row + 1))
        assert agree(objective("aot", beta=0.3)(logps), objective("dpo", beta=0.3)(logps))


def test_aot_does_not_see_which_pair_a_reference_margin_belongs_to():
    logps, order = random_logps(), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    permuted = changed(logps, **{f"reference_{side}_logps": lambda v: v[order] for side in SIDES})
    aot, dpo = objective("aot", beta=0.3), objective("dpo", beta=0.3)
    assert close(aot(permuted).losses, aot(logps).losses)
    assert not close(dpo(permuted).losses.mean(), dpo(logps).losses.mean())


@pytest.mark.parametrize("seed", range(5))
def test_aot_costs_no_more_than_any_other_matching(seed):
    """Transport under a convex cost is cheapest in sorted order; DPO matches each pair with itself."""
    logps = random_logps(pairs=32, seed=seed)
    assert objective("aot", beta=0.3)(logps).losses.mean() < objective("dpo", beta=0.3)(logps).losses.mean()


# --- weights


def test_wpo_with_weights_one_is_dpo():
    """A policy whose tokens are as likely as its average draw: collisions equal to log-probs."""
    logps = random_logps()
    even = {f"policy_{side}_collision_logps": getattr(logps, f"policy_{side}_logps") for side in SIDES}
    assert agree(objective("wpo", beta=0.3)(random_logps(**even)), objective("dpo", beta=0.3)(logps))


def test_the_weights_of_wpo_scale_the_gradient_of_dpo_and_carry_none():
    logps = with_gradient(random_logps())
    weights = sum(
        (getattr(logps, f"policy_{side}_logps") - getattr(logps, f"policy_{side}_collision_logps"))
        / getattr(logps, f"{side}_lengths")
        for side in SIDES
    ).exp()  # fmt: skip
    wpo, dpo = (slopes(objective(name, beta=0.3)(logps), logps) for name in ("wpo", "dpo"))
    assert set(wpo) == {"chosen", "rejected"}
    assert weights.min() < 0.5
    assert weights.max() > 1.1
    for side in SIDES:
        assert close(wpo[side], (weights * dpo[side]).detach())
