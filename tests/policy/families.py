"""Tiny models of several families with random weights, each with a tokenizer and a chat template of its family's form."""

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from posweep.policy.reproducible import seeded
from posweep.settings import HubModel

TEXTS = ["the cat sat on the mat", "a dog, a log; 2 fogs!", "who are you? nobody, and you?", "naïve café – 漢字 🦊"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
GATED = {**SIZE, "intermediate_size": 48, "num_key_value_heads": 2}

FAMILIES = {
    "llama": (LlamaConfig, GATED, LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
              "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"], "<|begin_of_text|>", "<|end_of_text|>"),
    "qwen": (Qwen2Config, {**GATED, "tie_word_embeddings": True}, CHATML,
             ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>"),
    "neox": (GPTNeoXConfig, {**SIZE, "intermediate_size": 64, "hidden_dropout": 0.1, "attention_dropout": 0.1}, None,
             ["<|endoftext|>"], None, "<|endoftext|>"),
    "phi3": (Phi3Config, {**GATED, "resid_pdrop": 0.1}, PHI3,
             ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], None, "<|endoftext|>"),
}  # fmt: skip
"""Configuration, its values, chat template, special tokens, the token a text begins with, and the one it ends with."""

PADS = {"llama": "<|finetune_right_pad_id|>", "qwen": None, "neox": "<|endoftext|>", "phi3": None}
"""What the settings must name as padding: Llama and NeoX tokenizers come without."""


def make_tokenizer(
    special: list[str], begin: str | None, end: str | None, template: str | None, pad: str | None, spaced: bool = False
):
    """Byte-pair encoding of a few texts; `spaced` puts a space before whatever begins a text, as SentencePiece does."""
    core = tokenizers.Tokenizer(models.BPE())
    if spaced:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(i) for i in range(10, 127)] + ["▁", "?", "–"]
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=begin, eos_token=end, pad_token=pad, extra_special_tokens=special
    )
    made.chat_template = template
    return made


def make_model(family: str, folder: Path, seed: int = 0, **changes) -> Path:
    """A model of the family as it would lie on a hub."""
    config, values, template, special, begin, end = FAMILIES[family]
    own_pad = {"qwen": "<|endoftext|>", "phi3": "<|endoftext|>"}.get(family)
    tokenizer = make_tokenizer(
        special, begin, end, changes.pop("template", template), changes.pop("pad", own_pad), family == "phi3"
    )
    known = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (("bos", begin), ("eos", end)) if token}
    ids = {"bos_token_id": known.get("bos"), "eos_token_id": known["eos"], "pad_token_id": None}
    with seeded(seed):
        model = AutoModelForCausalLM.from_config(config(**{**values, **ids, "vocab_size": len(tokenizer), **changes}))
    for weight in model.parameters():  # random weights of the usual size make π nearly flat, and any mistake small
        if weight.dim() > 1:
            weight.data.mul_(10)
    if family == "phi3":
        model.generation_config.eos_token_id = [known["eos"], tokenizer.convert_tokens_to_ids("<|end|>")]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_cache(made: Path, cache: Path, name: str, kind: str = "model", commit: str = "c0ffee" + "0" * 34) -> str:
    """A folder laid out as the hub's cache holds it; its commit."""
    home = cache / f"{kind}s--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    made.rename(home / "snapshots" / commit)
    return commit


def settings(family: str, name: object = "", **changes) -> HubModel:
    form = "transcript" if FAMILIES[family][2] is None else "chat"
    given = {"name": str(name), "dtype": "float32", "prompt_format": form, "pad_token": PADS[family], **changes}
    return HubModel(**given)
