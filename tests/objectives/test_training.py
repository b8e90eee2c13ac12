"""Every method in the real loop: the gradient of a step does not depend on the micro-batch."""

import copy
import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import (
    load_mismatched,
    load_reference,
    load_token_logps,
    save_mismatched,
    save_reference,
    save_token_logps,
)
from posweep.objectives import OBJECTIVES
from posweep.policy.batch import Batch
from posweep.policy.load import trained
from posweep.policy.score import score_tokens
from posweep.policy.train import optimise, reset
from posweep.settings import TrainSettings
from posweep.trial.loss import PairLoss

from ..rounding import assert_near, near, rounding
from .cases import CASES
from .inputs import objective

every_method = pytest.mark.parametrize("name", OBJECTIVES)
WHOLE = Batch(np.array([4, 1, 7, 2, 0, 6, 3, 5]), epoch=1)


@pytest.fixture(scope="module")
def softer(toy):
    """A policy that steps may move, and its reference: copies of the toy ones, less sure, so that nothing saturates."""
    made = copy.deepcopy(
        toy[::-1]
    )  # in this order mismatched responses have gained, and the reference point of KTO is > 0
    for policy in made:
        policy.model.model.embed_tokens.weight.data.mul_(0.5)
    return made


@pytest.fixture(scope="module")
def policy(softer):
    return softer[0]


@pytest.fixture(scope="module")
def pairs():
    """Eight pairs of different prompts. Their responses are nearly as long as each other: where length decided, policy
    and reference would rank the pairs alike, and AOT would be DPO.
    """
    rng = np.random.default_rng(5)
    lengths = {
        "prompts": (2, 5, 3, 4, 6, 2, 3, 4),
        "chosen": (3, 9, 2, 4, 6, 1, 8, 5),
        "rejected": (4, 7, 3, 2, 6, 2, 6, 5),
    }
    return TokenPairs(**{n: [rng.integers(2, 7, size=size).tolist() for size in sizes] for n, sizes in lengths.items()})


@pytest.fixture(scope="module")
def reference(softer, pairs, tmp_path_factory):
    """What another policy makes of the pairs, with all extras, by way of their files."""
    folder, device = tmp_path_factory.mktemp("reference"), softer[1].device
    for save in (save_reference, save_mismatched, save_token_logps):
        save(softer[1], pairs, folder / f"{save.__name__}.npz")
    return dataclasses.replace(
        load_reference(folder / "save_reference.npz", device),
        mismatched=load_mismatched(folder / "save_mismatched.npz", pairs, device),
        by_token=load_token_logps(folder / "save_token_logps.npz"),
    )


@pytest.fixture(scope="module")
def loss_of(policy, pairs, reference):
    def make(name: str, kind: type[PairLoss] = PairLoss, **about) -> PairLoss:
        return kind(objective(name, **CASES[name].hyperparameters), policy, pairs, reference, "train", 0, **about)

    return make


@contextmanager
def gradients_before_each_step():
    """The gradient of every parameter as the optimiser is about to use it."""
    found: list[torch.Tensor] = []

    def look(optimizer, *_):
        found.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield found
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def one_step(policy):
    """Gradients and charts of one step on all pairs; the weights are put back."""
    weights = {name: value.detach().clone() for name, value in trained(policy).items()}

    def step(loss: PairLoss, micro_batch_size: int | None):
        settings = TrainSettings(micro_batch_size=micro_batch_size, max_grad_norm=1e9)
        with gradients_before_each_step() as gradients:
            charts = optimise(policy.model, [WHOLE], loss, settings)
        reset(trained(policy), weights)
        return gradients, {name: value for name, [[_, value]] in charts.items()}

    return step


def furthest(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference in any parameter tensor, as a share of its largest entry."""
    both = zip(found, expected, strict=True)
    return max(((one - other).abs().max() / other.abs().max()).item() for one, other in both)


@every_method
def test_the_micro_batch_changes_rounding_only(name, loss_of, one_step):
    """Three does not divide eight: parts of unequal size weigh by their pairs."""
    expected, charts = one_step(loss_of(name), None)
    assert min(gradient.abs().max() for gradient in expected) > 1e-5
    for micro_batch_size in (4, 3, 2, 1):
        gradients, found = one_step(loss_of(name), micro_batch_size)
        assert found == near(charts)
        for one, other in zip(gradients, expected, strict=True):
            assert_near(one, other)


@every_method
def test_rows_without_padding_and_shared_prompts_change_rounding_only(name, loss_of, one_step, policy):
    padded = loss_of(name)
    padded.policy = dataclasses.replace(policy, packs=False)
    expected, charts = one_step(padded, None)
    for loss in (loss_of(name), loss_of(name, shares=True)):
        for micro_batch_size in (None, 3):
            gradients, found = one_step(loss, micro_batch_size)
            assert found == near(charts)
            for one, other in zip(gradients, expected, strict=True):
                assert_near(one, other)


def test_a_shared_prompt_is_computed_once(loss_of, pairs):
    """Eight pairs: the tokens of all prompts once, and of both responses."""
    once, twice = (loss_of("dpo", shares=shares)._tokens(WHOLE.items).input_ids.numel() for shares in (True, False))
    assert once == sum(map(len, [*pairs.prompts, *pairs.chosen, *pairs.rejected]))
    assert twice == once + sum(map(len, pairs.prompts))


class Naive(PairLoss):
    """What a loop does that takes every loss for the mean of its parts."""

    separable = True


@pytest.mark.parametrize("name", [name for name, cls in OBJECTIVES.items() if not cls.separable])
def test_a_mean_over_parts_would_be_another_method(name, loss_of, one_step):
    """The test above can fail: what looks at the whole batch must be taken in two passes."""
    expected, _ = one_step(loss_of(name), None)
    for micro_batch_size in (4, 3, 2, 1):
        assert furthest(one_step(loss_of(name, Naive), micro_batch_size)[0], expected) > 1e-3


@every_method
def test_the_step_follows_the_gradient_of_the_mean_loss(name, loss_of, one_step, policy):
    """Without the loop: one forward pass, one mean, one backward pass."""
    loss = loss_of(name)
    mean = loss.losses(WHOLE, loss.forward(WHOLE)).losses.mean()
    expected = torch.autograd.grad(mean, list(policy.model.parameters()))
    gradients, charts = one_step(loss, None)
    assert furthest(gradients, list(expected)) < rounding()
    assert charts["loss"] == near(mean.item())


def test_lengths_count_tokens_whatever_their_log_probability(toy, pairs, reference):
    """A policy so sure that many tokens have log π = 0 exactly; SFT's rewards are log π/|y|, the charts hold log π."""
    sure = copy.deepcopy(toy[0])
    sure.model.model.embed_tokens.weight.data.mul_(1000)
    logps = score_tokens(sure, pairs.prompts, pairs.chosen).numpy()
    zeros = [int((part == 0).sum()) for part in np.split(logps, np.cumsum([len(row) for row in pairs.chosen])[:-1])]
    loss = PairLoss(objective("sft"), sure, pairs, reference, "train", 0)
    charts = loss.losses(WHOLE, loss.forward(WHOLE)).charts
    lengths = torch.tensor([len(pairs.chosen[i]) for i in WHOLE.items])
    assert any(zeros)
    torch.testing.assert_close(charts["rewards/chosen"] * lengths, charts["logps/chosen"])
