import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posweep.errors import NotFinite
from posweep.policy.load import load_policy, trained
from posweep.policy.sample import OVER, sample
from posweep.settings import HubModel, LoraSettings

from .families import PADS, make_model


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [[1, *rng.integers(5, 7, size=n).tolist(), 4] for n in rng.integers(0, 9, size=60)]


@pytest.fixture
def noise():
    return np.random.default_rng(1).random((60, 6))


def first_token(policy, prompt: list[int]) -> np.ndarray:
    with torch.no_grad():
        return policy.run(lambda hidden: hidden, input_ids=torch.tensor([prompt])).logits[0, -1].double().numpy()


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_a_response_depends_on_its_prompt_and_its_noise_only(toy, prompts, noise, batch_size):
    expected = sample(toy[0], prompts, noise)
    assert sample(toy[0], prompts, noise, batch_size=batch_size) == expected
    order = np.random.default_rng(2).permutation(60)
    shuffled = sample(toy[0], [prompts[i] for i in order], noise[order], batch_size=batch_size)
    assert shuffled == [expected[i] for i in order]


def test_other_noise_gives_other_responses(toy, prompts, noise):
    assert sample(toy[0], prompts, noise) != sample(toy[0], prompts, noise[::-1])


def test_a_response_stops_at_its_end_token_or_is_truncated(toy, prompts, noise):
    responses = sample(toy[0], prompts, noise)
    assert {one.truncated for one in responses} == {True, False}
    for tokens, truncated in responses:
        assert toy[0].texts.end not in tokens[:-1]
        assert truncated == (tokens[-1] != toy[0].texts.end)
        assert len(tokens) == 6 if truncated else 1 <= len(tokens) <= 6


def test_fewer_tokens_of_the_same_noise_are_a_prefix(toy, prompts, noise):
    longer, shorter = sample(toy[0], prompts, noise), sample(toy[0], prompts, noise[:, :3])
    assert [one.tokens for one in shorter] == [one.tokens[:3] for one in longer]


@pytest.mark.parametrize(("temperature", "top_p"), [(1, 1), (0.5, 1), (2, 1), (1, 0.7), (1.5, 0.9), (1, 1e-6)])
def test_first_tokens_follow_the_softmax(toy, temperature, top_p):
    """Evenly spaced noise turns the inverse of the cumulative distribution into counts: n · p to within one draw."""
    prompt, count = [1, 5, 6, 4], 2000
    weights = np.exp(first_token(toy[0], prompt) / temperature)
    p = weights / weights.sum()
    order = np.argsort(-p)
    nucleus = order[: int(np.searchsorted(p[order].cumsum(), top_p)) + 1]
    expected = np.zeros_like(p)
    expected[nucleus] = p[nucleus] / p[nucleus].sum()
    noise = ((np.arange(count) + 0.5) / count)[:, None]
    drawn = sample(toy[0], [prompt] * count, noise, temperature=temperature, top_p=top_p)
    counts = np.bincount([one.tokens[0] for one in drawn], minlength=len(p))
    assert counts == pytest.approx(count * expected, abs=1.01)


def test_low_temperature_is_greedy(toy, prompts, noise):
    responses = sample(toy[0], prompts[:10], noise[:10], temperature=1e-4)
    for prompt, (tokens, _) in zip(prompts, responses, strict=False):
        assert tokens == [int(first_token(toy[0], prompt + tokens[:t]).argmax()) for t in range(len(tokens))]


def test_no_prompts_no_responses(toy):
    assert sample(toy[0], [], np.empty((0, 4))) == []


def test_sampling_moves_no_global_random_state(toy, prompts, noise):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample(toy[0], prompts, noise)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


# --- the same tokens as one pass over the whole text for every token


def by_hand(policy, prompt: list[int], uniforms: np.ndarray, temperature: float = 1, top_p: float = 1) -> list[int]:
    """A response without cache, batch or padding: its tokens, by numpy."""
    tokens: list[int] = []
    for uniform in uniforms:
        p = first_token(policy, prompt + tokens) / temperature
        p = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
        order = np.argsort(-p, kind="stable")
        p[order[int(np.searchsorted(p[order].cumsum(), top_p)) + 1 :]] = 0
        tokens.append(int(np.searchsorted(p.cumsum(), uniform * p.sum(), side="right")))
        if tokens[-1] in policy.texts.ends:
            break
    return tokens


@pytest.mark.parametrize(("temperature", "top_p"), [(1, 1), (0.7, 1), (1, 0.8), (1.5, 0.9)])
def test_tokens_are_those_of_a_loop(toy, prompts, temperature, top_p):
    noise = np.random.default_rng(3).random((60, 24))
    drawn = sample(toy[0], prompts, noise, temperature=temperature, top_p=top_p)
    expected = [by_hand(toy[0], *row, temperature, top_p) for row in zip(prompts, noise, strict=True)]
    assert [one.tokens for one in drawn] == expected
    assert top_p < 1 or len({len(tokens) for tokens in expected}) > 4


@pytest.mark.parametrize("model", ["llama", "qwen", "neox", "phi3", "windows", "lora", "base of lora"])
def test_tokens_are_those_of_a_loop_in_every_family(tmp_path, model):
    """Grouped heads, partial rotation, windows of eight tokens, adapters that count and adapters that do not."""
    policy = opened(model, tmp_path)
    rng = np.random.default_rng(4)
    prompts = [rng.integers(8, 120, size=n).tolist() for n in rng.integers(3, 12, size=40)]
    noise = rng.random((40, 20))
    ends = tuple(range(0, 120, 12))  # of random weights nearly none would end
    policy = dataclasses.replace(policy, texts=dataclasses.replace(policy.texts, ends=ends))
    drawn = sample(policy, prompts, noise)
    expected = [by_hand(policy, *row) for row in zip(prompts, noise, strict=True)]
    assert len({len(tokens) for tokens in expected}) > 8
    assert np.mean([one.tokens == other for one, other in zip(drawn, expected, strict=True)]) >= 0.99


def opened(model: str, folder):
    """A tiny model of a family, or one with adapters that have been moved."""
    family = {"windows": "phi3", "lora": "qwen", "base of lora": "qwen"}.get(model, model)
    make_model(family, folder, **({"sliding_window": 8} if model == "windows" else {}))
    form = "transcript" if family == "neox" else "chat"
    lora = LoraSettings(rank=4 if "lora" in model else 0)
    settings = HubModel(name=str(folder), dtype="float32", prompt_format=form, pad_token=PADS[family], lora=lora)
    policy = load_policy(settings, folder)
    generator = torch.Generator().manual_seed(0)
    for weight in trained(policy).values() if lora.rank else ():
        weight.data += torch.randn(weight.shape, generator=generator) / 10
    return policy.without_adapter() if model == "base of lora" else policy


@pytest.mark.parametrize("batch_size", [7, 256])
def test_prompts_that_are_padded_get_what_prompts_of_one_length_get(toy, noise, batch_size):
    prompts = [[1, 5, 6, 4]] * 20 + [[1, 6, 5, 5, 4]] * 20 + [[1, 4]] * 20
    alone = [one for k in (0, 20, 40) for one in sample(toy[0], prompts[k : k + 20], noise[k : k + 20])]
    assert sample(toy[0], prompts, noise, batch_size=batch_size) == alone


# --- a prompt is read once, and who ended leaves


def rows_seen(policy, monkeypatch) -> list[int]:
    """How many rows the model is given in each call from now on."""
    seen: list[int] = []
    forward = policy.model.forward

    def counted(input_ids, **inputs):
        seen.append(len(input_ids))
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(policy.model, "forward", counted)
    return seen


def test_a_prompt_that_is_asked_often_is_read_once(toy, prompts, monkeypatch):
    noise = np.random.default_rng(6).random((180, 8))
    repeated = [prompt for prompt in [*prompts[:59], [1, 6, 5, 6, 4]] for _ in range(3)]
    expected = [sample(toy[0], [prompt], row[None])[0] for prompt, row in zip(repeated, noise, strict=True)]
    seen = rows_seen(toy[0], monkeypatch)
    assert sample(toy[0], repeated, noise) == expected
    assert seen[:2] == [len(set(map(tuple, repeated))), 180]


def test_responses_that_ended_leave_the_batch(toy, prompts, monkeypatch):
    noise = np.random.default_rng(3).random((60, 90))
    lengths = np.array([len(one.tokens) for one in sample(toy[0], prompts, noise)])
    seen = rows_seen(toy[0], monkeypatch)
    sample(toy[0], prompts, noise)
    going = [int((lengths > step).sum()) for step in range(max(lengths))]
    assert len(seen) == len(going)
    assert all(rows >= left > (1 - OVER) * rows for rows, left in zip(seen[1:], going[1:], strict=True))
    assert seen[-1] < 60 / 3


def test_a_batch_in_which_nothing_ends_stays_whole(toy, prompts, noise, monkeypatch):
    endless = dataclasses.replace(toy[0], texts=dataclasses.replace(toy[0].texts, ends=()))
    seen = rows_seen(toy[0], monkeypatch)
    drawn = sample(endless, prompts, noise)
    assert {(len(one.tokens), one.truncated) for one in drawn} == {(6, True)}
    assert seen[1:] == [60] * 5


def test_a_policy_without_probabilities_is_not_finite(toy, prompts, noise, monkeypatch):
    forward = toy[0].model.forward

    def lost(**inputs):
        out = forward(**inputs)
        out.logits[3] = float("nan")
        return out

    monkeypatch.setattr(toy[0].model, "forward", lost)
    with pytest.raises(NotFinite, match="probability of the next token"):
        sample(toy[0], prompts, noise)


# --- a stack of policies


class Stack(torch.nn.Module):
    """Policies whose rows stand one policy's after the other's: what fused trials sample from."""

    def __init__(self, models):
        super().__init__()
        self.models = torch.nn.ModuleList(models)
        self.seen: list[int] = []

    def get_output_embeddings(self):
        return torch.nn.Identity()

    def forward(self, past_key_values=None, use_cache=True, **inputs):
        self.seen.append(len(inputs["input_ids"]))
        parts = [
            {name: None if value is None else value.chunk(len(self.models))[k] for name, value in inputs.items()}
            for k in range(len(self.models))
        ]
        caches = past_key_values.caches if past_key_values else [None] * len(self.models)
        outs = [
            model(**part, past_key_values=cache, use_cache=True)
            for model, part, cache in zip(self.models, parts, caches, strict=True)
        ]
        logits = torch.cat([out.logits for out in outs])
        return SimpleNamespace(logits=logits, past_key_values=Caches([out.past_key_values for out in outs]))


class Caches:
    def __init__(self, caches):
        self.caches = caches

    def reorder_cache(self, rows):
        rows_before = [cache.layers[0].keys.shape[0] for cache in self.caches]
        for k, (cache, own) in enumerate(zip(self.caches, rows.chunk(len(self.caches)), strict=True)):
            cache.reorder_cache(own - sum(rows_before[:k]))


@pytest.mark.parametrize("batch_size", [1, 14, 256])
def test_a_stack_of_policies_draws_what_each_draws(toy, prompts, batch_size):
    noise = np.random.default_rng(5).random((120, 90))
    stack = dataclasses.replace(toy[0], model=Stack([policy.model for policy in toy]))
    drawn = sample(stack, prompts, noise, batch_size=batch_size, groups=2)
    assert drawn == [*sample(toy[0], prompts, noise[:60]), *sample(toy[1], prompts, noise[60:])]
    assert all(rows % 2 == 0 for rows in stack.model.seen)
    assert len(set(stack.model.seen)) > 2 or batch_size == 1
