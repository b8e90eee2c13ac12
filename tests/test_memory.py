"""What is estimated against what torch, transformers and peft count; and sentences whose ways out lead out."""

import contextlib
import dataclasses
import inspect
import json
import re
import subprocess
import sys
import weakref
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Qwen2Config,
)

from posweep import capacity, memory, size
from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import Mismatched, ReferenceLogps
from posweep.config import configure
from posweep.objectives import OBJECTIVES
from posweep.policy import divergence, sample, score
from posweep.policy.base import Policy
from posweep.policy.batch import Batch
from posweep.policy.gradient import Alone, accumulate
from posweep.policy.scratch import new_policy
from posweep.settings import (
    BradleyTerrySettings,
    HubModel,
    LoraSettings,
    ModelSize,
    PairwiseModelSettings,
    RewardModelSettings,
    ScratchModel,
)
from posweep.trial import measure
from posweep.trial.loss import PairLoss

KNOWN = ModelSize(494032768, 24, 896, 128, 151936, 32768)


def demo(*overrides: str):
    return configure(["sweep=demo", *overrides])


def gpu(gigabytes: float, *overrides: str):
    asked = ("executor.trial_resources.gpu=1", f"executor.trial_resources.gpu_memory={gigabytes}")
    return demo("model=qwen_05b", *asked, *overrides)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def llama(**about) -> LlamaConfig:
    usual = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 168, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaConfig(**{**usual, **heads, **about})


@pytest.fixture
def saved(tmp_path):
    """A small Llama in a folder."""
    model = LlamaForCausalLM(llama())
    model.save_pretrained(tmp_path)
    return model, HubModel(name=str(tmp_path))


# --- how large a model is


@pytest.mark.parametrize(
    "settings", [ScratchModel(), ScratchModel(hidden_size=32, layers=1, heads=2, vocabulary_size=64)]
)
def test_a_model_from_scratch_is_counted_exactly(settings):
    class Tokenizer(namedtuple("Tokens", "pad_token_id bos_token_id eos_token_id", defaults=(0, 1, 2))):
        def __len__(self):
            return settings.vocabulary_size

    found = size.size_of(settings)
    assert found.parameters == parameters(new_policy(settings, Tokenizer()).model)
    assert (found.vocabulary, found.context) == (settings.vocabulary_size, settings.context)
    assert size.shape_of(settings).feed_forward == pytest.approx(8 * round(settings.hidden_size / 3))


def test_a_model_in_a_folder_is_read_from_its_files(saved):
    """4 heads of 16 share 2 keys and values: 32 wide."""
    model, settings = saved
    assert size.size_of(settings) == ModelSize(parameters(model), 2, 64, 32, 300, 2048)
    assert size.shape_of(settings).feed_forward == pytest.approx(168)
    assert size.size_of(replace(settings, size=KNOWN)) == KNOWN
    assert size.size_of(replace(settings, size=ModelSize(layers=7))).layers == 7


@pytest.mark.parametrize(
    ("metadata", "count"),
    [({"total_parameters": 77, "total_size": 1}, 77), ({"total_size": 400}, 200), ({}, None), (None, None)],
)
def test_sharded_weights_are_counted_by_their_index(tmp_path, metadata, count):
    """400 bytes of bfloat16 are 200 numbers."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata, "weight_map": {}}))
    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    assert size.stored_parameters(HubModel(name=str(tmp_path))) == count


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 9, b"\x05\0\0\0\0\0\0\0{..."])
def test_a_broken_file_of_weights_says_nothing(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert size.stored_parameters(HubModel(name=str(tmp_path))) is None


FAMILIES = {
    "llama": llama(hidden_size=512, intermediate_size=1376, num_hidden_layers=4, vocab_size=32000, head_dim=128),
    "qwen": Qwen2Config(
        vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        intermediate_size=4864, tie_word_embeddings=True,
    ),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    ),
    "phi3": Phi3Config(
        vocab_size=32064, hidden_size=640, num_hidden_layers=4, num_attention_heads=10, num_key_value_heads=5,
        intermediate_size=2240, pad_token_id=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_without_weights_the_configuration_file_tells_nearly_all(tmp_path, name):
    config = FAMILIES[name]
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = size.size_of(HubModel(name=str(tmp_path)))
    assert found.parameters == pytest.approx(parameters(model), rel=2e-3)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert found.key_value_size == head * getattr(config, "num_key_value_heads", config.num_attention_heads)


LADDER = {  # heads, key-value heads, width of a head, width of the feed-forward part, whether embeddings are shared
    "qwen_05b": (14, 2, 64, 4864, True),
    "llama_1b": (32, 8, 64, 8192, True),
    "qwen_3b": (16, 2, 128, 11008, True),
    "qwen_7b": (28, 4, 128, 18944, False),
    "llama_8b": (32, 8, 128, 14336, False),
    "phi3_medium": (40, 10, 128, 17920, False),
}


@pytest.mark.parametrize("name", LADDER)
def test_the_sizes_of_the_ladder_fit_together(name):
    heads, shared, head, wide, tied = LADDER[name]
    found = demo(f"model={name}").model
    h, v, layers = int(found.size.hidden_size), int(found.size.vocabulary), int(found.size.layers)
    matrices = 2 * h * head * (heads + shared) + 3 * h * wide
    assert found.size.parameters == pytest.approx((1 if tied else 2) * v * h + layers * matrices, rel=5e-4)
    assert found.size.key_value_size == shared * head
    assert (found.lora.rank, found.gradient_checkpointing) == (
        (16, True) if found.size.parameters > 3e9 else (0, False)
    )


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj"), ("down_proj",)])
def test_adapters_are_counted_as_peft_counts_them(saved, targets):
    from peft import LoraConfig, get_peft_model

    model, settings = saved
    asked = "all-linear" if targets == ("all-linear",) else list(targets)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=asked, task_type="CAUSAL_LM"))
    counted = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert size.adapter_parameters(size.shape_of(settings), LoraSettings(rank=4, targets=targets)) == counted


def test_what_is_not_told_apart_is_rather_too_much(tmp_path):
    """Embeddings that are not shared are taken for blocks; names that are not Llama's for all linear layers."""
    LlamaForCausalLM(llama(tie_word_embeddings=False)).save_pretrained(tmp_path)
    shape = size.shape_of(HubModel(name=str(tmp_path)))
    assert shape.feed_forward == pytest.approx(168 + 300 / 6)  # V / 3 L
    fused = size.adapter_parameters(shape, LoraSettings(rank=4, targets=("query_key_value",)))
    assert fused == size.adapter_parameters(shape, LoraSettings(rank=4))


# --- what a trial takes, measured


class Live(TorchDispatchMode):
    """Bytes of tensors made inside that live at the same time, at their most; `own` storages do not count."""

    def __init__(self, own=()):
        super().__init__()
        self.own, self.sizes, self.now, self.peak = {x.untyped_storage()._cdata for x in own}, {}, 0, 0
        self.casts = {x.numel() * 2 for x in own}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage):
        key = storage._cdata
        if key in self.own or key in self.sizes or storage.nbytes() in self.casts:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, key)

    def drop(self, key):
        self.now -= self.sizes.pop(key)


KINDS = {
    "float32": (HubModel(dtype="float32"), torch.float32),
    "autocast": (HubModel(), torch.float32),
    "adapters": (HubModel(lora=LoraSettings(rank=4)), torch.bfloat16),
}
TOKENS = 3 * 101


def block(settings, dtype, layers, wide=688):
    """A Llama of so many blocks, 256 wide, and one pass through it."""
    config = llama(
        hidden_size=256, intermediate_size=wide, num_hidden_layers=layers, num_key_value_heads=4, vocab_size=64,
        attn_implementation=settings.attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    half = settings.dtype == "bfloat16"

    def forward():
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            return model.model(input_ids=torch.ones(3, 101, dtype=torch.long), use_cache=False).last_hidden_state

    return model, forward, size.Shape(parameters(model), layers, 256, 256, 64)


def saved_bytes(model, forward) -> int:
    """What autograd keeps for the backward pass, besides weights and autocast's copies of them."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    casts = {p.numel() * 2 for p in model.parameters() if p.ndim == 2}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage.nbytes() not in casts:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_block_keeps_is_what_autograd_keeps(kind):
    """Frozen weights in bfloat16 make bfloat16 hidden states, which keep less than is reckoned; never more."""
    settings, dtype = KINDS[kind]
    one, three = (saved_bytes(*block(settings, dtype, layers)[:2]) for layers in (1, 3))
    per_token = (three - one) / 2 / TOKENS
    reckoned = memory.kept(settings, block(settings, dtype, 1)[2], 101)
    assert per_token <= 1.01 * reckoned
    assert per_token == pytest.approx(reckoned, rel=0.2 if kind == "adapters" else 0.01)


def test_eager_attention_keeps_its_matrix():
    """4 heads, so that a head is as wide as is reckoned; float32 does without the 16-bit copy."""
    settings = HubModel(attention="eager")
    one, three = (saved_bytes(*block(settings, torch.float32, layers)[:2]) for layers in (1, 3))
    assert (three - one) / 2 / TOKENS == pytest.approx(
        memory.kept(settings, block(settings, torch.float32, 1)[2], 101), rel=0.02
    )


@pytest.mark.parametrize("wide", [688, 1376])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_block_holds_for_a_moment_is_enough_and_not_far_too_much(kind, wide):
    settings, dtype = KINDS[kind]
    model, forward, shape = block(settings, dtype, 2, wide)
    with torch.no_grad(), Live(list(model.parameters())) as live:
        forward()
    reckoned = memory.passing(settings, shape, 101) * TOKENS
    assert 0.6 * reckoned < live.peak < 1.02 * reckoned


def test_weights_gradients_and_optimizer_of_a_real_step():
    configuration = demo("model.vocabulary_size=300")
    model = LlamaForCausalLM(llama(hidden_size=96, intermediate_size=256, num_key_value_heads=4))
    found = memory.moments_of(configuration, 32, size.shape_of(configuration.model), 0)[0]
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()

    def held(tensors) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    state = [value for moments in optimizer.state.values() for name, value in moments.items() if name != "step"]
    assert (found.weights, found.reference) == (held(model.parameters()), held(model.parameters()))
    assert found.gradients == held(p.grad for p in model.parameters())
    assert found.optimizer == held(state)


def test_bytes_per_logit(monkeypatch):
    """8 with gradient and 4 for collisions, 20 where two distributions are compared at once, beside 8 of the others; 38 and
    the model's own 2 where a token is drawn.
    """
    rows, vocabulary = 50, 1000
    batch = score.TokenBatch(*[torch.zeros(rows, dtype=torch.long)] * 5)
    with Live() as training:
        logits = torch.randn(rows, vocabulary, requires_grad=True)
        score.token_logps(logits, batch.targets).sum().backward()
    assert training.peak == pytest.approx(8 * rows * vocabulary, rel=0.02)
    with Live() as colliding:
        logits = torch.randn(rows, vocabulary, requires_grad=True)
        (score.token_logps(logits, batch.targets) + score.collision_logps(logits, batch.targets)).sum().backward()
    assert colliding.peak == pytest.approx(12 * rows * vocabulary, rel=0.02)
    monkeypatch.setattr(divergence, "response_logits", lambda *_: torch.randn(rows, vocabulary))
    for compared in (10, rows):
        monkeypatch.setitem(divergence.AT_ONCE, "cpu", compared * vocabulary)
        with Live() as comparing:
            divergence._token_kl(None, None, batch)
        assert comparing.peak == pytest.approx((8 * rows + 12 * compared) * vocabulary, rel=0.02)
    for top_p in (1.0, 0.9):
        with Live() as drawing:
            sample._draw(torch.randn(rows, vocabulary), torch.rand(rows), top_p)
        assert drawing.peak < 38 * rows * vocabulary


def test_collisions_are_logsumexp_to_the_bit():
    """Which holds one array more; from distributions that are nearly uniform to nearly sure ones, and one of one word."""
    for scale in (0.01, 1, 30, 1000):
        logits = scale * torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
        logits[0, 1:] = -torch.inf
        expected = (2 * logits.log_softmax(-1)).logsumexp(-1)
        assert torch.equal(score.collision_logps(logits, logits), expected)


class Casts(Live):
    """Counts autocast's copies of weights too."""

    def __init__(self, policy):
        super().__init__(list(policy.model.parameters()))
        self.casts = set()


def wide(kind):
    """A policy that chooses among 2,000 words, whose logits are nearly all it holds."""
    model = LlamaForCausalLM(llama(vocab_size=2000, hidden_size=16, intermediate_size=40, num_hidden_layers=1))
    return Policy(model, SimpleNamespace(pad=0), torch.bfloat16 if kind == "autocast" else None)


def shape_of(policy):
    about = policy.model.config
    h, v = about.hidden_size, about.vocab_size
    return size.Shape(parameters(policy.model), about.num_hidden_layers, h, h // 2, v)


def loss_of(method, policy, count=10):
    """A method on pairs of 8 + 48 tokens, as long as they may be in the demo world."""
    prompts, chosen, rejected, others = ([[7] * length] * count for length in (8, 48, 48, 48))
    zeros = torch.zeros(count)
    reference = ReferenceLogps(zeros, zeros, Mismatched(others, zeros))
    return PairLoss(OBJECTIVES[method](), policy, TokenPairs(prompts, chosen, rejected), reference, "train", 0)


def step(loss, micro):
    """The gradient of a step, and what it took."""
    with Casts(loss.policy) as live:
        accumulate(Batch(np.arange(len(loss.pairs))), [loss], micro, Alone())
    return live.peak


def made_at_once(tokens, policy, monkeypatch):
    """So many response tokens' logits, by what runs and by what is reckoned."""
    for module in (score, memory):
        monkeypatch.setattr(module, "TRAINED_LOGITS", tokens * policy.vocabulary)


@pytest.mark.parametrize("kind", ["float32", "autocast"])
@pytest.mark.parametrize(("method", "each"), [("dpo", 8), ("wpo", 12), ("kto", 8)])
def test_a_step_of_a_method_holds_the_logits_that_are_reckoned(method, each, kind, monkeypatch):
    """10 pairs have 960 response tokens. KTO scores 480 more, at 8 bytes, when 4 of the 8 of each of the 960 are left.

    In parts of 300 tokens collisions are taken where no log-softmax is kept, and so never need their 12.
    """
    policy = wide(kind)
    configuration = replace(demo(f"method=[dpo,{method}]"), model=KINDS[kind][0])
    for tokens in (960, 300):
        made_at_once(tokens, policy, monkeypatch)
        found = memory.moments_of(configuration, 10, shape_of(policy), 0)[0]
        assert found.logits == each * tokens * 2000
        peak = step(loss_of(method, policy), 10)
        assert peak < found.logits + found.gradients + found.activations
        assert tokens == 300 or peak > 0.98 * found.logits


@pytest.mark.parametrize("method", ["dpo", "wpo", "kto"])
def test_held_out_pairs_hold_the_logits_that_are_reckoned(method, monkeypatch):
    """10 pairs have 960 response tokens, of which no more are made at once than where something is trained."""
    policy = wide("float32")
    configuration = demo(f"method=[{method}]", "data.evaluation_prompts=10", "sample.max_new_tokens=1")
    for tokens in (960, 300):
        made_at_once(tokens, policy, monkeypatch)
        found = memory.moments_of(configuration, 10, shape_of(policy), 0)[1]
        with Casts(policy) as live, torch.inference_mode():
            loss_of(method, policy).forward(Batch(np.arange(10)))
        assert found.logits == 8 * tokens * 2000
        assert 0.98 * found.logits < live.peak < found.logits + found.activations


@pytest.mark.parametrize("kind", ["float32", "autocast"])
def test_kl_holds_the_logits_that_are_reckoned(kind, monkeypatch):
    """Of 30 responses of 48 tokens. Where few are compared at once, the last model's logits in 16 bit are what counts."""
    policy = wide(kind)
    configuration = replace(demo("evaluation.prompts=10"), model=KINDS[kind][0])
    for tokens in (1440, 300, 10):
        for module in (divergence, memory):
            monkeypatch.setitem(module.AT_ONCE, "cpu", tokens * 2000)
        found = memory.moments_of(configuration, 1, shape_of(policy), 0)[1]
        with Casts(policy) as live:
            divergence.kl_all(policy, policy, [[7] * 8] * 30, [[7] * 48] * 30)
        least = 2 * 1440 if kind == "autocast" else 0
        assert found.logits == (8 * 1440 + max(12 * tokens, least)) * 2000
        assert 0.98 * found.logits < live.peak < found.logits + found.activations


@pytest.mark.parametrize("checkpointed", [False, True])
def test_mismatched_pairs_take_a_cast_of_their_own(checkpointed):
    """Beside the gradients of the first pair and the cast that the graph holds: all of it, or the head's."""
    model = LlamaForCausalLM(llama(hidden_size=256, intermediate_size=688, num_hidden_layers=4, vocab_size=1000))
    settings, p = HubModel(gradient_checkpointing=checkpointed), parameters(model)
    if checkpointed:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model, SimpleNamespace(pad=0), torch.bfloat16)
    asked = replace(demo("method=[dpo,kto]", "train.micro_batch_size=1"), model=settings)
    found, whole = (memory.moments_of(asked, pairs, shape_of(policy), 0)[0] for pairs in (2, 1))
    assert found.weights == 6 * p + 2 * (1000 * 256 if checkpointed else p)
    assert whole.weights == 6 * p
    held = found.weights - 4 * p + found.gradients
    assert 0.99 * held < step(loss_of("kto", policy, 2), 1) < held + found.activations + found.logits
    without = replace(demo("method=[dpo]", "train.micro_batch_size=1"), model=settings)
    assert memory.moments_of(without, 2, shape_of(policy), 0)[0].weights == 6 * p


def test_what_is_scored_at_once_is_what_the_scorers_take():
    assert memory.LOGITS == score.LOGITS
    assert memory.TRAINED_LOGITS == score.TRAINED_LOGITS
    assert memory.AT_ONCE == divergence.AT_ONCE
    assert memory.HELD_OUT_PAIRS == measure.HELD_OUT_PAIRS
    assert inspect.signature(divergence.kl_all).parameters["batch_size"].default == memory.SCORED


# --- what a trial takes, reckoned


def total(configuration, batch_size: int = 32) -> int:
    return memory.estimate(configuration, batch_size).total


def test_bytes_of_a_known_model_by_hand():
    """P = 494,032,768: weights 4 P and a cast of 2 P, gradients 4 P, Adam 8 P, reference 4 P.

    32 pairs are 64 sequences of 56 tokens, 48 of them responses: 3,072 · 151,936 logits, of which 2²⁶ are held at once.
    """
    p = 494032768
    found = memory.estimate(gpu(80), 32)
    assert (found.weights, found.gradients, found.optimizer, found.reference) == (6 * p, 4 * p, 8 * p, 4 * p)
    assert found.moment == "training"
    assert found.logits == 8 * 2**26
    assert found.overhead == memory.GPU_OVERHEAD
    assert found.total == sum(found.parts.values())
    assert list(found.parts.values()) == sorted(found.parts.values(), reverse=True)


def test_what_is_trained_holds_no_more_logits_than_are_made_at_once():
    """2²⁶ logits are 441 tokens: 4 pairs have 384 response tokens, 5 have 480."""
    logits = [memory.moments_of(gpu(80), pairs, size.shape_of(gpu(80).model), 0)[0].logits for pairs in (2, 4, 5, 64)]
    assert logits == [8 * 192 * 151936, 8 * 384 * 151936, 8 * 2**26, 8 * 2**26]


def test_adapters_leave_the_weights_in_their_own_type_and_need_no_reference():
    found = memory.estimate(gpu(80, "model.lora.rank=16"), 32)
    adapters = size.adapter_parameters(size.shape_of(gpu(80).model), LoraSettings(rank=16))
    assert found.weights == 2 * 494032768 + 6 * adapters
    assert (found.gradients, found.optimizer, found.reference) == (4 * adapters, 8 * adapters, 4 * adapters)
    wide = memory.estimate(gpu(80, "model.lora.rank=16", "model.dtype=float32"), 32)
    assert wide.weights == 4 * 494032768 + 4 * adapters


def test_more_at_once_takes_more():
    totals = [total(gpu(80), pairs) for pairs in (8, 16, 32, 64)]
    assert totals == sorted(set(totals))
    assert total(gpu(80, "train.micro_batch_size=16"), 64) == total(gpu(80), 16)
    assert total(gpu(80, "train.micro_batch_size=64"), 16) == total(gpu(80), 16)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("model.gradient_checkpointing=true", "model.gradient_checkpointing=false"),
        ("model.lora.rank=16", "model.lora.rank=0"),
        ("model.lora.rank=16", "model.lora.rank=64"),
        ("model.attention=sdpa", "model.attention=eager"),
        ("model.dtype=bfloat16", "model.dtype=float32"),
    ],
)
def test_what_saves_memory(less, more):
    lora = () if "lora" in less else ("model.lora.rank=8",)  # a whole model in bfloat16 also has its cast
    assert total(gpu(80, less, *lora)) < total(gpu(80, more, *lora))


def test_the_moment_that_needs_most_counts():
    """Keys and values of 24 blocks, 128 wide, in float32: 24,576 bytes a token; 768 responses of 8 + 80 tokens."""
    few = ("train.micro_batch_size=1", "sample.max_new_tokens=80")
    assert memory.estimate(gpu(80, *few, "sample.batch_size=128"), 32).moment == "scoring"
    assert memory.estimate(gpu(80, *few, "sample.batch_size=1"), 32).moment == "training"
    many = memory.estimate(gpu(80, *few, "sample.batch_size=768"), 32)
    assert (many.moment, many.cache, many.gradients) == ("generating", 768 * 88 * 24576, 0)


def test_no_more_is_drawn_than_there_is():
    """Four responses for each of 2 prompts."""
    drawn = gpu(80, "evaluation.prompts=2")
    found = memory.moments_of(drawn, 1, size.shape_of(drawn.model), 0)[2]
    assert found.cache == 8 * 56 * 24576


@pytest.mark.parametrize(
    ("asked", "compared", "drawn"),
    [
        (("evaluation.baseline_responses=1",), 6, 6),  # 2 prompts of 3 sets
        (("evaluation.baseline_responses=1", "evaluation.sets=[iid,ood]"), 4, 4),
        (("evaluation.baseline_responses=4",), 6, 8),  # the SFT model's, of one set
        (("evaluation.baseline_responses=4", "sample.batch_size=5"), 5, 5),
        (("evaluation.prompts=60", "sample.batch_size=150"), 128, 150),  # of 180; KL takes 128 at once
    ],
)
def test_prompts_of_all_sets_are_drawn_and_compared_together(asked, compared, drawn):
    """8 + 48 tokens of 24,576 bytes each; of 1,000 words, so that their logits are few: 20 bytes for KL, 40 for drawing."""
    configuration = gpu(80, "evaluation.prompts=2", "model.size.vocabulary=1000", *asked)
    _, scoring, generating = memory.moments_of(configuration, 1, size.shape_of(configuration.model), 0)
    assert scoring.logits == 20 * compared * 48 * 1000
    assert (generating.cache, generating.logits) == (drawn * 56 * 24576, 40 * drawn * 1000)


def test_a_gpu_compares_more_at_once():
    """128 responses of 48 tokens over 4,096 words."""
    logits = 128 * 48 * 4096
    for gpus, at_once in ((0, 2**18), (1, 2**24)):
        asked = demo(f"executor.trial_resources.gpu={gpus}")
        assert memory.moments_of(asked, 1, size.shape_of(asked.model), 0)[1].logits == 8 * logits + 12 * at_once


def test_judges_that_are_models_take_part(saved):
    model, settings = saved
    count = parameters(model)
    judges = {
        "reward_model": RewardModelSettings(parameters=2e9),
        "pairwise_model": PairwiseModelSettings(name=settings.name, dtype="float32"),
        "bradley_terry": BradleyTerrySettings(),
    }
    found = memory.estimate(replace(gpu(80), judges=judges), 32)
    assert found.judges == 2 * 2e9 + 4 * count + 4 * 494032768
    assert memory.estimate(gpu(80), 32).judges == 0


# --- whether it fits


FLOAT32 = ("model.lora.rank=8", "model.dtype=float32")
MANY = ("train.micro_batch_size=1", "sample.batch_size=768", "sample.max_new_tokens=250")
# scoring takes 12.6 GB, and training of 32 pairs 18.5, of 16 15.5, of 8 13.9
NARROW = {
    "one of several": ((17,), "train.micro_batch_size=16, model.gradient_checkpointing=true or model.lora.rank=16"),
    "smaller parts": ((15,), "train.micro_batch_size=8, model.gradient_checkpointing=true or model.lora.rank=16"),
    "only adapters": ((12,), "model.lora.rank=16"),
    "two together": ((8,), "model.lora.rank=16 and train.micro_batch_size=16"),
    "generation": ((16, *MANY), "model.lora.rank=16 or sample.batch_size=384"),
    "16 bit": ((12, *FLOAT32), "train.micro_batch_size=16, model.gradient_checkpointing=true or model.dtype=bfloat16"),
}


@pytest.mark.parametrize(("asked", "ways"), NARROW.values(), ids=NARROW)
def test_every_way_out_leads_out(asked, ways):
    """Of settings joined by `or` each is enough, and the mildest value of it; of those joined by `and` all are needed."""
    (sentence,) = capacity.problems(gpu(*asked), 32)
    assert f"; set {ways}, or take a larger GPU." in sentence
    overrides = re.split(r", | or | and ", ways)
    for way in [overrides] if " and " in ways else [[one] for one in overrides]:
        assert capacity.problems(gpu(*asked, *way), 32) == []
        assert " and " not in ways or all(capacity.problems(gpu(*asked, one), 32) for one in way)


def test_a_trial_that_cannot_fit_is_one_sentence():
    assert capacity.problems(gpu(24), 32) == []
    (sentence,) = capacity.problems(gpu(12), 32)
    assert sentence == (
        "executor.trial_resources.gpu: a trial needs 18.5 GB while training (activations 6.1, optimizer 4.0, weights 3.0, "
        "gradients 2.0, reference 2.0, overhead 1.0, logits 0.5), and has 12.0 GB; set model.lora.rank=16, or take a "
        "larger GPU."
    )


def test_a_share_of_a_gpu_has_its_share_of_the_memory():
    half = gpu(36, "executor.trial_resources.gpu=0.5")
    (sentence,) = capacity.problems(half, 32)
    assert ", and has 18.0 GB (0.5 of a GPU); set " in sentence
    assert sentence.endswith(", or ask for more of a GPU.")
    assert capacity.problems(gpu(24, "executor.trial_resources.gpu=2"), 32) == []
    assert capacity.problems(gpu(18, "executor.trial_resources.gpu=2"), 32) != []  # a trial computes on one


def test_where_nothing_helps_only_a_larger_gpu_is_named():
    (sentence,) = capacity.problems(gpu(1.5), 32)
    assert re.search(r"\), and has 1\.5 GB; take a larger GPU\.$", sentence)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 4 GB with eight cores."""
    monkeypatch.setattr(capacity, "memory_here", lambda: 4e9)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


def test_without_a_gpu_the_machine_must_hold_all_trials_at_once(machine):
    (sentence,) = capacity.problems(demo(), 32)
    assert sentence.startswith("executor.workers: 8 trials at a time need 6.0 GB, each 0.8 GB while scoring (")
    assert ", and this machine has 4.0 GB; set executor.workers=5, or " in sentence
    assert capacity.problems(demo("executor.workers=5"), 32) == []
    assert capacity.problems(demo(), 32, trials=5) == []
    assert capacity.problems(demo("executor=local"), 32) == []
    assert capacity.problems(demo("executor.address=auto"), 32) == []
    (alone,) = capacity.problems(demo("model=qwen_05b", "executor=local"), 32)
    assert alone.startswith("model: a trial needs 18.0 GB while training (")


def test_what_is_not_known_is_no_problem_and_says_what_to_set(tmp_path):
    nameless = replace(
        gpu(1), model=HubModel(name=str(tmp_path)), judges={"rm": RewardModelSettings(name=str(tmp_path))}
    )
    assert memory.estimate(nameless, 32) is None
    assert capacity.problems(nameless, 32) == []
    assert capacity.summary(nameless, 32) == (
        "unknown (not on this machine; set model.size.parameters, model.size.layers, model.size.hidden_size, "
        "model.size.key_value_size, model.size.vocabulary, judge.rm.parameters)"
    )
    known = replace(gpu(1), judges=nameless.judges)
    assert capacity.summary(known, 32) == "unknown (not on this machine; set judge.rm.parameters)"


def test_the_summary_is_a_line(machine):
    assert capacity.summary(gpu(24), 2) == (
        "12.6 GB while scoring (optimizer 4.0, weights 3.0, logits 2.6, reference 2.0, overhead 1.0, activations 0.1) "
        "of 24.0 GB"
    )
    assert capacity.summary(demo("executor.address=auto"), 2).endswith("overhead 0.5, logits 0.2)")
    assert capacity.summary(demo("executor.workers=2"), 2).endswith(" of 2.0 GB")


def test_the_method_that_asks_for_the_least_says_what_fits():
    own = "+executor.method_resources.dpo={gpu: 0.25, gpu_memory: 40}"
    (sentence,) = capacity.problems(gpu(40, own, "method=[dpo,kto]"), 32)
    assert sentence.startswith("executor.method_resources.dpo.gpu: a trial needs ")
    assert ", and has 10.0 GB (0.25 of a GPU); " in sentence


def test_methods_that_ask_for_less_run_more_trials_at_the_same_time(monkeypatch):
    monkeypatch.setattr(capacity.os, "cpu_count", lambda: 8)
    asked = ("executor.trial_resources.cpu=4", "method=[dpo,kto]")
    assert capacity.trials_at_once(demo(*asked)) == 2
    assert capacity.trials_at_once(demo(*asked, "+executor.method_resources.kto.cpu=2")) == 4
    assert capacity.trials_at_once(demo(*asked, "+executor.method_resources.ipo.cpu=1")) == 2  # not in this sweep


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A machine with two GPUs, 24,576 and 16,384 MiB large."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\necho 16384\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tool


def test_the_gpus_of_this_machine_are_asked_where_nobody_says(nvidia):
    asked = demo("model=qwen_05b", "executor.trial_resources.gpu=1")
    assert capacity.memory_of_gpus() == [24 * 2**30, 16 * 2**30]
    assert ", and has 17.2 GB;" in capacity.problems(asked, 32)[0]
    assert capacity.problems(dataclasses.replace(asked, executor=replace(asked.executor, address="auto")), 32) == []
    assert capacity.trials_at_once(asked) == min(2, capacity.os.cpu_count())
    nvidia.write_text("#!/bin/sh\nexit 9\n")
    assert capacity.memory_of_gpus() == []
    nvidia.unlink()
    assert capacity.memory_of_gpus() == []
    assert capacity.problems(asked, 32) == []


# --- how many fit


def test_what_fits_on_a_gpu_is_proposed_with_a_tenth_left_free():
    """18.5 GB each: three fit into 72 of 80 GB, one into 36 of 40."""
    assert capacity.sharing(gpu(80), 32, 12) == (
        "a trial needs 18.5 of 80.0 GB: 3 fit on a GPU; executor.trial_resources.gpu=0.3333"
    )
    assert capacity.problems(gpu(80, "executor.trial_resources.gpu=0.3333"), 32) == []
    assert capacity.sharing(gpu(40), 32, 12) == ""
    assert capacity.sharing(gpu(80), 32, 2).endswith("2 fit on a GPU; executor.trial_resources.gpu=0.5")
    assert capacity.sharing(gpu(80), 32, 1) == ""


def test_what_a_probe_measured_counts_more_than_what_is_reckoned():
    """8.0 GB of tensors and 1.0 of the process: eight fit into 72."""
    assert capacity.sharing(gpu(80), 32, 12, 8_000_000_000) == (
        "a trial needs 9.0 of 80.0 GB (measured): 8 fit on a GPU; executor.trial_resources.gpu=0.125"
    )


@pytest.mark.parametrize("share", [0, 0.5])
def test_nothing_is_proposed_where_no_whole_gpu_is_asked_for(share):
    assert capacity.sharing(gpu(80, f"executor.trial_resources.gpu={share}"), 32, 12) == ""


def test_trials_on_one_gpu_of_this_machine_need_cores_too(nvidia, monkeypatch):
    """Two GPUs of 17.2 and more GB; 15.5 hold fifteen trials, and each has a half of the cores."""
    monkeypatch.setattr(capacity.os, "cpu_count", lambda: 8)
    asked = ("executor.trial_resources.gpu=1", "executor.trial_resources.cpu=2")
    assert capacity.sharing(demo(*asked), 32, 99).endswith("2 fit on a GPU; executor.trial_resources.gpu=0.5")
    assert capacity.sharing(demo(*asked, "executor.address=auto"), 32, 99) == ""
    elsewhere = demo(*asked, "executor.trial_resources.gpu_memory=17", "executor.address=auto")
    assert "fit on a GPU" in capacity.sharing(elsewhere, 32, 99)


def test_fused_trials_share_what_does_not_train():
    """K trials and what is there once fill no more than nine tenths, and K + 1 trials would, at the largest moment.

    Whole models: reference and overhead are 3.0 of 72 GB, and each trial has 15.6 more: four fit, for 65.2 GB.
    """
    whole, adapters = gpu(80), gpu(80, "model.lora.rank=16", "sample.batch_size=32", "train.micro_batch_size=4")
    for configuration in (whole, adapters):
        shape, lora = size.shape_of(configuration.model), configuration.model.lora.rank
        frozen = 2 * shape.parameters if lora else 0
        moments = memory.moments_of(configuration, 32, shape, 0)
        fit = capacity.fused_fit(configuration, 32)

        def bytes_of(trials, frozen=frozen, moments=moments):
            once = [frozen + m.reference + m.overhead for m in moments]
            return max(o + trials * (m.total - o) for o, m in zip(once, moments, strict=True))

        assert bytes_of(fit) <= 72e9 < bytes_of(fit + 1)
    assert capacity.fused_fit(whole, 32) == 4
    assert capacity.fused_fit(adapters, 32) > 3


def test_what_is_not_known_is_not_fused(tmp_path):
    assert capacity.fused_fit(replace(gpu(80), model=HubModel(name=str(tmp_path))), 32) == 1
    assert capacity.fused_fit(gpu(2), 32) == 1
    assert capacity.fused_fit(demo("executor.address=auto"), 32) == 1


def test_more_in_one_pass_than_the_machine_holds_is_one_sentence(monkeypatch):
    monkeypatch.setattr(capacity, "memory_here", lambda: 4e9)
    fit = capacity.fused_fit(demo("executor.workers=1"), 32)
    assert capacity.problems(demo("executor.workers=1", f"executor.fused={fit}"), 32) == []
    assert capacity.problems(demo("executor.workers=1", f"executor.fused={fit + 1}"), 32) == [
        f"executor.fused: {fit + 1} trials in one pass do not fit into the 4.0 GB of this machine; set executor.fused={fit}."
    ]
    assert capacity.problems(demo("executor.workers=1", "executor.fused=null"), 32) == []
    assert capacity.problems(demo("executor.fused=99", "executor.address=auto"), 32) == []


def test_planning_takes_no_torch():
    code = "import sys, posweep.memory, posweep.capacity; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
