"""How large a model is, as its settings say or its files on this machine: without asking the network, and without torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.settings import HubModel, LoraSettings, ModelSettings, ModelSize, ScratchModel

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of a number, by its type."""


GPT2_NAMES = {
    "n_layer": "num_hidden_layers", "n_embd": "hidden_size", "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}  # fmt: skip
"""What configuration files of GPT-2 and its like call their sizes."""


@dataclass(frozen=True)
class Shape:
    """A model's size with nothing unknown; see `settings.ModelSize`."""

    parameters: int
    layers: int
    hidden_size: int
    key_value_size: int
    vocabulary: int

    @property
    def feed_forward(self) -> float:
        """Width f of a block's feed-forward part, from the parameters that its other parts leave.

        A Llama block has 2 h² + 2 h k of attention, 3 h f and 2 h of norms; V h are the embeddings, h the last norm. It is
        exact where input and output share their embeddings, and V / 3 L too large where they do not. A mixture of experts,
        where f is that of all of them, counts as 8 h: it runs few at once.
        """
        h = self.hidden_size
        block = (self.parameters - (self.vocabulary + 1) * h) / self.layers
        left = block - 2 * h * h - 2 * h * self.key_value_size - 2 * h
        return min(max(left / (3 * h), 0.0), 8.0 * h)


def adapter_parameters(shape: Shape, lora: LoraSettings) -> int:
    """Parameters of LoRA: rank × (inputs + outputs) of every linear layer it stands beside, in all blocks.

    Projections that a model holds fused, as Phi-3 and GPT-2 do, take less; names that are none of Llama's, and patterns,
    count as all of them. A name that says which block it is of counts in every block.
    """
    h, k, f = shape.hidden_size, shape.key_value_size, shape.feed_forward
    widths: dict[str, float] = {"q_proj": 2 * h, "k_proj": h + k, "v_proj": h + k, "o_proj": 2 * h}
    widths |= {"gate_proj": h + f, "up_proj": h + f, "down_proj": h + f}
    asked = [lora.targets] if isinstance(lora.targets, str) else [name.rpartition(".")[2] for name in lora.targets]
    named = set(asked) if set(asked) <= set(widths) else set(widths)
    return round(lora.rank * shape.layers * sum(widths[name] for name in named))


def size_of(model: ModelSettings) -> ModelSize:
    """What a model measures: as its settings say, else as its files do where this machine has them.

    Of a model from scratch everything is known; a vocabulary of words may turn out smaller than it may be.
    """
    if isinstance(model, ScratchModel):
        return _size_from_scratch(model)
    given = {name: value for name, value in vars(model.size).items() if value is not None}
    if len(given) == len(fields(ModelSize)):
        return model.size
    return ModelSize(**{**_read_size(model), **given})


def shape_of(model: ModelSettings) -> Shape | None:
    """What memory is estimated from; None where some of it is not known."""
    size = size_of(model)
    return None if lacking(size) else Shape(**{field.name: int(getattr(size, field.name)) for field in fields(Shape)})


def lacking(size: ModelSize) -> list[str]:
    """What an estimate of memory needs and the size does not say."""
    return [field.name for field in fields(Shape) if getattr(size, field.name) is None]


def _size_from_scratch(model: ScratchModel) -> ModelSize:
    """A Llama whose input and output share their embeddings: V h + L (4 h² + 3 h f + 2 h) + h parameters."""
    h, wide = model.hidden_size, 8 * round(model.hidden_size * 8 / 3 / 8)
    block = 4 * h * h + 3 * h * wide + 2 * h
    parameters = (model.vocabulary_size + 1) * h + model.layers * block
    return ModelSize(parameters, model.layers, h, h, model.vocabulary_size, model.context)


def _read_size(model: HubModel) -> dict[str, Any]:
    """The size in a model's configuration file; nothing where that is not at hand."""
    config = _json(hub.file_at_hand(model, "config.json"))
    config |= {name: config[old] for old, name in GPT2_NAMES.items() if old in config and name not in config}
    layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    heads = config.get("num_attention_heads")
    if not (layers and hidden and heads):
        return {}
    head = config.get("head_dim") or hidden // heads
    return {
        "parameters": stored_parameters(model) or _parameters_of(config, head), "layers": layers, "hidden_size": hidden,
        "key_value_size": (config.get("num_key_value_heads") or heads) * head, "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings"),
    }  # fmt: skip


def _parameters_of(config: Mapping[str, Any], head: int) -> int | None:
    """Parameters that a configuration file tells of, norms and biases left out: under a thousandth of them."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if not all(config.get(name) for name in names):
        return None
    h, layers, heads, wide, vocabulary = (int(config[name]) for name in names)
    attention = 2 * h * head * (heads + (config.get("num_key_value_heads") or heads))
    matrices = 2 if config.get("model_type") == "gpt_neox" else 3
    tables = 1 if config.get("tie_word_embeddings") else 2
    return tables * vocabulary * h + layers * (attention + matrices * h * wide)


def stored_parameters(named: Any) -> int | None:
    """Parameters in the weight files of a model that has a name, if this machine has them."""
    index = _json(hub.file_at_hand(named, "model.safetensors.index.json")).get("metadata") or {}
    if index.get("total_parameters"):
        return int(index["total_parameters"])
    if index.get("total_size"):
        config = _json(hub.file_at_hand(named, "config.json"))
        kind = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
        return int(index["total_size"]) // BYTES.get(kind, 2)
    file = hub.file_at_hand(named, "model.safetensors")
    return _parameters_in(file) if file else None


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a folder's safetensors files, by its name; of files that are there and can be read."""
    index = _json(folder / "model.safetensors.index.json").get("weight_map") or {}
    files = sorted(set(index.values())) if isinstance(index, dict) else []
    read = (_shapes_in(folder / file) for file in files or ["model.safetensors"])
    return {name: shape for shapes in read for name, shape in (shapes or {}).items()}


def is_whole(file: Path) -> bool:
    """Whether a safetensors file has the length that its header says."""
    header = _header_of(file)
    ends = [tensor["data_offsets"][1] for name, tensor in (header or {}).items() if name != "__metadata__"]
    if header is None:
        return False
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
    return file.stat().st_size == 8 + length + max(ends, default=0)


def _parameters_in(file: Path) -> int | None:
    """Numbers in a safetensors file."""
    shapes = _shapes_in(file)
    return None if shapes is None else sum(math.prod(shape) for shape in shapes.values())


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes in a safetensors file; None where it cannot be read."""
    header = _header_of(file)
    return None if header is None else {n: tuple(t["shape"]) for n, t in header.items() if n != "__metadata__"}


def _header_of(file: Path) -> dict[str, Any] | None:
    """What a safetensors file says of its tensors: the length of that in 8 bytes, then JSON; None where it says nothing."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        whole = all(
            {"shape", "data_offsets"} <= set(tensor) for name, tensor in header.items() if name != "__metadata__"
        )
    except (OSError, ValueError, TypeError, AttributeError, struct.error):
        return None
    return header if whole else None


def _json(file: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
