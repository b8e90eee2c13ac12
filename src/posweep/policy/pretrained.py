"""A causal language model by its name: opened with its tokenizer and chat template, trained whole or through LoRA (peft)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posweep import hub
from posweep.errors import PreflightError, first_line
from posweep.policy import template
from posweep.policy.adapters import target_problems, with_adapters
from posweep.policy.base import DTYPES, Policy, bfloat16_problems, own_code, products
from posweep.policy.operations import lighten
from posweep.policy.packed import packs, windowed
from posweep.policy.reproducible import seeded
from posweep.policy.texts import Texts
from posweep.policy.vocabulary import (
    NAMELESS,
    beyond_problems,
    damage_problems,
    embedding_size,
    stored_embedding_problems,
    tokens_beyond,
    unread_problems,
)
from posweep.records import Prompt
from posweep.settings import HubModel

LONG = 10**6
"""Tokens no prompt has."""
RANDOM = ("dropout", "pdrop", "dropout_prob", "jitter_noise", "layerdrop")
"""How the settings end that make a forward pass a matter of chance."""
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the architectures end that predict the next token; others would be given a new head, or look ahead."""


def open_pretrained(settings: HubModel, folder: Path, device: str) -> Policy:
    """The model of a folder, ready to be trained.

    Weights that are trained are held in float32, so that small steps are not rounded away, and matrix products are taken in
    `dtype` by autocast; under LoRA the frozen weights themselves are in `dtype`. There is no dropout: π(y|x) is one number.
    """
    dtype, whole = DTYPES[settings.dtype], settings.lora.rank == 0
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=_config(settings, folder), dtype=torch.float32 if whole else dtype, local_files_only=True,
            attn_implementation=settings.attention, trust_remote_code=settings.trust_remote_code, weights_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise PreflightError(
            f"model.name: the weights of {settings.name} have other shapes than its config.json says; name a whole model."
        ) from None
    if lost := sorted(report["missing_keys"]):
        raise PreflightError(
            f"model.name: {settings.name} has no weights for {', '.join(lost[:3])}; name a whole model."
        )
    lighten(model)
    if not whole:
        model = with_adapters(model, settings, settings.name if settings.sft.epochs == 0 else str(folder))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = model.to(device).eval()
    return Policy(model, open_texts(settings, folder), products(settings.dtype), packs=packs(model))


def open_texts(settings: HubModel, folder: Path) -> Texts:
    """The tokenizer of a folder, the form of its prompts, and every token that may end a response."""
    tokenizer = _tokenizer(settings, folder)
    pad = _token(tokenizer, settings.pad_token, tokenizer.pad_token_id)
    stop = _token(tokenizer, settings.end_token, tokenizer.eos_token_id)
    if settings.end_token is None and settings.prompt_format == "chat":
        stop = _end_of_turn(tokenizer, stop, settings.template_kwargs)
    ends = dict.fromkeys([stop, tokenizer.eos_token_id, *_generation_ends(folder)])
    known_ends = tuple(end for end in ends if end is not None)
    return Texts(tokenizer, settings.prompt_format, pad, stop, known_ends, settings.template_kwargs)


def problems(settings: HubModel, folder: Path, longest: int, device: str = "cpu", place: str = "model") -> list[str]:
    """What stands in the way of training this model, from everything but its weights; a sentence each.

    Args:
        longest: tokens a prompt and its response may take together.
        device: what trials compute on.
    """
    try:
        config, tokenizer = _config(settings, folder), _tokenizer(settings, folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        way_out = own_code(error, place, "name a causal language model with its tokenizer.")
        return [f"{place}.name: {settings.name} cannot be opened ({first_line(error)}); {way_out}"]
    checks = (
        _token_problems(settings, tokenizer, place),
        _template_problems(settings, tokenizer, place),
        _context_problems(settings, config, longest, place),
        _architecture_problems(settings, config, place),
        bfloat16_problems(settings.dtype, device, place),
    )
    found = [problem for problems in checks for problem in problems] or unread_problems(tokenizer, settings.name, place)
    return found or _vocabulary_problems(settings, open_texts(settings, folder), embedding_size(config), place)


def prompt_problems(
    settings: HubModel, folder: Path, prompts: Sequence[Prompt], responses: Sequence[str] = (), place: str = "model"
) -> list[str]:
    """Conversations and responses that the chat template refuses or cuts down; a sentence each.

    Args:
        prompts: one of each order of speakers: templates refuse some, such as one that the system begins.
        responses: those that may hold thoughts, which templates leave out.
    """
    texts, found = open_texts(settings, folder), []
    for prompt in prompts:
        try:
            texts.prompts([prompt], LONG)
        except PreflightError as error:
            found += [f"{place}.prompt_format: {problem}" for problem in error.problems]
    if settings.prompt_format == "chat":
        kwargs = settings.template_kwargs
        found += template.thought_problems(texts.tokenizer, settings.name, kwargs, responses, place)
    return found


def notices(settings: HubModel, folder: Path, place: str = "model") -> list[str]:
    """What a user should know of a model that nothing is wrong with; a sentence each."""
    if settings.prompt_format != "chat":
        return []
    return template.notices(_tokenizer(settings, folder), settings.name, settings.template_kwargs, place)


def weight_problems(settings: HubModel, folder: Path, place: str = "model") -> list[str]:
    """Weights that are not all there, or not those that the configuration tells of; a sentence each."""
    lacking = hub.weight_problems(settings, folder, place) or damage_problems(settings.name, folder, place)
    return lacking or stored_embedding_problems(settings.name, _config(settings, folder), folder, place)


def sharing_problems(settings: HubModel, folder: Path, place: str) -> list[str]:
    """A sentence where responses cannot share the prompt before them: asked of a small model of the same kind.

    Args:
        place: the setting that asks for it.
    """
    config = _config(settings, folder)
    if windowed(config):
        why = "has layers that see only some of the tokens before"
    elif (small := _small(config, settings.trust_remote_code)) is not None and packs(small):
        return []
    else:
        why = "does not say to its attention which responses belong to a prompt"
    return [f"{place}: {settings.name} {why}; set {place}=false, or name another model."]


def _small(config: Any, trusted: bool) -> Any:
    """A narrow model with two layers and random weights, else as the configuration says; as wide as it, if it must be.

    None where neither can be made.
    """
    text = config.get_text_config()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    few = {"vocab_size": 64, "num_hidden_layers": 2}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    for changes in ({**few, **shape}, few):
        small = copy.deepcopy(config)
        known = {name: value for name, value in changes.items() if getattr(text, name, None) is not None}
        for name, value in {**known, **ids}.items():
            setattr(small.get_text_config(), name, value)
        with suppress(RuntimeError, ValueError, IndexError), seeded(0):
            model = AutoModelForCausalLM.from_config(
                small, attn_implementation="sdpa", trust_remote_code=trusted
            ).eval()
            model(input_ids=torch.arange(1, 5)[None])
            return model
    return None


# --- opening


def _config(settings: HubModel, folder: Path) -> Any:
    """The model's configuration, with nothing in it left to chance."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=settings.trust_remote_code)
    for name in vars(config):
        if name.endswith(RANDOM) and getattr(config, name):
            setattr(config, name, 0.0)
    return config


def _tokenizer(settings: HubModel, folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=settings.trust_remote_code, clean_up_tokenization_spaces=False
    )


def _token(tokenizer: Any, name: str | None, default: int | None) -> Any:
    return default if name is None else tokenizer.convert_tokens_to_ids(name)


def _end_of_turn(tokenizer: Any, default: int | None, template_kwargs: Mapping[str, Any]) -> int | None:
    """The token the chat template puts behind an answer, where it is a special one; else the tokenizer's own end."""
    mark = "ANSWER"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    written = tokenizer.apply_chat_template(turns, tokenize=False, **template_kwargs)
    behind = written.rpartition(mark)[2].lstrip()
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else default


def _generation_ends(folder: Path) -> list[int]:
    """What the model's own generation settings end a text with."""
    if not (folder / "generation_config.json").is_file():
        return []
    ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or [])


# --- checking


def _token_problems(settings: HubModel, tokenizer: Any, place: str) -> list[str]:
    found = []
    known = tokenizer.get_vocab()
    for role, given, own in (
        ("pad", settings.pad_token, tokenizer.pad_token_id),
        ("end", settings.end_token, tokenizer.eos_token_id),
    ):
        word = {"pad": "padding", "end": "end"}[role]
        if given is not None and given not in known:
            found.append(f"{place}.{role}_token: {given!r} is no token of {settings.name}; name one of its tokens.")
        if given is None and own is None:
            hint = f" (its end token {tokenizer.eos_token!r} will do: padding is never read)" if role == "pad" else ""
            found.append(
                f"{place}.{role}_token: the tokenizer of {settings.name} has no {word} token; "
                f"set {place}.{role}_token to one of its tokens{hint if tokenizer.eos_token else ''}."
            )
    return found


def _template_problems(settings: HubModel, tokenizer: Any, place: str) -> list[str]:
    kwargs = settings.template_kwargs
    if settings.prompt_format != "chat" and kwargs:
        return [
            f"{place}.template_kwargs: told to a chat template, and {place}.prompt_format={settings.prompt_format} uses "
            f"none; set {place}.prompt_format=chat, or leave it empty."
        ]
    if settings.prompt_format != "chat":
        return []
    if tokenizer.chat_template:
        return template.policy_problems(tokenizer, settings.name, kwargs, place)
    return [
        f"{place}.prompt_format: the tokenizer of {settings.name} has no chat template; set "
        f"{place}.prompt_format=transcript (Human: … Assistant:) or text (the prompt as it is)."
    ]


def _vocabulary_problems(settings: HubModel, texts: Texts, size: int | None, place: str) -> list[str]:
    """Tokens that texts can come to, or that stand around them, and that the model has no embedding for."""
    if size is None:
        return []
    tokenizer = texts.tokenizer

    def read(text: str) -> list[int]:
        rows = [*texts.prompts([text], LONG).rows, *texts.responses([text], LONG).rows]
        return [number for row in rows for number in row]

    roles = dict.fromkeys(texts.ends, "ends a text") | {texts.end: "ends a response", texts.pad: "padding"}
    roles = {number: role for number, role in roles.items() if number >= size}
    names = dict(zip(roles, tokenizer.convert_ids_to_tokens(list(roles)), strict=True))
    beyond = {**tokens_beyond(tokenizer, size, read), **{n: name or NAMELESS for n, name in names.items()}}
    hints = []
    if set(beyond) == {texts.pad}:
        end = tokenizer.convert_ids_to_tokens(texts.end)
        hints = [f"set {place}.pad_token to another token ({end!r} will do: padding is never read)"]
    return beyond_problems(settings.name, size, beyond, roles, place, hints=hints)


def _context_problems(settings: HubModel, config: Any, longest: int, place: str) -> list[str]:
    context = getattr(config, "max_position_embeddings", None)
    if not context or longest <= context:
        return []
    return [
        f"{place}.name: {settings.name} reads {context} tokens, but prompts and responses may take {longest}; lower "
        "data.max_prompt_tokens, data.max_response_tokens or sample.max_new_tokens."
    ]


def _architecture_problems(settings: HubModel, config: Any, place: str) -> list[str]:
    """A skeleton without weights shows whether the model can be built as asked, and what LoRA may be put beside."""
    named, own = config.architectures or [], getattr(config, "auto_map", None) or {}
    if named and not any(name.endswith(CAUSAL) for name in named) and "AutoModelForCausalLM" not in own:
        return [f"{place}.name: {settings.name} is no causal language model ({', '.join(named)}); name one that is."]
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=settings.attention, trust_remote_code=settings.trust_remote_code
            )
    except (ValueError, ImportError, AssertionError) as error:  # torch asserts that the padding token has an embedding
        if "attention" in str(error).lower():
            return [
                f"{place}.attention: {settings.attention} is not to be had here ({first_line(error)}); take sdpa or eager."
            ]
        return [f"{place}.name: {settings.name} is no causal language model ({first_line(error)}); name one that is."]
    if "past_key_values" not in inspect.signature(type(model).forward).parameters:
        return [f"{place}.name: {settings.name} keeps no keys and values, which drawing responses needs; name another."]
    return target_problems(model, settings, place) if settings.lora.rank else []


def folder_of(settings: HubModel) -> Path:
    """Where the model lies on this machine."""
    return hub.folder(settings, "model", "model")
