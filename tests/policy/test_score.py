import numpy as np
import pytest
import torch

from posweep.policy.score import collate, response_logits, score_all, sequence_logps


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 7, size=n).tolist() for n in (1, 5, 3, 2, 8)]
    responses = [rng.integers(2, 7, size=n).tolist() for n in (4, 1, 6, 2, 3)]
    return prompts, responses


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
    assert sequence_logps(toy[0], collate(*sequences, 0, toy[0].device)).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_neighbours_and_padding_change_nothing_and_the_order_is_kept(toy, sequences, batch_size):
    alone = [score_all(toy[0], [x], [y]).item() for x, y in zip(*sequences, strict=True)]
    assert score_all(toy[0], *sequences, batch_size).tolist() == pytest.approx(alone, rel=1e-5)


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
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-5, atol=1e-6)
    assert batch.targets.tolist() == [token for response in responses for token in response]
    assert batch.lengths.tolist() == [len(response) for response in responses]


def test_log_probabilities_carry_gradient(toy, sequences):
    sequence_logps(toy[0], collate(*sequences, 0, toy[0].device)).sum().backward()
    norms = [p.grad.norm().item() for p in toy[0].model.parameters()]
    toy[0].model.zero_grad()
    assert min(norms) > 0


def test_batches_hold_no_more_logits_than_they_may(monkeypatch):
    from posweep.policy import score

    monkeypatch.setattr(score, "LOGITS", 100)
    lengths, logits = [9, 1, 5, 7, 3, 40], [30, 60, 50, 20, 10, 400]
    parts = score.similar_length(lengths, 3, logits)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert [lengths[i] for part in parts for i in part] == sorted(lengths)
    assert all(len(part) == 1 or (sum(logits[i] for i in part) <= 100 and len(part) <= 3) for part in parts)
    assert score.similar_length(lengths, 4) == [[1, 4, 2, 3], [0, 5]]
    assert score.similar_length([], 4) == []
