"""What the tests of this room feed to objectives, and how they change it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from posweep.objectives import OBJECTIVES, PreferenceLogps, PreferenceLoss

from .cases import Case

FIELDS = [field.name for field in dataclasses.fields(PreferenceLogps)]
OPTIONAL = FIELDS[4:]
SIDES = ("chosen", "rejected")
OUTPUTS = [field.name for field in dataclasses.fields(PreferenceLoss)]


def objective(name: str, **hyperparameters: float) -> Any:
    return OBJECTIVES[name](**hyperparameters)


def logps_of(case: Case) -> PreferenceLogps:
    """A row's two pairs in float64; all that is the policy's asks for gradient."""
    values = {"policy_chosen_logps": case.chosen, "policy_rejected_logps": case.rejected, **case.extras}
    values |= {f"{side}_lengths": lengths for side, lengths in zip(SIDES, case.lengths, strict=True)}
    if case.reference:
        values |= {f"reference_{side}_logps": v for side, v in zip(SIDES, case.reference, strict=True)}
    return with_gradient(PreferenceLogps(**{n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}))


def random_logps(pairs: int = 8, seed: int = 0, **given: Tensor) -> PreferenceLogps:
    """Every field, in float64 and as a policy could have it: sums fall with length, the reference is not far away."""
    rng = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(pairs, generator=rng, dtype=torch.float64)

    lengths = {f"{side}_lengths": torch.randint(2, 20, (pairs,), generator=rng) for side in SIDES}
    lengths |= {name: value for name, value in given.items() if name in lengths}
    shared = torch.minimum(*lengths.values())
    drawn = {"policy_mismatched_logps": between(-20, -10), "reference_mismatched_logps": between(-25, -15)}
    for side, length in zip(SIDES, lengths.values(), strict=True):
        drawn[f"policy_{side}_logps"] = -length * between(0.2, 1.5)
        drawn[f"reference_{side}_logps"] = drawn[f"policy_{side}_logps"] * between(0.7, 1.3)
        drawn[f"policy_{side}_collision_logps"] = -length * between(0.2, 1.5)
        for who in ("policy", "reference"):
            part = (shared / length) ** between(0.8, 1.2)  # all of it where the response is the shorter one
            drawn[f"{who}_{side}_common_logps"] = drawn[f"{who}_{side}_logps"] * part
    return PreferenceLogps(**{**drawn, **lengths, **given})


def with_gains(chosen: Any, rejected: Any) -> PreferenceLogps:
    """Pairs of ten tokens a response that have these gains over the reference, in nats; they ask for gradient."""
    gains = [torch.as_tensor(gain, dtype=torch.float64).reshape(-1) for gain in (chosen, rejected)]
    reference, lengths = torch.full_like(gains[0], -20), torch.full_like(gains[0], 10)
    return with_gradient(PreferenceLogps(*(reference + gain for gain in gains), lengths, lengths, reference, reference))


def with_gradient(logps: PreferenceLogps) -> PreferenceLogps:
    """The same, asking for gradient in all that is the policy's."""
    fresh = {n: v.clone().requires_grad_() for n, v in vars(logps).items() if n.startswith("policy") and v is not None}
    return dataclasses.replace(logps, **fresh)


def at_reference(logps: PreferenceLogps) -> PreferenceLogps:
    """The same policy, which is its own reference."""
    equal = {n: getattr(logps, n.replace("reference", "policy")).detach() for n in FIELDS if n.startswith("reference")}
    return dataclasses.replace(logps, **equal)


def both_alike(logps: PreferenceLogps) -> PreferenceLogps:
    """The same pairs, with rejected responses as likely and as long as the chosen ones."""
    return dataclasses.replace(
        logps, policy_rejected_logps=logps.policy_chosen_logps, rejected_lengths=logps.chosen_lengths
    )


def part(logps: PreferenceLogps, rows: Any) -> PreferenceLogps:
    return PreferenceLogps(**{name: None if value is None else value[rows] for name, value in vars(logps).items()})


def without(logps: PreferenceLogps, *names: str) -> PreferenceLogps:
    return dataclasses.replace(logps, **dict.fromkeys(names))


def slopes(found: PreferenceLoss, logps: PreferenceLogps) -> dict[str, Tensor]:
    """The gradient of the summed loss with respect to each input that carries some: `chosen`, `rejected_common`, …"""
    inputs = {n: v for n, v in vars(logps).items() if n.startswith("policy") and v is not None}
    gradients = torch.autograd.grad(found.losses.sum(), list(inputs.values()), allow_unused=True)
    names = (name.removeprefix("policy_").removesuffix("_logps") for name in inputs)
    return {name: value for name, value in zip(names, gradients, strict=True) if value is not None}


def close(found: Tensor, expected: Any, rtol: float = 1e-12, atol: float = 1e-12) -> bool:
    """Equal but for rounding in float64."""
    return torch.allclose(found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)


def agree(one: PreferenceLoss, other: PreferenceLoss) -> bool:
    """The same losses and rewards."""
    return all(close(getattr(one, name), getattr(other, name)) for name in OUTPUTS)
