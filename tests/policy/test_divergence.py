import itertools

import pytest

from posweep.policy import divergence
from posweep.policy.divergence import kl_all
from posweep.policy.score import score_all

from ..rounding import near


def test_kl_to_oneself_is_zero(toy, sequences):
    assert kl_all(toy[0], toy[0], *sequences).tolist() == [0.0] * 5


@pytest.mark.parametrize("batch_size", [1, 2])
def test_kl_ignores_neighbours(toy, sequences, batch_size):
    expected = kl_all(*toy, *sequences).tolist()
    assert kl_all(*toy, *sequences, batch_size).tolist() == near(expected)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_kl_is_the_same_to_the_bit_however_few_tokens_are_compared_at_once(toy, sequences, tokens, monkeypatch):
    expected = kl_all(*toy, *sequences).tolist()
    assert min(expected) > 0
    monkeypatch.setitem(divergence.AT_ONCE, "cpu", tokens * toy[0].vocabulary)
    assert kl_all(*toy, *sequences).tolist() == expected


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
    assert ours.exp().sum().item() == near(1)
    expected = (ours.exp() * (ours - theirs)).sum().item()
    along = (ours.exp() * kl_all(policy, reference, prompts, responses)).sum().item()
    assert along == near(expected)
    assert expected > 0.01
