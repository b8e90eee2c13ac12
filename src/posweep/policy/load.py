"""A policy written and read; a reward model made from one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedTokenizerFast

from posweep.policy.base import Policy, products
from posweep.policy.operations import lighten
from posweep.policy.packed import packs
from posweep.policy.pretrained import open_pretrained
from posweep.policy.reproducible import seeded
from posweep.policy.texts import Texts
from posweep.policy.train import reset
from posweep.settings import HubModel, ModelSettings


def load_policy(settings: ModelSettings, folder: Path, device: str = "cpu") -> Policy:
    """The policy of a folder; nothing is fetched and no code of the folder is run unless the settings say so."""
    if isinstance(settings, HubModel):
        return open_pretrained(settings, folder, device)
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype="auto")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model = model.to(device).eval()
    lighten(model)
    return Policy(model, Texts.own(tokenizer), products(settings.dtype), packs=packs(model))


def save_policy(policy: Policy, folder: Path) -> None:
    """Write the weights as safetensors, the configuration and the tokenizer: a Hugging Face folder.

    Adapters are merged into the weights they stand beside; the policy in memory is spent by that.
    """
    model = policy.model.merge_and_unload() if policy.adapted else policy.model
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapters alone, as peft reads them."""
    policy.model.save_pretrained(folder, save_embedding_layers=False)


def keep_policy(policy: Policy, folder: Path) -> None:
    """Write what training changed, whole or not at all: adapters, or all weights with the tokenizer."""
    _tidy(folder)
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        (save_adapter if policy.adapted else save_policy)(policy, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        _tidy(folder)


def drop_policy(folder: Path) -> None:
    """Remove what `keep_policy` wrote, so that half of it is never found under its name."""
    with suppress(OSError):  # another process was first
        folder.replace(folder.with_name(f".{folder.name}-{os.getpid()}"))
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove what was half written or half removed by processes that were killed."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def put_back(policy: Policy, folder: Path) -> None:
    """The weights that `keep_policy` wrote, into a policy of the same making."""
    if policy.adapted:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(policy.model, load_file(folder / "adapter_model.safetensors"))
        return
    kept = type(policy.model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    reset(trained(policy), dict(kept.named_parameters()))


def export_policy(policy: Policy, folder: Path, merged: bool) -> None:
    """Write a policy for other programs: one model with its tokenizer, or the adapters beside a tokenizer."""
    if merged:
        save_policy(policy, folder)
    else:
        save_adapter(policy, folder)
        policy.tokenizer.save_pretrained(folder)


def trained(policy: Policy) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name; not copied."""
    return {name: value for name, value in policy.model.named_parameters() if value.requires_grad}


def new_reward_model(policy: Policy, seed: int) -> Policy:
    """The policy's body with a scalar head drawn from `seed` in place of its vocabulary; adapters are not in it."""
    config = type(policy.model.config).from_dict({**policy.model.config.to_dict(), "num_labels": 1})
    config.pad_token_id = policy.pad
    with seeded(seed):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(_body(policy))
    lighten(model)
    # the model's own question has a name that transformers 5 warns of, and another in earlier ones
    if any(getattr(module, "gradient_checkpointing", False) for module in policy.model.modules()):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model.to(policy.device), policy.texts, policy.autocast)


def load_reward_model(folder: Path, policy: Policy) -> Policy:
    """Read a reward model that was made from a policy; it reads texts and computes as the policy does."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    lighten(model)
    return Policy(model.to(policy.device).eval(), policy.texts, policy.autocast)


def _body(policy: Policy) -> Mapping[str, Any]:
    """The weights below the vocabulary as they were before adapters were put beside them."""
    whole = policy.model.get_base_model() if policy.adapted else policy.model
    weights = whole.base_model.state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
