"""Operations with gradients of their own: the numbers of transformers', in every family, and where they are not used."""

import copy
import sys

import pytest
import torch
from torch.autograd import gradcheck
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from posweep.policy.load import load_policy, load_reward_model, new_reward_model, save_policy
from posweep.policy.operations import ROTATION, RMSNorm, Rotation, lighten
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.settings import LoraSettings, ScratchModel

from ..rounding import assert_near

SIZE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "vocab_size": 50, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "phi3": Phi3Config,
}


@pytest.fixture(autouse=True)
def as_transformers_has_it(monkeypatch):
    """Each test sees the rotations of transformers first, whatever was loaded in this process before."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and hasattr(vars(module).get(ROTATION), "__wrapped__"):
            monkeypatch.setattr(module, ROTATION, vars(module)[ROTATION].__wrapped__)


def model_of(config, **changes):
    model = AutoModelForCausalLM.from_config(config(**{**SIZE, **changes}))
    with torch.no_grad():
        for weight in model.parameters():  # norms begin at 1 and would hide what they do
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return model


def logits_and_gradients(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits
    gradients = torch.autograd.grad(
        (logits.softmax(-1) * torch.linspace(-1, 1, logits.shape[-1])).sum(), [*model.parameters()]
    )
    return [logits.detach(), *gradients]


def light_norms(model) -> set[str]:
    """The classes of norms that were replaced."""
    return {type(m).__name__ for m in model.modules() if type(m).__mro__[1].__name__ == "_Light"}


def light(model) -> set[str]:
    """The same, and whether the rotation was."""
    return light_norms(model) | (
        {ROTATION} if hasattr(vars(sys.modules[type(model).__module__])[ROTATION], "__wrapped__") else set()
    )


def test_gradients_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(1)

    def numbers(*shape, learns=True):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(learns)

    assert gradcheck(lambda x, w: RMSNorm.apply(x, w, 1e-2), (numbers(2, 3, 5), numbers(5)))
    assert gradcheck(lambda x, w: RMSNorm.apply(x, w, 1e-2), (numbers(2, 3, 5), numbers(2, 1, 5)))  # of two policies
    frozen = numbers(5, learns=False)
    assert gradcheck(lambda x: RMSNorm.apply(x, frozen, 1e-2), (numbers(2, 5),))
    angles = numbers(2, 1, 3, 8, learns=False), numbers(2, 1, 3, 8, learns=False)
    assert gradcheck(lambda x: Rotation.apply(x, *angles), (numbers(2, 4, 3, 8),))
    assert gradcheck(lambda x: Rotation.apply(x.transpose(1, 2), *angles), (numbers(2, 3, 4, 8),))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_makes_what_it_made(family):
    model, ids = model_of(FAMILIES[family]), torch.arange(1, 13).view(2, 6)
    expected = logits_and_gradients(model, ids)
    lighten(model)
    assert light(model) == {f"{type(model).__name__.removesuffix('ForCausalLM')}RMSNorm", ROTATION}
    for found, before in zip(logits_and_gradients(model, ids), expected, strict=True):
        assert_near(found, before)


def test_a_model_of_another_making_is_left_as_it_is():
    """Gemma scales by 1 + w, and a norm of a name alone may do anything."""
    model = model_of(Gemma2Config)
    ids = torch.arange(1, 7)[None]
    expected = logits_and_gradients(model, ids)
    lighten(model)
    assert not light(model) - {ROTATION}
    for found, before in zip(logits_and_gradients(model, ids), expected, strict=True):
        assert_near(found, before)
    other = model_of(LlamaConfig)
    for module in other.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            module.forward = lambda x: x * 2
    lighten(other)
    assert light(other) == {ROTATION}


@pytest.mark.parametrize("wrong", [lambda q, k, cos, sin: (q * cos, k * cos), lambda q: q, lambda *all: 1 / 0])
def test_a_rotation_of_another_kind_stays(monkeypatch, wrong):
    monkeypatch.setattr(modeling_llama, ROTATION, wrong)
    lighten(model_of(LlamaConfig))
    assert vars(modeling_llama)[ROTATION] is wrong


def test_where_heads_are_rotated_in_part_or_numbers_are_short_transformers_computes():
    partly = model_of(
        Phi3Config,
        partial_rotary_factor=0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    )
    ids = torch.arange(1, 7)[None]
    expected = partly(input_ids=ids).logits
    lighten(partly)
    torch.testing.assert_close(partly(input_ids=ids).logits, expected)
    assert hasattr(vars(modeling_phi3)[ROTATION], "__wrapped__")
    short = model_of(LlamaConfig).to(torch.bfloat16)
    expected = short(input_ids=ids).logits
    lighten(short)
    assert torch.equal(short(input_ids=ids).logits, expected)


def test_twice_is_once_and_copies_compute_with_their_own_weights():
    model = model_of(LlamaConfig)
    lighten(model)
    rotation, kinds = vars(modeling_llama)[ROTATION], [type(module) for module in model.modules()]
    lighten(model)
    assert vars(modeling_llama)[ROTATION] is rotation
    assert [type(module) for module in model.modules()] == kinds
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.zero_()
    ids = torch.arange(1, 7)[None]
    assert not other(input_ids=ids).logits.any()
    assert model(input_ids=ids).logits.all()


def test_every_model_is_opened_so(opened, tmp_path):
    """Else what a judge scores would depend on which policies its process has opened."""
    own = ScratchModel(hidden_size=32, layers=1, heads=2)
    policies = {
        "hub": opened("llama"), "adapters": opened("llama", lora=LoraSettings(rank=2)),
        "new": new_policy(own, make_tokenizer(own, ["a b c"])),
    }  # fmt: skip
    policies["judge"] = new_reward_model(policies["hub"], 0)
    for name in ("new", "judge"):
        save_policy(policies[name], tmp_path / name)
    policies["read"] = load_policy(own, tmp_path / "new")
    policies["judge read"] = load_reward_model(tmp_path / "judge", policies["hub"])
    assert all(light_norms(policy.model) == {"LlamaRMSNorm"} for policy in policies.values())
    assert light(policies["hub"].model) == {"LlamaRMSNorm", ROTATION}
