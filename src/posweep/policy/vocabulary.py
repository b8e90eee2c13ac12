"""Tokens that a tokenizer writes and a model has no embedding for: found before anything is run.

A row that is not there is an IndexError on a CPU; on a GPU it ends the process. A tokenizer comes to such tokens when some
were added and the model's embedding was not resized, or when it is that of another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from posweep.size import is_whole, tensor_shapes

INPUT_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared", "tok_emb")
"""How weight files call the table that tokens are looked up in."""
NAMELESS = "a token without a name"
SMALLEST = 512
"""Bytes that any pickle of tensors has; a pointer of Git LFS has fewer."""
NAMED = 5
"""Tokens that a sentence names; the others are counted."""


def embedding_size(config: Any) -> int | None:
    """Tokens that a model has an embedding for, as its configuration says; None where it does not."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def tokens_beyond(tokenizer: Any, size: int, read: Callable[[str], Iterable[int]]) -> dict[int, str]:
    """Tokens from number `size` on that texts can come to, by their number.

    A special token that a text spells is mostly read as text; whether it is, is asked of `read`.

    Args:
        read: a text in tokens, with all that the model's form writes around it.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= size}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    spelled = " ".join(token for number, token in sorted(beyond.items()) if number in special)
    written = {number for number in read(f"? {spelled}".strip()) if number >= size}
    names = {number: beyond.get(number, NAMELESS) for number in written}
    return dict(sorted({**{n: token for n, token in beyond.items() if n not in special}, **names}.items()))


def beyond_problems(
    name: str, size: int, beyond: Mapping[int, str], roles: Mapping[int, str], place: str, *, hints: Iterable[str] = ()
) -> list[str]:
    """One sentence for all tokens that have no embedding.

    Args:
        name: of the model.
        size: tokens that have one.
        beyond: tokens that have none and occur, by their number.
        roles: what such tokens are for, by their number, such as `padding`.
        place: the settings' own, such as `model`.
        hints: further ways out.
    """
    if not beyond:
        return []
    shown = [
        f"{token if token == NAMELESS else repr(token)} ({number}{', ' + roles[number] if number in roles else ''})"
        for number, token in sorted(beyond.items(), key=lambda item: (item[0] not in roles, item[0]))
    ]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    ways = [
        *hints,
        f"resize the embedding to {max(beyond) + 1} or more and save the model",
        "remove them from the tokenizer",
    ]
    return [
        f"{place}.name: {name} has an embedding for {size} tokens (0 to {size - 1}), and its tokenizer writes tokens beyond "
        f"it: {', '.join(shown[:NAMED])}{more}; {', or '.join(ways)}."
    ]


def unread_problems(tokenizer: Any, name: str, place: str) -> list[str]:
    """A tokenizer that makes no tokens of a text, as one does whose vocabulary is not there; a sentence."""
    if tokenizer("a b", add_special_tokens=False)["input_ids"]:
        return []
    return [
        f"{place}.name: the tokenizer of {name} makes no tokens of a text; it needs its vocabulary (tokenizer.json, or the "
        "files its class reads), so add it to the folder, or name another model."
    ]


def damage_problems(name: str, folder: Path, place: str) -> list[str]:
    """Weight files that are cut short or are something else, such as a pointer of Git LFS; a sentence."""
    damaged = [file.name for file in sorted(folder.glob("*.safetensors")) if not is_whole(file)]
    if not any(folder.glob("*.safetensors")):
        damaged = [file.name for file in sorted(folder.glob("pytorch_model*.bin")) if file.stat().st_size < SMALLEST]
    return (
        [f"{place}.name: {', '.join(damaged)} of {name} is cut short or no weights; fetch it again."] if damaged else []
    )


def stored_embedding_problems(name: str, config: Any, folder: Path, place: str) -> list[str]:
    """A sentence where the weight files hold another number of embeddings than the configuration says."""
    said, stored = embedding_size(config), _stored_embedding_size(folder)
    if said is None or stored is None or said == stored:
        return []
    return [
        f"{place}.name: config.json of {name} says vocab_size {said}, but its weights hold an embedding for {stored} "
        f"tokens; write {stored} there if the weights are right, or save the model again."
    ]


def _stored_embedding_size(folder: Path) -> int | None:
    """Rows of the input embedding in a folder's weight files, whose numbers are not read; None where they do not say."""
    shapes = tensor_shapes(folder)
    if not shapes and (pickled := folder / "pytorch_model.bin").is_file():
        try:
            tensors = torch.load(pickled, map_location="meta", weights_only=True, mmap=True)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        except Exception:  # of whatever origin: opening the model will say it
            return None
    for name, shape in shapes.items():
        owner, _, last = name.rpartition(".")
        if last == "weight" and owner.rpartition(".")[2] in INPUT_EMBEDDINGS and len(shape) == 2:
            return shape[0]
    return None
