import copy
import dataclasses

import numpy as np
import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, GPTNeoConfig, HunYuanDenseV1Config

from posweep.errors import Diverged, Stopped
from posweep.policy.base import Policy
from posweep.policy.batch import Batch, Losses, PerItem, batches
from posweep.policy.checkpoint import CheckpointFile, Checkpoints
from posweep.policy.load import trained
from posweep.policy.packed import packs
from posweep.policy.pretrained import open_pretrained
from posweep.policy.reproducible import seeded
from posweep.policy.sample import sample
from posweep.policy.score import TRAINED_LOGITS, collate, lay_out, response_values, sequence_logps, token_logps
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.policy.stack import Stack, obstacle
from posweep.policy.stacked import StackedLinear
from posweep.policy.train import Training, optimise_all
from posweep.settings import HubModel, LoraSettings, ScratchModel, TrainSettings

from ..rounding import assert_near, near, rounding
from .families import FAMILIES, PADS, make_model

COUNT = 3
PROMPTS = [[1, 4, 5], [1, 5], [1, 6, 4, 5], [1, 4]]
RESPONSES = [[5, 2], [4, 4, 5, 2], [6, 2], [5, 5, 2]]
SETTINGS = TrainSettings(learning_rate=1e-2, warmup_ratio=0.0)


def scratch():
    """A Llama of two layers whose embedding is its output layer, too."""
    tokenizer = make_tokenizer(ScratchModel(), ["a b c d e"])
    policy = new_policy(ScratchModel(hidden_size=16, layers=2, heads=2, seed=3), tokenizer)
    policy.model.model.embed_tokens.weight.data.mul_(10)
    return policy


def family(name: str, folder, rank: int = 0):
    settings = HubModel(
        name=name, dtype="float32", pad_token=PADS[name], prompt_format="text", lora=LoraSettings(rank=rank, alpha=8)
    )
    return open_pretrained(settings, make_model(name, folder / name), "cpu")


@pytest.fixture(params=["scratch", *FAMILIES, *(f"{name} adapters" for name in FAMILIES)])
def policy(request, tmp_path):
    if request.param == "scratch":
        return scratch()
    name, _, adapters = request.param.partition(" ")
    return family(name, tmp_path, 4 if adapters else 0)


def moved(stack: Stack) -> Stack:
    """Every policy of a stack a step away from where it began, each elsewhere."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in stack.weights:
            for weight in weights.values():
                weight.add_(0.05 * weight.abs().mean() + 0.02 * torch.randn(weight.shape, generator=generator))
    return stack


def alone(policy, stack: Stack, place: int):
    """The policy with the weights of one of a stack."""
    with torch.no_grad():
        for name, weight in trained(policy).items():
            weight.copy_(stack.weights[place][name])
    return policy


def loss_of(policy) -> PerItem:
    """Negative log-likelihood of responses."""

    def loss(items):
        batch = lay_out(policy, [PROMPTS[i] for i in items], [RESPONSES[i] for i in items])
        return Losses(-sequence_logps(policy, batch), {})

    return PerItem(loss)


# --- one pass


def test_weights_have_the_names_and_the_order_they_have_alone(policy):
    stack = Stack.of(policy, COUNT)
    for weights in stack.weights:
        assert [(name, value.shape) for name, value in weights.items()] == [
            (name, value.shape) for name, value in trained(policy).items()
        ]
        assert all(torch.equal(value, trained(policy)[name]) for name, value in weights.items())


def test_a_pass_gives_each_policy_its_own_numbers_and_gradients(policy):
    stack = moved(Stack.of(policy, COUNT))
    items = np.arange(len(PROMPTS))
    with stack.together():
        losses = [loss_of(member).function(items).losses for member in stack.members()]
    sum(each.sum() for each in losses).backward()
    stack.share_gradients()
    for place in range(COUNT):
        one = alone(policy, stack, place)
        one.model.zero_grad()
        expected = loss_of(one).function(items).losses
        expected.sum().backward()
        assert_near(losses[place], expected)
        for name, weight in trained(one).items():
            found = stack.weights[place][name].grad
            assert_near(found, weight.grad)


def test_what_is_frozen_is_there_once(tmp_path):
    policy = family("llama", tmp_path, rank=4)
    stack = Stack.of(policy, COUNT)
    frozen = {weight.data_ptr() for weight in policy.model.parameters() if not weight.requires_grad}
    assert {w.data_ptr() for w in stack.policy.model.parameters() if not w.requires_grad} == frozen
    own = sum(weight.numel() for weight in stack.policy.model.parameters() if weight.requires_grad)
    assert own == COUNT * sum(weight.numel() for weight in trained(policy).values())


def test_tied_weights_stay_tied():
    stack = Stack.of(scratch(), COUNT)
    model = stack.policy.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_policy_that_was_stacked_stays_as_it_was():
    policy = scratch()
    before = {name: value.clone() for name, value in trained(policy).items()}
    moved(Stack.of(policy, COUNT))
    assert all(torch.equal(value, before[name]) for name, value in trained(policy).items())
    assert type(policy.model.lm_head) is torch.nn.Linear


def test_logits_part_by_part_are_each_policy_s_own(monkeypatch):
    policy = scratch()
    stack = moved(Stack.of(policy, COUNT))
    items = np.arange(len(PROMPTS))
    monkeypatch.setattr("posweep.policy.score.TRAINED_LOGITS", 2 * policy.vocabulary)
    assert 2 * policy.vocabulary < TRAINED_LOGITS
    with stack.together():
        found = [loss_of(member).function(items).losses for member in stack.members()]
        sum(each.sum() for each in found).backward()
    stack.share_gradients()
    monkeypatch.undo()
    for place in range(COUNT):
        one = alone(policy, stack, place)
        one.model.zero_grad()
        expected = loss_of(one).function(items).losses
        expected.sum().backward()
        assert_near(found[place], expected)
        for name, weight in trained(one).items():
            assert_near(stack.weights[place][name].grad, weight.grad)


def test_one_pass_is_made_for_all(monkeypatch):
    stack, passes = Stack.of(scratch(), COUNT), []
    run = type(stack.policy).run

    def counted(self, *given, **named):
        passes.append(1)
        return run(self, *given, **named)

    monkeypatch.setattr(type(stack.policy), "run", counted)
    batch = lay_out(stack.policy, PROMPTS, RESPONSES)
    with stack.together():
        for member in stack.members():
            response_values(member, batch, token_logps)
    assert passes == [1]


def test_responses_are_those_of_each_policy(policy):
    stack = moved(Stack.of(policy, COUNT))
    noise = np.random.default_rng(0).random((len(PROMPTS), 6))
    found = sample(stack.policy, PROMPTS, np.tile(noise, (COUNT, 1)), groups=COUNT)
    expected = [one for place in range(COUNT) for one in sample(alone(policy, stack, place), PROMPTS, noise)]
    assert found == expected


def test_the_vocabulary_of_a_stack_is_that_of_each(policy):
    assert Stack.of(policy, COUNT).policy.vocabulary == policy.vocabulary


def test_adapters_beside_the_output_layer_are_each_policy_s_own(tmp_path, monkeypatch):
    policy = family("llama", tmp_path)
    model = peft.get_peft_model(policy.model, peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    policy = dataclasses.replace(policy, model=model)
    stack = moved(Stack.of(policy, COUNT))
    items = np.arange(len(PROMPTS))
    monkeypatch.setattr("posweep.policy.score.TRAINED_LOGITS", 2 * policy.vocabulary)
    with torch.no_grad(), stack.together():
        found = [loss_of(member).function(items).losses for member in stack.members()]
        for place in range(COUNT):
            expected = loss_of(alone(policy, stack, place)).function(items).losses
            assert_near(found[place], expected)


class Seen(TorchDispatchMode):
    """Every operation by name, with the first thing it is given."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[str, object]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append((function.overloadpacket.__name__, args[0] if args else None))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llama", "qwen", "neox"])
def test_weights_are_cast_once_for_all_tokens_of_a_response(tmp_path, name):
    """Qwen's layers have biases, too."""

    def casts(policy: Policy, noise: np.ndarray, groups: int) -> int:
        policy = dataclasses.replace(policy, autocast=torch.bfloat16)
        weights = {weight.untyped_storage().data_ptr() for weight in policy.model.parameters()}
        with Seen() as seen:
            sample(policy, PROMPTS[:1], noise, groups=groups)
        return sum(call == "_to_copy" and of.untyped_storage().data_ptr() in weights for call, of in seen.calls)

    policy = family(name, tmp_path)
    policy = dataclasses.replace(policy, texts=dataclasses.replace(policy.texts, ends=()))
    stack, noise = Stack.of(policy, 2), np.random.default_rng(0).random((1, 12))
    assert 0 < casts(stack.policy, np.tile(noise, (2, 1)), 2) <= casts(policy, noise, 1)


def test_a_pass_for_all_has_its_gradient_put_together_at_once():
    """One by one, each policy's would stand in zeros of the size of all."""
    stack, items = Stack.of(scratch(), COUNT), np.arange(len(PROMPTS))
    with stack.together():
        total = sum(loss_of(member).function(items).losses.sum() for member in stack.members())
    with Seen() as seen:
        total.backward()
    vocabulary = stack.policy.vocabulary
    parts = [of.shape for call, of in seen.calls if call == "select_backward"]
    assert not [shape for shape in parts if len(shape) == 3 and shape[-1] == vocabulary]


# --- which policies


def tiny(config, attention: str = "sdpa", **about) -> Policy:
    """A model of another family, with random weights of a size that tells its tokens apart."""
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 24, "pad_token_id": 0}
    with seeded(0):
        model = AutoModelForCausalLM.from_config(config(**{**size, **about}), attn_implementation=attention)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(10)
    return Policy(model.eval(), None, packs=packs(model))


def heads_before_tokens() -> Policy:
    """Hunyuan norms queries and keys when heads stand before tokens: in one row, before whose tokens they are."""
    sizes = {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8}
    policy = tiny(HunYuanDenseV1Config, **sizes)
    assert policy.packs
    return policy


def test_layers_that_see_tokens_in_another_order_are_found_out():
    policy = heads_before_tokens()
    assert obstacle(policy) == "two of it in one pass do not give what each gives alone"
    with pytest.raises(ValueError, match="two of it in one pass"):
        Stack.of(policy, 2)


def test_the_same_layers_in_padded_rows_are_stacked():
    assert obstacle(dataclasses.replace(heads_before_tokens(), packs=False)) == ""


def test_a_pass_that_a_layer_refuses_is_an_obstacle(monkeypatch):
    policy = scratch()
    monkeypatch.setattr(StackedLinear, "forward", lambda self, x: x.view(3, 5))
    assert obstacle(policy).startswith("two of it")


def test_where_there_is_no_room_nothing_is_learned_of_the_layers(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    policy = scratch()
    with monkeypatch.context() as patched:
        patched.setattr(Stack, "logits", full)
        assert obstacle(policy) == "there is no room for two of it"
    assert obstacle(policy) == ""


def test_learned_positions_are_each_policy_s_own():
    """GPT-Neo looks them up once for all rows, where it is not told."""
    policy = tiny(GPTNeoConfig, num_layers=2, num_heads=2, attention_types=[[["global"], 2]], attention="eager")
    assert not policy.packs
    assert obstacle(policy) == ""
    stack = moved(Stack.of(policy, COUNT))
    batch = collate(PROMPTS, RESPONSES, 0, policy.device)
    with stack.together():
        found = [sequence_logps(member, batch) for member in stack.members()]
    sum(each.sum() for each in found).backward()
    stack.share_gradients()
    for place in range(COUNT):
        one = alone(policy, stack, place)
        one.model.zero_grad()
        expected = sequence_logps(one, batch)
        expected.sum().backward()
        assert_near(found[place], expected)
        slopes = {name: weight.grad for name, weight in trained(one).items()}
        assert slopes["transformer.wpe.weight"].abs().max() > 0
        for name, slope in slopes.items():
            assert_near(stack.weights[place][name].grad, slope)


def test_a_model_is_asked_once_and_left_as_it_was(policy, monkeypatch):
    before = copy.deepcopy(policy.model.state_dict())
    generator, asked, logits = torch.get_rng_state(), [], Stack.logits
    monkeypatch.setattr(Stack, "logits", lambda *given: asked.append("rows" in given[2]) or logits(*given))
    assert [obstacle(policy) for _ in range(3)] == ["", "", ""]
    assert asked == [False, True]
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert all(weight.grad is None for weight in policy.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_module_of_another_kind_is_named():
    policy = scratch()
    assert obstacle(policy) == ""
    policy.model.extra = torch.nn.Conv1d(1, 1, 1)
    assert obstacle(policy) == "its Conv1d cannot be stacked"
    with pytest.raises(ValueError, match="Conv1d"):
        Stack.of(policy, 2)


# --- trainings that share their passes


def trainings(stack: Stack, *settings: TrainSettings, steps: int = 6, doors=None, losses=None) -> list[Training]:
    losses = losses or [loss_of(member) for member in stack.members()]
    doors = doors or [None] * len(settings)
    return [
        Training(weights, loss, one, steps, door)
        for weights, loss, one, door in zip(stack.weights, losses, settings, doors, strict=True)
    ]


def plan(steps: int = 6) -> list[Batch]:
    return batches(np.arange(4), 2, steps)


DIFFERENT = (
    SETTINGS,
    dataclasses.replace(SETTINGS, learning_rate=1e-3, schedule="cosine", weight_decay=0.1),
    dataclasses.replace(SETTINGS, learning_rate=3e-2, max_grad_norm=0.1, warmup_ratio=0.5),
)


@pytest.mark.parametrize("micro", [None, 1])
def test_each_learns_as_it_would_alone(policy, micro):
    start = {name: value.clone() for name, value in trained(policy).items()}
    stack = Stack.of(policy, COUNT)
    settings = [dataclasses.replace(one, micro_batch_size=micro) for one in DIFFERENT]
    together = trainings(stack, *settings)
    optimise_all(together, plan(), {}, stack)
    for place, one in enumerate(settings):
        with torch.no_grad():
            for name, value in trained(policy).items():
                value.copy_(start[name])
        expected = Training(trained(policy), loss_of(policy), one, 6)
        optimise_all([expected], plan(), {})
        for name, points in expected.curves().items():
            assert together[place].curves()[name] == [
                pytest.approx(point, rel=1e-3, abs=rounding()) for point in points
            ]
        first = [found.curves()["loss"][0][1] for found in (together[place], expected)]
        assert first[0] == near(first[1])


def test_no_gradient_lies_there_when_policies_are_looked_at():
    """Nor with one that has ended, whose part would keep the whole."""
    stack, left = Stack.of(scratch(), COUNT), []
    found = trainings(stack, *DIFFERENT)

    def look():
        weights = [*stack.policy.model.parameters(), *(one for each in stack.weights for one in each.values())]
        left.append([weight.grad for weight in weights if weight.grad is not None])
        found[1].end = Diverged(2, "loss")

    optimise_all(found, plan(), {2: look, 4: look}, stack)
    assert left == [[], []]


def bad_from(loss, step: int) -> PerItem:
    calls: list[int] = []

    def function(items):
        calls.append(1)
        found, charts = loss.function(items)
        return Losses(found * float("nan") if len(calls) >= step else found, charts)

    return PerItem(function)


def test_one_that_diverges_leaves_and_the_others_do_not_feel_it():
    def run(spoil: bool) -> list[Training]:
        stack = Stack.of(scratch(), COUNT)
        losses = [loss_of(member) for member in stack.members()]
        if spoil:
            losses[1] = bad_from(losses[1], 3)
        found = trainings(stack, *DIFFERENT, losses=losses, steps=40)
        optimise_all(found, plan(40), {}, stack)
        return found

    good, spoilt = run(False), run(True)
    assert isinstance(spoilt[1].end, Diverged)
    assert (spoilt[1].end.step, spoilt[1].done) == (3, 16)
    for place in (0, 2):
        assert spoilt[place].end is None
        assert spoilt[place].curves() == good[place].curves()
        assert all(torch.equal(good[place].weights[name], value) for name, value in spoilt[place].weights.items())


def test_a_checkpoint_of_one_in_a_stack_is_that_of_one_alone(tmp_path):
    """It has its own weights only, and goes on alone or in another stack."""

    def doors():
        train = dataclasses.replace(SETTINGS, checkpoint_minutes=None, checkpoint_steps=3)
        return [Checkpoints(CheckpointFile(tmp_path / f"{i}.pt", str(i)), train, lambda: False) for i in range(COUNT)]

    policy = scratch()
    whole = Stack.of(policy, COUNT)
    expected = trainings(whole, *DIFFERENT)
    optimise_all(expected, plan(), {}, whole)
    half = Stack.of(policy, COUNT)
    with pytest.raises(KeyError):
        optimise_all(trainings(half, *DIFFERENT, doors=doors()), plan(), {4: lambda: {}["killed"]}, half)
    again, alone_ = Stack.of(policy, COUNT), Stack.of(policy, 1)
    found = trainings(again, *DIFFERENT, doors=doors())
    assert [one.door.begun.step for one in found] == [4] * COUNT
    size = sum(value.numel() for value in trained(policy).values())
    assert sum(value.untyped_storage().nbytes() for value in found[0].door.begun.weights.values()) == 4 * size
    optimise_all(found, plan(), {}, again)
    for one, other in zip(found, expected, strict=True):
        assert one.curves() == other.curves()
    [single] = trainings(alone_, DIFFERENT[2], doors=doors()[2:])
    optimise_all([single], plan(), {}, alone_)
    assert single.curves()["loss"] == [near(point) for point in expected[2].curves()["loss"]]


def test_when_one_is_asked_to_stop_all_leave_a_checkpoint(tmp_path):
    """Each looks by a clock of its own; they are to go on together."""
    train = dataclasses.replace(SETTINGS, checkpoint_minutes=None, checkpoint_steps=None)
    files = [CheckpointFile(tmp_path / f"{i}.pt", str(i)) for i in range(COUNT)]
    doors = [Checkpoints(file, train, lambda i=i: i == 1) for i, file in enumerate(files)]
    stack = Stack.of(scratch(), COUNT)
    found = trainings(stack, *DIFFERENT, doors=doors)
    optimise_all(found, plan(), {}, stack)
    assert {type(one.end) for one in found} == {Stopped}
    assert [file.read().step for file in files] == [1] * COUNT
