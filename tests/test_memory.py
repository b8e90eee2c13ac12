"""What a trial is reckoned to take, against what torch and transformers are seen to take."""

import contextlib
import inspect
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    LlamaForCausalLM,
)

from posweep import memory, size
from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import Mismatched, ReferenceLogps
from posweep.objectives import OBJECTIVES
from posweep.policy import divergence, sample, score
from posweep.policy.base import Policy
from posweep.policy.batch import Batch
from posweep.policy.gradient import Alone, accumulate
from posweep.settings import (
    BradleyTerrySettings,
    HubModel,
    LoraSettings,
    PairwiseModelSettings,
    RewardModelSettings,
)
from posweep.trial import measure
from posweep.trial.loss import PairLoss

from .sizes import demo, gpu, llama, parameters


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
