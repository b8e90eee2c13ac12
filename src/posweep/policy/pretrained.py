"""A causal language model by its name: opened with its tokenizer and chat template, trained whole or through LoRA (peft)."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posweep import hub
from posweep.errors import PreflightError, first_line
from posweep.policy.base import DTYPES, Policy, bfloat16_problems, own_code, products
from posweep.policy.operations import lighten
from posweep.policy.packed import packs, windowed
from posweep.policy.reproducible import seeded
from posweep.policy.texts import Texts
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
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, config=_config(settings, folder), dtype=torch.float32 if whole else dtype, local_files_only=True,
        attn_implementation=settings.attention, trust_remote_code=settings.trust_remote_code, weights_only=True,
        output_loading_info=True,
    )  # fmt: skip
    if lost := sorted(report["missing_keys"]):
        raise PreflightError(
            f"model.name: {settings.name} has no weights for {', '.join(lost[:3])}; name a whole model."
        )
    lighten(model)
    if not whole:
        model = _with_adapters(model, settings, settings.name if settings.sft.epochs == 0 else str(folder))
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
        stop = _end_of_turn(tokenizer, stop)
    ends = dict.fromkeys([stop, tokenizer.eos_token_id, *_generation_ends(folder)])
    return Texts(tokenizer, settings.prompt_format, pad, stop, tuple(end for end in ends if end is not None))


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
    return [problem for found in checks for problem in found]


def prompt_problems(settings: HubModel, folder: Path, prompts: Sequence[Prompt], place: str = "model") -> list[str]:
    """Conversations that the chat template refuses, such as one that the system begins; a sentence each."""
    texts, found = open_texts(settings, folder), []
    for prompt in prompts:
        try:
            texts.prompts([prompt], LONG)
        except PreflightError as error:
            found += [f"{place}.prompt_format: {problem}" for problem in error.problems]
    return found


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


def _with_adapters(model: Any, settings: HubModel, base: str) -> Any:
    """Low-rank adapters beside the linear layers; the second factor starts at 0, so that at first nothing changes.

    Args:
        base: what the adapters say they belong to, once they are written.
    """
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if settings.lora.targets == ("all-linear",) else list(settings.lora.targets)
    config = LoraConfig(
        r=settings.lora.rank, lora_alpha=settings.lora.alpha, lora_dropout=0.0, target_modules=targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with seeded(settings.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft, about transformers to come
        adapted = get_peft_model(model, config)
    config.base_model_name_or_path = base
    return adapted


def _token(tokenizer: Any, name: str | None, default: int | None) -> Any:
    return default if name is None else tokenizer.convert_tokens_to_ids(name)


def _end_of_turn(tokenizer: Any, default: int | None) -> int | None:
    """The token the chat template puts behind an answer, where it is a special one; else the tokenizer's own end."""
    mark = "ANSWER"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(mark)[2].lstrip()
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
    if settings.prompt_format != "chat" or tokenizer.chat_template:
        return []
    return [
        f"{place}.prompt_format: the tokenizer of {settings.name} has no chat template; set "
        f"{place}.prompt_format=transcript (Human: … Assistant:) or text (the prompt as it is)."
    ]


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
    except (ValueError, ImportError) as error:
        if "attention" in str(error).lower():
            return [
                f"{place}.attention: {settings.attention} is not to be had here ({first_line(error)}); take sdpa or eager."
            ]
        return [f"{place}.name: {settings.name} is no causal language model ({first_line(error)}); name one that is."]
    if "past_key_values" not in inspect.signature(type(model).forward).parameters:
        return [f"{place}.name: {settings.name} keeps no keys and values, which drawing responses needs; name another."]
    head = next((n for n, module in model.named_modules() if module is model.get_output_embeddings()), "")
    if settings.lora.rank and head in settings.lora.targets and config.get_text_config().tie_word_embeddings:
        return [
            f"{place}.lora.targets: {head} of {settings.name} is its input embedding too, so that an adapter on it "
            "cannot be merged; leave it out."
        ]
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    wrong = [name for name in settings.lora.targets if name not in {"all-linear", *names}]
    if settings.lora.rank and wrong:
        return [
            f"{place}.lora.targets: {settings.name} has no linear layers called {', '.join(wrong)}; there are "
            f"{', '.join(sorted(names))} (or all-linear)."
        ]
    return []


def folder_of(settings: HubModel) -> Path:
    """Where the model lies on this machine."""
    return hub.folder(settings, "model", "model")
