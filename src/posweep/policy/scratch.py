"""A small Llama from scratch, and a tokenizer made from the training texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posweep.policy.base import Policy, products
from posweep.policy.operations import lighten
from posweep.policy.packed import packs
from posweep.policy.reproducible import seeded
from posweep.policy.texts import ANSWER, BEGIN, END, PAD, SPECIAL, UNKNOWN, Texts
from posweep.settings import ScratchModel

TEMPLATE = (
    "{{ bos_token }}{% set answered = messages[-1]['role'] == 'assistant' %}"
    "{% set asked = messages[:-1] if answered else messages %}"
    "{% if asked | length == 1 %}{{ asked[0]['content'] }}{% else %}{% for turn in asked %}"
    "{{ turn['role'] | capitalize }}: {{ turn['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}{% endif %}" + ANSWER + "{% if answered %}{{ messages[-1]['content'] }}{{ eos_token }}{% endif %}"
)
"""What these tokenizers write around texts, as other programs read it: `<begin> prompt <answer> response <end>`."""


def make_tokenizer(settings: ScratchModel, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `texts`: one token a word, or byte-pair encoding of `vocabulary_size`."""
    if settings.tokenizer == "words":
        core = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=settings.vocabulary_size, special_tokens=list(SPECIAL), show_progress=False
        )
    else:
        core = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=settings.vocabulary_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        extra_special_tokens=[ANSWER], clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )  # fmt: skip


def new_policy(settings: ScratchModel, tokenizer: PreTrainedTokenizerFast) -> Policy:
    """A Llama with random weights drawn from `settings.seed`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=8 * round(settings.hidden_size * 8 / 3 / 8),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="sdpa",
    )
    with seeded(settings.seed):
        model = LlamaForCausalLM(config)
    lighten(model)
    return Policy(model, Texts.own(tokenizer), products(settings.dtype), packs=packs(model))
