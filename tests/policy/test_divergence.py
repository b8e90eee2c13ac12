import itertools

import numpy as np
import pytest

from posweep.policy.divergence import kl_all
from posweep.policy.score import score_all


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 7, size=n).tolist() for n in (1, 5, 3, 2, 8)]
    responses = [rng.integers(2, 7, size=n).tolist() for n in (4, 1, 6, 2, 3)]
    return prompts, responses


def test_kl_to_oneself_is_zero(toy, sequences):
    assert kl_all(toy[0], toy[0], *sequences).tolist() == [0.0] * 5


@pytest.mark.parametrize("batch_size", [1, 2])
def test_kl_ignores_neighbours(toy, sequences, batch_size):
    expected = kl_all(*toy, *sequences).tolist()
    assert kl_all(*toy, *sequences, batch_size).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_kl_is_that_of_the_truncated_process(toy, limit):
    """By the chain rule E_π[Σ_t KL(π(·|y<t) ‖ π_ref(·|y<t))] = Σ_y π(y) log π(y)/π_ref(y), y over every response that
    ends, or is cut at `limit` tokens. Both sides by enumeration."""
    policy, reference = toy
    vocabulary, end = range(len(policy.tokenizer)), policy.texts.end
    responses = [
        list(y)
        for length in range(1, limit + 1)
        for y in itertools.product(vocabulary, repeat=length)
        if end not in y[:-1] and (y[-1] == end or length == limit)
    ]
    prompts = [[1, 5, 4]] * len(responses)
    ours, theirs = (score_all(one, prompts, responses).double() for one in toy)
    assert ours.exp().sum().item() == pytest.approx(1, abs=1e-5)
    expected = (ours.exp() * (ours - theirs)).sum().item()
    along = (ours.exp() * kl_all(policy, reference, prompts, responses)).sum().item()
    assert along == pytest.approx(expected, rel=1e-5)
    assert expected > 0.01
