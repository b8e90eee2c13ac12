"""Sequences in one row without padding: what the model makes of them is what it makes of each alone."""

import numpy as np
import pytest
import torch
from transformers import Cohere2Config, MistralConfig

from posweep.policy.load import load_policy, trained
from posweep.policy.packed import Ragged, packs, spans
from posweep.policy.score import collate, lay_out, pack, response_logits, sequence_logps
from posweep.settings import LoraSettings

from ..rounding import FORWARD, assert_near, rounding
from .families import FAMILIES, make_model, settings

every_family = pytest.mark.parametrize("family", FAMILIES)


def some(seed: int, longest: int, count: int = 5) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 100, size=size).tolist() for size in rng.integers(1, longest + 1, size=count)]


def gradients(policy, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """log π of each sequence, and the gradient of their weighted sum."""
    logps = sequence_logps(policy, batch)
    weights = trained(policy)
    slopes = torch.autograd.grad((logps * torch.arange(1, len(logps) + 1)).sum(), list(weights.values()))
    return logps.detach(), dict(zip(weights, slopes, strict=True))


def same(found, expected, terms: float = FORWARD):
    """Values to rounding, gradients to that of their largest entry."""
    assert_near(found[0], expected[0], terms)
    for name, slope in expected[1].items():
        assert_near(found[1][name], slope, terms, scale=max(float(slope.abs().max()), rounding()))


# --- where tokens stand


def test_spans_count_up_from_each_start():
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.array([], int), np.array([], int)).tolist() == []


def test_ragged_rows_are_taken_and_put_together():
    rows = Ragged.of([[1, 2], [3], [], [4, 5, 6]])
    assert (rows.flat.tolist(), rows.lengths.tolist()) == ([1, 2, 3, 4, 5, 6], [2, 1, 0, 3])
    assert rows.take([3, 0]).flat.tolist() == [4, 5, 6, 1, 2]
    assert rows.take([1]).beside(rows.take([0])).flat.tolist() == [3, 1, 2]


def test_two_responses_to_one_prompt_by_hand(toy):
    """Prompt 1 2, responses 3 and 4 5: each is predicted from the prompt's last token, then from its own."""
    batch = pack([[1, 2]], [[3], [4, 5]], toy[0].device)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3]]
    assert batch.rows.tokens.tolist() == [[0, 1, 2, 2], [0, 1, 3, 4]]
    assert batch.rows.places.tolist() == [0, 1, 2, 6, 7]
    assert batch.predicts.tolist() == [1, 1, 3]
    assert batch.targets.tolist() == [3, 4, 5]
    assert batch.owner.tolist() == [0, 1, 1]
    assert batch.lengths.tolist() == [1, 2]


def test_nothing_is_padded_and_a_shared_prompt_stands_there_once(toy):
    prompts, responses = some(0, 6), some(1, 9, 10)
    tokens = [sum(map(len, rows)) for rows in (prompts, responses)]
    assert pack(prompts, responses, toy[0].device).input_ids.numel() == sum(tokens)
    assert pack(prompts + prompts, responses, toy[0].device).input_ids.numel() == 2 * tokens[0] + tokens[1]


def test_states_are_spread_over_places_and_gathered_from_them():
    """A token's gradient is the sum over its places: the prompt's two tokens stand in two rows."""
    rows = pack([[1, 2]], [[3], [4, 5]], torch.device("cpu")).rows
    states = torch.randn(1, 2, 5, 3, requires_grad=True)
    spread = rows.spread(states)
    for row, tokens in enumerate(rows.tokens.tolist()):
        assert torch.equal(spread[row], states[0][:, tokens])
    assert torch.equal(rows.gather(spread.transpose(1, 2)), states.transpose(1, 2))
    spread.sum().backward()
    assert states.grad[0, 0, :, 0].tolist() == [2, 2, 2, 1, 1]  # the third also stands where nobody looks


# --- against padded rows


@every_family
def test_every_family_packs_and_takes_packed_rows_by_itself(opened, family):
    policy = opened(family)
    assert policy.packs
    prompts, responses = some(0, 6), some(1, 9)
    assert lay_out(policy, prompts, responses).rows is not None


@every_family
@pytest.mark.parametrize("shared", [False, True])
def test_values_and_gradients_are_those_of_padded_rows(opened, family, shared):
    policy = opened(family)
    prompts, responses = some(0, 12), some(1, 9, 10)
    expected = gradients(policy, collate(prompts + prompts, responses, policy.pad, policy.device))
    same(gradients(policy, pack(prompts if shared else prompts + prompts, responses, policy.device)), expected)


def test_so_are_those_of_adapters_and_of_blocks_computed_again(opened):
    prompts, responses = some(0, 12), some(1, 9, 10)
    for changes in ({"lora": LoraSettings(rank=4)}, {"gradient_checkpointing": True}):
        policy = opened("llama", **changes)
        policy.model.train()
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
        expected = gradients(policy, collate(prompts + prompts, responses, policy.pad, policy.device))
        same(gradients(policy, pack(prompts, responses, policy.device)), expected)


def test_a_response_of_another_pair_is_not_seen(opened):
    """Every token of one response is changed: no logit of another changes at all."""
    policy = opened("llama")
    prompts, responses = some(0, 6), some(1, 9, 10)
    others = [*responses[:9], [token % 7 + 20 for token in responses[9]]]
    with torch.no_grad():
        one, other = (response_logits(policy, pack(prompts, each, policy.device)) for each in (responses, others))
    before = sum(map(len, responses[:9]))
    assert_near(one[:before], other[:before], FORWARD)
    assert not torch.allclose(one[before:], other[before:], atol=1e-2)


# --- which models


def test_eager_attention_takes_padded_rows(opened):
    policy = opened("llama", attention="eager")
    assert not policy.packs
    assert lay_out(policy, some(0, 6), some(1, 9)).rows is None


@pytest.mark.parametrize(
    ("config", "about"), [(MistralConfig, {"sliding_window": 64}), (Cohere2Config, {"sliding_window_pattern": 2})]
)
def test_models_with_windows_take_padded_rows(tmp_path, config, about):
    FAMILIES["windowed"] = (config, {**FAMILIES["llama"][1], **about}, *FAMILIES["llama"][2:])
    try:
        folder = make_model("windowed", tmp_path)
        assert not load_policy(settings("llama", folder), folder).packs
    finally:
        del FAMILIES["windowed"]


def test_a_model_that_does_not_hand_on_where_tokens_stand_is_found_out(opened, monkeypatch):
    """As it were written before such arguments, or after its own mind about positions."""
    model = opened("llama").model
    assert packs(model)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda rows=None, **inputs: forward(**inputs))
    assert not packs(model)
    monkeypatch.setattr(model, "forward", lambda position_ids=None, **inputs: forward(**inputs))
    assert not packs(model)
    monkeypatch.setattr(model, "forward", lambda input_ids, use_cache: forward(input_ids=input_ids))
    assert not packs(model)
