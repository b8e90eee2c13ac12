from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, Qwen3MoeConfig

from posweep.policy import score
from posweep.policy.base import Policy
from posweep.policy.score import (
    collate,
    collision_logps,
    pack,
    response_logits,
    response_values,
    score_all,
    sequence_logps,
    token_logps,
)
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.settings import ScratchModel

from ..rounding import assert_near, near
from ..test_memory import Live


def by_hand(policy, prompt: list[int], response: list[int]) -> float:
    """log π(y|x), one full forward pass and one softmax per token, in float64."""
    model = policy.model.double()
    try:
        total = 0.0
        for t, token in enumerate(response):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response[:t]])).logits[0, -1]
            total += float(logits[token] - logits.exp().sum().log())
        return total
    finally:
        policy.model.float()


def test_log_probabilities_are_those_of_a_loop_over_tokens(toy, sequences):
    expected = [by_hand(toy[0], x, y) for x, y in zip(*sequences, strict=True)]
    assert sequence_logps(toy[0], collate(*sequences, 0, toy[0].device)).tolist() == near(expected)


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_neighbours_and_padding_change_nothing_and_the_order_is_kept(toy, sequences, batch_size):
    alone = [score_all(toy[0], [x], [y]).item() for x, y in zip(*sequences, strict=True)]
    assert score_all(toy[0], *sequences, batch_size).tolist() == near(alone)


def test_the_padding_token_does_not_matter(toy, sequences):
    padded = [sequence_logps(toy[0], collate(*sequences, pad, toy[0].device)) for pad in (0, 6)]
    assert torch.equal(*padded)


def test_logits_are_taken_at_response_positions_only(toy, sequences):
    prompts, responses = sequences
    batch = collate(prompts, responses, toy[0].pad, toy[0].device)
    with torch.no_grad():
        full = toy[0].model(batch.input_ids).logits
        found = response_logits(toy[0], batch)
    ends = [(len(x) - 1, len(x) - 1 + len(y)) for x, y in zip(prompts, responses, strict=True)]
    wanted = [full[i, first:last] for i, (first, last) in enumerate(ends)]
    assert_near(found, torch.cat(wanted))
    assert batch.targets.tolist() == [token for response in responses for token in response]
    assert batch.lengths.tolist() == [len(response) for response in responses]


def test_log_probabilities_carry_gradient(toy, sequences):
    sequence_logps(toy[0], collate(*sequences, 0, toy[0].device)).sum().backward()
    norms = [p.grad.norm().item() for p in toy[0].model.parameters()]
    toy[0].model.zero_grad()
    assert min(norms) > 0


def test_batches_hold_no_more_logits_than_they_may(monkeypatch):
    monkeypatch.setattr(score, "LOGITS", 100)
    lengths, logits = [9, 1, 5, 7, 3, 40], [30, 60, 50, 20, 10, 400]
    parts = score.similar_length(lengths, 3, logits)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert [lengths[i] for part in parts for i in part] == sorted(lengths)
    assert all(len(part) == 1 or (sum(logits[i] for i in part) <= 100 and len(part) <= 3) for part in parts)
    assert score.similar_length(lengths, 4) == [[1, 4, 2, 3], [0, 5]]
    assert score.similar_length([], 4) == []


# --- a gradient of its own


def numbers(dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens: some distributions nearly sure of their token or of another, some nearly uniform."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 40, generator=draw, dtype=dtype) * torch.logspace(-2, 1.5, 12, dtype=dtype)[:, None]
    likeliest, drawn = logits.argmax(-1), torch.randint(40, (12,), generator=draw)
    return logits.requires_grad_(), torch.where(torch.arange(12) % 2 == 0, drawn, likeliest)


def test_log_probabilities_of_tokens_are_those_of_cross_entropy():
    logits, targets = numbers()
    expected = -cross_entropy(logits, targets, reduction="none")
    found = token_logps(logits, targets)
    assert torch.equal(found, expected)
    with torch.no_grad():
        plain = token_logps(logits, targets)
    assert torch.equal(plain, expected)
    assert not plain.requires_grad
    slopes = torch.linspace(-2, 3, 12)
    ours, theirs = (torch.autograd.grad(values, logits, slopes)[0] for values in (found, expected))
    assert_near(ours, theirs)


def test_their_gradient_is_the_slope_of_their_values():
    """Checkpointing makes the distribution anew for each of the gradients that are asked for, as it does for parts."""
    logits, targets = numbers(torch.float64)
    anew = partial(checkpoint, token_logps, targets=targets, use_reentrant=False)
    assert torch.autograd.gradcheck(anew, logits)


def test_their_gradient_is_given_once():
    """It stands where the distribution was, and nobody gets a wrong one."""
    logits, targets = numbers()
    total = token_logps(logits, targets).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


# --- logits in parts


def of_both_kinds(policy: Policy, batch) -> list[torch.Tensor]:
    """Both values of each response token, and the gradient of a weighted sum of log-probs in every weight."""
    by_token, collisions = response_values(policy, batch, token_logps, collision_logps)
    weighted = (by_token * torch.linspace(-1, 2, len(by_token))).sum()
    return [by_token.detach(), collisions, *torch.autograd.grad(weighted, list(policy.model.parameters()))]


@pytest.mark.parametrize("at_once", [1, 4, 7, 15])
@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_the_logits_have_the_values_and_gradients_of_all(toy, sequences, monkeypatch, at_once, packed):
    policy, (prompts, responses) = toy[0], sequences
    batch = pack(prompts, responses, policy.device) if packed else collate(prompts, responses, 0, policy.device)
    expected = of_both_kinds(policy, batch)
    monkeypatch.setattr(score, "TRAINED_LOGITS", at_once * policy.vocabulary)
    for one, other in zip(of_both_kinds(policy, batch), expected, strict=True):
        assert_near(one, other)


def test_parts_are_what_the_model_makes_of_them(sequences, monkeypatch):
    """Cohere scales its logits behind the head, Gemma 2 caps them there, and Qwen 3 looks for what its router said."""
    experts = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    for config, about in (
        (CohereConfig, {"logit_scale": 0.3}),
        (Gemma2Config, {"final_logit_softcapping": 0.5}),
        (Qwen3MoeConfig, experts),
        (Qwen3MoeConfig, {**experts, "output_router_logits": True}),
    ):
        size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        usual = {"vocab_size": 9, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
        model = AutoModelForCausalLM.from_config(config(**size, **usual, **about)).eval()
        model.get_input_embeddings().weight.data.mul_(30)
        policy = Policy(model, None)
        batch = collate(*sequences, 0, policy.device)
        expected = of_both_kinds(policy, batch)
        with monkeypatch.context() as patched:
            patched.setattr(score, "TRAINED_LOGITS", 4 * policy.vocabulary)
            for one, other in zip(of_both_kinds(policy, batch), expected, strict=True):
                assert_near(one, other)


def test_no_more_logits_are_held_than_that(monkeypatch):
    """1,000 response tokens over 2,000 words are 8 MB of logits, 16 with their log-softmax; in parts of 50 tokens 0.8.

    The gradient of the weights, 2,000 · 16 numbers, is held twice where parts are added up.
    """
    policy = new_policy(ScratchModel(hidden_size=16, layers=1, heads=2), make_tokenizer(ScratchModel(), [WORDS]))
    rng = np.random.default_rng(0)
    responses = rng.integers(5, 2000, size=(50, 20)).tolist()
    batch = pack([[1, 2]] * 50, responses, policy.device)
    peaks = []
    for at_once in (2**26, 50 * policy.vocabulary):
        monkeypatch.setattr(score, "TRAINED_LOGITS", at_once)
        with Live(list(policy.model.parameters())) as live:
            sequence_logps(policy, batch).sum().backward()
        policy.model.zero_grad()
        peaks.append(live.peak)
    assert peaks[0] > 8 * 1000 * policy.vocabulary
    assert peaks[0] - peaks[1] > 0.85 * 8 * 950 * policy.vocabulary
    assert peaks[1] < 8 * 50 * policy.vocabulary + 4_000_000


WORDS = " ".join(f"w{i}" for i in range(2000))
