"""Tokens without an embedding, weights that are not what the configuration says, and adapters beside Conv1D."""

import json
import shutil
import warnings

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config

from posweep.judges import pairwise_model, reward_model
from posweep.policy.load import export_policy, load_policy
from posweep.policy.pretrained import open_texts, problems, weight_problems
from posweep.policy.score import score_all
from posweep.policy.stack import obstacle
from posweep.settings import LoraSettings, PairwiseModelSettings, RewardModelSettings

from ..judges.models import judge_folder, pair_rm_folder
from . import families
from .families import make_model, settings
from .test_pretrained import _step, tokens


@pytest.fixture
def qwen(tmp_path):
    return make_model("qwen", tmp_path / "qwen")


def add(folder, *names, **special):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(names))
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(folder)
    return folder


def said(folder, **changes):
    return problems(settings("qwen", folder, **changes), folder, 64)


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_an_added_token_without_an_embedding(qwen):
    size = json.loads((qwen / "config.json").read_text())["vocab_size"]
    assert said(add(qwen, "YouTube")) == [
        f"model.name: {qwen} has an embedding for {size} tokens (0 to {size - 1}), and its tokenizer writes tokens beyond "
        f"it: 'YouTube' ({size}); resize the embedding to {size + 1} or more and save the model, or remove them from the "
        "tokenizer."
    ]


def test_a_padding_token_without_an_embedding_can_be_another_one(qwen):
    [found] = said(add(qwen, pad_token="[PAD]"))
    assert "'[PAD]' (" in found
    assert ", padding); set model.pad_token to another token ('<|im_end|>' will do" in found
    assert said(qwen, pad_token="<|im_end|>") == []  # texts that spell it come to other tokens


def test_an_end_of_the_generation_settings_without_an_embedding(qwen):
    edit(qwen / "generation_config.json", eos_token_id=[2, 5000])
    [found] = said(qwen)
    assert "a token without a name (5000, ends a text)" in found


def test_tokens_that_are_no_texts_are_harmless(tmp_path):
    """Padded vocabularies: such a token may be drawn, and may end a text."""
    folder = make_model("qwen", tmp_path / "wide")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_policy(settings("qwen", folder), folder).model
    model.resize_token_embeddings(400)
    model.save_pretrained(folder)
    edit(folder / "generation_config.json", eos_token_id=[2, 399])
    assert said(folder) == []
    assert weight_problems(settings("qwen", folder), folder) == []
    texts = open_texts(settings("qwen", folder), folder)
    assert texts.decode([[399, *tokenizer("dog")["input_ids"]]]) == ["dog"]
    assert texts.ends_text == "<|im_end|>, token 399"


def test_a_configuration_that_says_another_size_than_the_weights(qwen):
    size = json.loads((qwen / "config.json").read_text())["vocab_size"]
    edit(qwen / "config.json", vocab_size=size + 8)
    [found] = weight_problems(settings("qwen", qwen), qwen)
    assert f"says vocab_size {size + 8}, but its weights hold an embedding for {size} tokens" in found
    weights = load_policy_weights(qwen)
    (qwen / "model.safetensors").unlink()
    torch.save(weights, qwen / "pytorch_model.bin")
    assert weight_problems(settings("qwen", qwen), qwen) == [found]


def load_policy_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_weights_that_are_cut_short_or_a_pointer(qwen):
    whole = (qwen / "model.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\nsize 1\n", b""):
        (qwen / "model.safetensors").write_bytes(content)
        [found] = weight_problems(settings("qwen", qwen), qwen)
        assert found == f"model.name: model.safetensors of {qwen} is cut short or no weights; fetch it again."


def test_a_tokenizer_without_its_vocabulary(qwen):
    """Transformers makes an empty one in its place, which would train on nothing."""
    (qwen / "tokenizer.json").unlink()
    [found] = said(qwen)
    assert "makes no tokens of a text" in found


def test_judges_whose_tokenizer_has_more_tokens(tmp_path):
    scored = add(judge_folder(tmp_path / "rm"), "YouTube")
    paired = add(pair_rm_folder(tmp_path / "pair"), "YouTube")
    for template in ("chat", "pair"):
        chosen = RewardModelSettings(name=str(scored), dtype="float32", template=template)
        [found] = reward_model.problems(chosen, "judge.rm")
        assert found.startswith(f"judge.rm.name: {scored} has an embedding for")
    for folder in (scored, paired):
        [found] = pairwise_model.problems(PairwiseModelSettings(name=str(folder), dtype="float32"), "judge.pm")
        assert "'YouTube'" in found


# --- LoRA beside Conv1D


@pytest.fixture
def gpt2(tmp_path, monkeypatch):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    end = "<|endoftext|>"
    monkeypatch.setitem(families.FAMILIES, "gpt2", (GPT2Config, sizes, None, [end], end, end))
    monkeypatch.setitem(families.PADS, "gpt2", end)
    return make_model("gpt2", tmp_path / "gpt2")


def lora(folder, targets):
    return settings("gpt2", folder, lora=LoraSettings(rank=4, targets=targets))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [(("c_attn",), 2), (("attn.c_attn",), 2), (("transformer.h.0.attn.c_attn",), 1), (r".*\.c_(attn|fc)", 4),
     (("all-linear",), 8), (("c_attn", "wpe"), 3)],
)  # fmt: skip
def test_layers_are_named_as_peft_names_them_and_merge(gpt2, tmp_path, targets, adapted):
    chosen = lora(gpt2, targets)
    assert problems(chosen, gpt2, 64) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        policy = load_policy(chosen, gpt2)
    assert (
        sum("lora_A" in n or "embedding_A" in n for n, w in policy.model.named_parameters() if w.requires_grad)
        == adapted
    )
    assert bool(obstacle(policy)) == ("wpe" in targets)
    prompts, responses = tokens(policy)
    before = score_all(policy, prompts, responses)
    _step(policy, steps=3)
    trained = score_all(policy, prompts, responses)
    assert (trained - before).abs().max() > 1e-2
    assert torch.equal(score_all(policy.without_adapter(), prompts, responses), before)
    export_policy(policy, tmp_path / "out", merged=True)
    merged = load_policy(settings("gpt2", tmp_path / "out"), tmp_path / "out")
    torch.testing.assert_close(score_all(merged, prompts, responses), trained, rtol=1e-3, atol=1e-3)
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("c_attn", "nope"), "has no layers called nope; there are c_attn, c_fc, c_proj, lm_head, wpe, wte (or all-linear)"),
        ("nope", "has no layers whose whole name fits nope; there are"), ("(", "'(' is no pattern"),
        (("attn",), "is GPT2Attention, which LoRA has no adapter for"), ((), "must be [all-linear], or name layers"),
        (("all-linear", "c_attn"), "must be [all-linear], or name layers"), (("wte",), "is its output layer too"),
    ],
)  # fmt: skip
def test_layers_that_no_adapter_can_stand_beside(gpt2, targets, words):
    [found] = problems(lora(gpt2, targets), gpt2, 64)
    assert found.startswith("model.lora.targets: ")
    assert words in found
