"""LoRA's adapters: which layers of a model they stand beside, and how they are put there (peft)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from posweep.errors import first_line
from posweep.policy.reproducible import seeded
from posweep.settings import HubModel

ALL_LINEAR = "all-linear"
ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
"""Layers that peft has an adapter for; Conv1D is the linear layer of GPT-2, whose weight is (inputs, outputs)."""


def with_adapters(model: Any, settings: HubModel, base: str) -> Any:
    """Low-rank adapters beside layers of a model; the second factor starts at 0, so that at first nothing changes.

    Args:
        base: what the adapters say they belong to, once they are written.
    """
    from peft import LoraConfig, get_peft_model

    beside = _adapted_layers(model, settings)
    config = LoraConfig(
        r=settings.lora.rank, lora_alpha=settings.lora.alpha, lora_dropout=0.0, target_modules=_target_modules(settings),
        fan_in_fan_out=bool(beside) and all(isinstance(layer, Conv1D) for layer in beside.values()),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with seeded(settings.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft, about transformers to come
        warnings.filterwarnings("ignore", message="fan_in_fan_out", category=UserWarning)  # it is set layer by layer
        adapted = get_peft_model(model, config)
    config.base_model_name_or_path = base
    return adapted


def target_problems(model: Any, settings: HubModel, place: str) -> list[str]:
    """Layers that the settings name and that are not there, or that no adapter can stand beside; a sentence each.

    Args:
        model: without weights; spent by this.
    """
    subject, targets = f"{place}.lora.targets", settings.lora.targets
    asked = [targets] if isinstance(targets, str) else list(targets)
    if not asked or (ALL_LINEAR in asked and len(asked) > 1):
        return [f"{subject}: must be [{ALL_LINEAR}], or name layers one by one, got {asked}; name layers."]
    layers = dict(model.named_modules())
    candidates = sorted({name.rpartition(".")[2] for name, layer in layers.items() if isinstance(layer, ADAPTABLE[:3])})
    there = f"there are {', '.join(candidates)} (or {ALL_LINEAR})"
    try:
        missing = [
            name for name in asked if name != ALL_LINEAR and not _matching(layers, name, isinstance(targets, str))
        ]
    except ValueError as error:
        return [f"{subject}: {targets!r} is no pattern ({first_line(error)}); {there}."]
    if missing:
        kind = "layers whose whole name fits" if isinstance(targets, str) else "layers called"
        return [f"{subject}: {settings.name} has no {kind} {', '.join(missing)}; {there}."]
    beside = _adapted_layers(model, settings)
    if unfit := [name for name, layer in beside.items() if not isinstance(layer, ADAPTABLE)]:
        kinds = f"{unfit[0]} of {settings.name} is {type(beside[unfit[0]]).__name__}"
        return [f"{subject}: {kinds}, which LoRA has no adapter for; {there}."]
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    shared = [name for name, layer in beside.items() if any(layer is table for table in embeddings)]
    if shared and model.config.get_text_config().tie_word_embeddings:
        other = "its input embedding too" if layers[shared[0]] is embeddings[1] else "its output layer too"
        return [
            f"{subject}: {shared[0]} of {settings.name} is {other}, so that an adapter on it cannot be merged; leave it out."
        ]
    try:
        with_adapters(model, settings, "")
    except (ValueError, TypeError, NotImplementedError) as error:
        return [f"{subject}: no adapters for {', '.join(asked)} of {settings.name} ({first_line(error)}); {there}."]
    return []


def _target_modules(settings: HubModel) -> list[str] | str:
    """The targets as peft reads them: a text is a pattern of whole names."""
    targets = settings.lora.targets
    return targets if isinstance(targets, str) else ALL_LINEAR if targets == (ALL_LINEAR,) else list(targets)


def _adapted_layers(model: Any, settings: HubModel) -> dict[str, nn.Module]:
    """The layers that adapters stand beside, by their names."""
    layers, targets = dict(model.named_modules()), _target_modules(settings)
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings()
        return {name: m for name, m in layers.items() if isinstance(m, ADAPTABLE[:2]) and m is not head}
    names = [targets] if isinstance(targets, str) else targets
    return {k: v for name in names for k, v in _matching(layers, name, isinstance(targets, str)).items()}


def _matching(layers: Mapping[str, nn.Module], target: str, is_pattern: bool) -> dict[str, nn.Module]:
    """The layers that a target means: those whose name ends with it, or fits it as a pattern.

    Raises:
        ValueError: it is no pattern.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(target_modules=target if is_pattern else [target])
    try:
        return {name: layer for name, layer in layers.items() if name and check_target_module_exists(config, name)}
    except Exception as error:  # of `re`, or of what peft takes for it
        raise ValueError(first_line(error)) from None
