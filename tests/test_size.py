"""How large a model is, from its settings or its files."""

import json
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaForCausalLM,
    Phi3Config,
    Qwen2Config,
)

from posweep import size
from posweep.policy.scratch import new_policy
from posweep.settings import (
    HubModel,
    LoraSettings,
    ModelSize,
    ScratchModel,
)

from .sizes import KNOWN, demo, llama, parameters


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
