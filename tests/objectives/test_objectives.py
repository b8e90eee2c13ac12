"""One table of cases puts every objective through the whole suite: a new method is one row."""

import dataclasses
import itertools
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from posweep.blocks import SHARED
from posweep.errors import ShapeError
from posweep.fields import About, range_problems
from posweep.objectives import OBJECTIVES, PreferenceLogps, hyperparameters
from posweep.policy.train import Losses, optimise
from posweep.settings import TrainSettings

CONF = Path(__file__).parents[2] / "conf" / "method"
REFERENCE = ("reference_chosen_logps", "reference_rejected_logps")
LOG_2 = math.log(2)
LOG_1_E = math.log(1 + 1 / math.e)
"""−log σ(1), as σ(1) = 1/(1 + 1/e)."""


@dataclass(frozen=True)
class Case:
    """Two pairs whose losses and rewards were derived by hand, and what holds where policy = reference."""

    hyperparameters: dict[str, float]
    chosen: tuple[float, float]
    rejected: tuple[float, float]
    lengths: tuple[tuple[float, float], tuple[float, float]]
    losses: tuple[float, float]
    rewards: tuple[tuple[float, float], tuple[float, float]]
    reference: tuple[tuple[float, float], tuple[float, float]] | None = None
    at_reference: dict[str, Any] = field(default_factory=dict)
    gradient_signs: tuple[int, int] = (-1, 1)


CASES = {
    # ρ_w = (3, 2), ρ_l = (−1, 0); margins ½(3 + 1) − 1 = 1 and ½(2 − 0) − 1 = 0.
    "dpo": Case(
        hyperparameters={"beta": 0.5, "gamma": 1.0},
        chosen=(-7, -18), rejected=(-11, -30), reference=((-10, -20), (-10, -30)), lengths=((4, 9), (7, 5)),
        losses=(LOG_1_E, LOG_2), rewards=((1.5, 1.0), (-0.5, 0.0)),
        at_reference={"gamma": 0.0, "loss": LOG_2},
    ),
    # ρ_w/|y_w| = (2/4, 1/2), ρ_l/|y_l| = (−1/2, 0/5); margins 2(½ + ½) − 1 = 1 and 2(½ − 0) − 1 = 0.
    "ln_dpo": Case(
        hyperparameters={"beta": 2.0, "gamma": 1.0},
        chosen=(-8, -19), rejected=(-11, -30), reference=((-10, -20), (-10, -30)), lengths=((4, 2), (2, 5)),
        losses=(LOG_1_E, LOG_2), rewards=((1.0, 1.0), (-1.0, 0.0)),
        at_reference={"gamma": 0.0, "loss": LOG_2},
    ),
    # log π(y_w)/|y_w| = (−4/4, −2/4), log π(y_l)/|y_l| = (−4/2, −5/5); margins 2(−1 + 2) − 1 = 1, 2(−½ + 1) − 1 = 0.
    "simpo": Case(
        hyperparameters={"beta": 2.0, "gamma": 1.0},
        chosen=(-4, -2), rejected=(-4, -5), lengths=((4, 4), (2, 5)),
        losses=(LOG_1_E, LOG_2), rewards=((-2.0, -1.0), (-4.0, -2.0)),
    ),
}  # fmt: skip

every_method = pytest.mark.parametrize("name", OBJECTIVES)
reference_dependent = pytest.mark.parametrize("name", [n for n, cls in OBJECTIVES.items() if not cls.reference_free])


def objective(name: str, **changed: float):
    return OBJECTIVES[name](**{**CASES[name].hyperparameters, **changed})


def logps_of(case: Case, dtype=torch.float32) -> PreferenceLogps:
    """The inputs of a case; the policy's carry gradient."""

    def tensor(values, grad=False):
        return torch.tensor(values, dtype=dtype, requires_grad=grad)

    reference = dict(zip(REFERENCE, map(tensor, case.reference), strict=True)) if case.reference else {}
    return PreferenceLogps(
        tensor(case.chosen, True), tensor(case.rejected, True), *map(tensor, case.lengths), **reference
    )


def random_logps(pairs: int = 8, seed: int = 0, **given: torch.Tensor) -> PreferenceLogps:
    rng = torch.Generator().manual_seed(seed)
    names = [f.name for f in dataclasses.fields(PreferenceLogps)]
    drawn = {n: -20 * torch.rand(pairs, generator=rng, dtype=torch.float64) for n in names if n.endswith("logps")}
    drawn |= {n: torch.randint(1, 30, (pairs,), generator=rng) for n in names if n.endswith("lengths")}
    return PreferenceLogps(**{**drawn, **given})


def part(logps: PreferenceLogps, rows: slice) -> PreferenceLogps:
    return PreferenceLogps(**{n: None if v is None else v[rows] for n, v in vars(logps).items()})


def same(value: torch.Tensor, expected: Any) -> bool:
    return torch.allclose(value, torch.as_tensor(expected, dtype=value.dtype), rtol=1e-6, atol=1e-7)


def test_every_method_has_a_row_and_a_file():
    assert list(CASES) == list(OBJECTIVES)
    assert {file.stem for file in CONF.glob("*.yaml")} == set(OBJECTIVES)


@every_method
def test_losses_and_rewards_are_those_derived_by_hand(name):
    """The derivation stands above each case."""
    found, case = objective(name)(logps_of(CASES[name])), CASES[name]
    assert same(found.losses, case.losses)
    assert same(found.chosen_rewards, case.rewards[0])
    assert same(found.rejected_rewards, case.rewards[1])


@reference_dependent
def test_where_policy_and_reference_agree_nothing_is_gained(name):
    """ρ = 0 for both, so the margin is −γ; at γ = 0 it is 0 and −log σ(0) = log 2."""
    case, logps = CASES[name], random_logps()
    expected = dict(case.at_reference)
    loss = expected.pop("loss")
    equal = dataclasses.replace(
        logps, reference_chosen_logps=logps.policy_chosen_logps, reference_rejected_logps=logps.policy_rejected_logps
    )
    found = objective(name, **expected)(equal)
    assert same(found.losses, torch.full((8,), loss))
    assert same(found.chosen_rewards, torch.zeros(8))
    assert same(found.rejected_rewards, torch.zeros(8))


@every_method
def test_gradients_at_the_reference_raise_the_chosen_and_lower_the_rejected(name):
    logps = random_logps()
    chosen, rejected = (v.clone().requires_grad_() for v in (logps.policy_chosen_logps, logps.policy_rejected_logps))
    at = PreferenceLogps(
        chosen, rejected, logps.chosen_lengths, logps.rejected_lengths, chosen.detach(), rejected.detach()
    )
    gradients = torch.autograd.grad(objective(name)(at).losses.sum(), (chosen, rejected))
    for gradient, sign in zip(gradients, CASES[name].gradient_signs, strict=True):
        assert torch.equal(gradient.sign(), torch.full((8,), float(sign), dtype=torch.float64))


@pytest.mark.parametrize(("beta", "length"), [(2.0, 10), (5.0, 7), (1.0, 1)])
def test_with_equal_lengths_ln_dpo_is_dpo_at_beta_over_length(beta, length):
    lengths = torch.full((8,), length)
    logps = random_logps(chosen_lengths=lengths, rejected_lengths=lengths)
    ln_dpo, dpo = OBJECTIVES["ln_dpo"](beta, 0.5)(logps), OBJECTIVES["dpo"](beta / length, 0.5)(logps)
    for name in ("losses", "chosen_rewards", "rejected_rewards"):
        assert same(getattr(ln_dpo, name), getattr(dpo, name))


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_with_a_constant_reference_ln_dpo_is_simpo(gamma):
    logps = random_logps(**{name: torch.zeros(8) for name in REFERENCE})
    ln_dpo, simpo = OBJECTIVES["ln_dpo"](2.5, gamma)(logps), OBJECTIVES["simpo"](2.5, gamma)(logps)
    for name in ("losses", "chosen_rewards", "rejected_rewards"):
        assert same(getattr(ln_dpo, name), getattr(simpo, name))


@every_method
def test_gradients_are_those_of_finite_differences(name):
    logps = logps_of(CASES[name], torch.float64)

    def losses(chosen, rejected):
        return objective(name)(
            dataclasses.replace(logps, policy_chosen_logps=chosen, policy_rejected_logps=rejected)
        ).losses

    assert torch.autograd.gradcheck(losses, (logps.policy_chosen_logps, logps.policy_rejected_logps))


@every_method
def test_loss_and_gradient_are_finite_for_any_log_probability(name):
    """All combinations of log π in {0, −1, −10⁴} for policy and reference, with lengths 1 and 100."""
    values, lengths = [0.0, -1.0, -1e4], [1.0, 100.0]
    rows = torch.tensor(list(itertools.product(values, values, lengths, lengths, values, values)))
    chosen, rejected, *rest = rows.T
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    found = OBJECTIVES[name]()(PreferenceLogps(chosen, rejected, *rest))
    gradients = torch.autograd.grad(found.losses.sum(), (chosen, rejected))
    for tensor in (found.losses, found.chosen_rewards, found.rejected_rewards, *gradients):
        assert torch.isfinite(tensor).all()


@every_method
def test_separable_says_whether_a_batch_is_the_mean_of_its_parts(name):
    logps = random_logps()
    parts = [objective(name)(part(logps, rows)).losses for rows in (slice(0, 3), slice(3, 8))]
    assert same(torch.cat(parts).mean(), objective(name)(logps).losses.mean()) == OBJECTIVES[name].separable


@every_method
def test_losses_carry_gradient_and_rewards_do_not(name):
    found = objective(name)(logps_of(CASES[name]))
    assert (found.losses.requires_grad, found.chosen_rewards.requires_grad, found.rejected_rewards.requires_grad) == (
        True, False, False,
    )  # fmt: skip


@every_method
def test_an_objective_is_a_value(name):
    assert pickle.loads(pickle.dumps(objective(name))) == objective(name)
    assert hash(objective(name)) == hash(objective(name))
    for hyperparameter in hyperparameters(OBJECTIVES[name]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective(name), hyperparameter, 1.0)


@every_method
def test_only_reference_dependent_methods_read_the_reference(name):
    logps = random_logps()
    absent = dataclasses.replace(logps, **dict.fromkeys(REFERENCE))
    strange = dataclasses.replace(logps, **dict.fromkeys(REFERENCE, torch.full((8,), math.nan)))
    if OBJECTIVES[name].reference_free:
        assert torch.equal(objective(name)(absent).losses, objective(name)(strange).losses)
    else:
        with pytest.raises(ShapeError, match=r"reference_chosen_logps is missing.*\(8,\)"):
            objective(name)(absent)
        with pytest.raises(ShapeError, match=r"reference_rejected_logps is missing"):
            objective(name)(dataclasses.replace(logps, reference_rejected_logps=None))


@pytest.mark.parametrize("wrong", [f.name for f in dataclasses.fields(PreferenceLogps)][1:])
def test_a_field_of_another_shape_is_refused_with_both_shapes(wrong):
    with pytest.raises(ShapeError, match=rf"{wrong} has shape \(8, 1\) where policy_chosen_logps has \(8,\)"):
        random_logps(**{wrong: torch.ones(8, 1)})


@pytest.mark.parametrize("shape", [(8, 1), (), (2, 4)])
def test_a_batch_that_is_no_vector_of_pairs_is_refused(shape):
    with pytest.raises(ShapeError, match=r"policy_chosen_logps must have shape \(pairs,\), got \("):
        random_logps(policy_chosen_logps=torch.zeros(shape))


@every_method
def test_every_hyperparameter_says_its_symbol_source_and_range(name):
    for hyperparameter, known in hyperparameters(OBJECTIVES[name]).items():
        assert isinstance(known, About)
        assert known.symbol, hyperparameter
        assert known.source, hyperparameter
        assert known.rule(), hyperparameter
    assert range_problems(OBJECTIVES[name], vars(OBJECTIVES[name]()), name) == []


@every_method
def test_the_file_of_a_method_has_its_hyperparameters_and_a_valid_grid(name):
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert written["hyperparameters"] == dataclasses.asdict(OBJECTIVES[name]())
    assert set(written["grid"]) <= {*hyperparameters(OBJECTIVES[name]), *SHARED}
    for axis, values in written["grid"].items():
        cls = OBJECTIVES[name] if axis in hyperparameters(OBJECTIVES[name]) else TrainSettings
        assert values
        assert range_problems(cls, {axis: values}, name) == []


def one_step(name: str, micro_batch_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and weights of a linear policy after one step on eight pairs."""
    torch.manual_seed(0)
    model, logps = torch.nn.Linear(3, 1, bias=False), part(random_logps(), slice(None))
    chosen, rejected = torch.rand(2, 8, 3)
    gradient = torch.zeros_like(model.weight)
    model.weight.register_hook(lambda new: (gradient.add_(new), None)[1])

    def loss(items: np.ndarray) -> Losses:
        policy = (-model(x[items]).squeeze(-1).exp() for x in (chosen, rejected))
        names = ("policy_chosen_logps", "policy_rejected_logps")
        batch = dataclasses.replace(part(logps, items), **dict(zip(names, policy, strict=True)))
        return Losses(objective(name)(batch).losses, {})

    optimise(model, [np.arange(8)], loss, TrainSettings(micro_batch_size=micro_batch_size))
    return gradient, model.weight.detach()


@every_method
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4])
def test_the_micro_batch_changes_rounding_only(name, micro_batch_size):
    """Three does not divide eight: parts of unequal size must weigh by their pairs."""
    whole, parts = one_step(name, None), one_step(name, micro_batch_size)
    assert whole[0].abs().min() > 1e-4
    for expected, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
