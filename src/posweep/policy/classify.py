"""Sequence classifiers by their name, for judges: checked without their weights, opened, and run in batches.

A text's outputs are those of the model alone with it, but for rounding, whatever else is in the batch. Padding is on the
right and masked. Decoders read their outputs off the last token that is not the padding token, so padding is the model's own
token (then that place is the same with and without padding), or where it has none, a token that no text of the batch holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from posweep import hub
from posweep.errors import NotFinite, PreflightError, first_line
from posweep.policy.base import DTYPES, bfloat16_problems, own_code
from posweep.policy.fit import Form, Row
from posweep.policy.operations import lighten
from posweep.policy.vocabulary import (
    beyond_problems,
    damage_problems,
    embedding_size,
    stored_embedding_problems,
    tokens_beyond,
    unread_problems,
)
from posweep.records import Message
from posweep.settings import PairwiseModelSettings, RewardModelSettings

Settings = RewardModelSettings | PairwiseModelSettings

PAIR_RM = "DebertaV2PairRM"
"""The architecture of PairRM, which transformers does not know."""
SHIFTED = (
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Models that count positions from the padding token's number on, so that the first ones are never used."""
UNLIMITED = 10**9
"""Tokenizers write a number above this where they know of no limit."""


@dataclass(frozen=True)
class Classifier:
    """A model that reads texts and gives each a few numbers.

    Attributes:
        limit: tokens it reads; None where nothing limits it.
        batch_size: texts at once.
    """

    model: Any
    tokenizer: Any
    limit: int | None
    batch_size: int

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.model.parameters()).device

    def logits(self, rows: Sequence[Row]) -> np.ndarray:
        """The model's outputs, (rows, outputs), float64; like rows are read once, rows of like length together.

        Raises:
            NotFinite: an output is no finite number.
        """
        order = sorted(dict.fromkeys(rows), key=lambda row: -len(row.ids))
        # encoder-decoders read their output off end tokens, and ask that every text of a batch has as many
        size = 1 if self.model.config.is_encoder_decoder else self.batch_size
        found: dict[Row, np.ndarray] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            found.update(zip(batch, self._outputs(batch), strict=True))
        outputs = np.array([found[row] for row in rows]).reshape(len(rows), self.model.config.num_labels)
        if not np.isfinite(outputs).all():
            said = f"{type(self.model).__name__}: an output is not a finite number; set the judge's dtype=float32."
            raise NotFinite("output of the judge", said)
        return outputs

    def _outputs(self, rows: Sequence[Row]) -> np.ndarray:
        """The outputs of rows that share a batch."""
        config = self.model.config.get_text_config()
        pad = padding(rows, config.pad_token_id, int(self.model.get_input_embeddings().weight.shape[0]))
        if pad is None and len(rows) > 1:
            return np.concatenate([self._outputs([row]) for row in rows])
        own, config.pad_token_id = config.pad_token_id, pad
        try:
            with torch.inference_mode():
                found = self.model(**self._inputs(rows, pad or 0)).logits
        finally:
            config.pad_token_id = own
        return np.asarray(found.double().cpu().numpy().reshape(len(rows), -1))

    def _inputs(self, rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
        longest = max(len(row.ids) for row in rows)
        columns = {
            "input_ids": [[*row.ids, *[pad] * (longest - len(row.ids))] for row in rows],
            "attention_mask": [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows],
        }
        if rows[0].types and getattr(self.model.config, "type_vocab_size", 0) > 1:
            columns["token_type_ids"] = [[*row.types, *[0] * (longest - len(row.types))] for row in rows]
        return {name: torch.tensor(column, device=self.device) for name, column in columns.items()}


def padding(rows: Sequence[Row], own: int | None, vocabulary: int) -> int | None:
    """The model's own padding token; where it has none, the first that no row holds, or None where all are held."""
    if own is not None and 0 <= own < vocabulary:
        return own
    held = {token for row in rows for token in row.ids}
    return next((token for token in range(vocabulary) if token not in held), None)


class Found(NamedTuple):
    """What is known of a model without its weights."""

    folder: Path
    config: Any
    tokenizer: Any


Checks = Callable[[Found], list[str]]


def look(settings: Settings, folder: Path, place: str) -> Found:
    """The configuration and the tokenizer that lie in a model's folder.

    Raises:
        PreflightError: they cannot be read.
    """
    options = {"local_files_only": True, "trust_remote_code": settings.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        return Found(folder, config, AutoTokenizer.from_pretrained(folder, **options))
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        way_out = own_code(error, place, "name a sequence classifier with its tokenizer.")
        raise PreflightError(
            f"{place}.name: {settings.name} cannot be opened ({first_line(error)}); {way_out}"
        ) from None


def problems_of(settings: Settings, checks: Checks, place: str) -> list[str]:
    """What stands in the way of a judge; a sentence each. Weights are fetched last, and not loaded.

    Args:
        checks: sentences for what is wrong with a model, seen without its weights.
    """
    if missing := hub.missing(settings, place):
        return missing
    try:
        bad = checks(look(settings, hub.fetch(settings, "model", place, hub.SMALL), place))
        return bad or _weight_problems(settings, look(settings, hub.fetch(settings, "model", place), place), place)
    except PreflightError as error:
        return list(error.problems)


def open_classifier(settings: Settings, checks: Checks, device: str, place: str) -> Classifier:
    """The model that the settings name, ready to read on `device`; nothing pickled is run.

    Raises:
        PreflightError: the checks or the weights say no, or the device has no bfloat16.
    """
    found = look(settings, hub.folder(settings, "model", place), place)
    bad = checks(found) or _weight_problems(settings, found, place)
    if bad := bad or bfloat16_problems(settings.dtype, device, place):
        raise PreflightError(bad)
    model, report = _class(found.config).from_pretrained(
        found.folder, local_files_only=True, weights_only=True, trust_remote_code=settings.trust_remote_code,
        dtype=DTYPES[settings.dtype], output_loading_info=True,
    )  # fmt: skip
    if lost := sorted(report["missing_keys"]):
        raise PreflightError(
            f"{place}.name: {settings.name} has no weights for {', '.join(lost[:3])}; name a trained judge."
        )
    model.config.use_cache = False
    lighten(model)
    return Classifier(model.to(device).eval(), found.tokenizer, _limit(settings, found), settings.batch_size)


# --- checking


def model_problems(settings: Settings, config: Any, outputs: tuple[int, ...], place: str) -> list[str]:
    """A model that is no sequence classifier, or has another number of outputs than a judge reads; a sentence."""
    if not _classifies(settings, config):
        return [
            f"{place}.name: {settings.name} is a {_architecture(config)}, no sequence classifier; name one whose "
            "architecture in config.json ends with ForSequenceClassification."
        ]
    if is_pair_rm(config) or config.num_labels in outputs:
        return []
    allowed = " or ".join({1: "one", 2: "two"}[count] for count in outputs)
    return [
        f"{place}.name: {settings.name} has {config.num_labels} outputs, and this judge reads {allowed}; name a model with "
        f"{allowed}."
    ]


def length_problems(settings: Settings, found: Found, form: Form, responses: int, place: str) -> list[str]:
    """A limit beyond what the model reads, or too low for what the form writes around texts; a sentence."""
    context, limit = _context(found.config), _limit(settings, found)
    if settings.max_tokens and context and settings.max_tokens > context:
        return [
            f"{place}.max_tokens: {settings.max_tokens} tokens, but {settings.name} reads {context}; "
            f"set it to {context} or less, or null for all it reads."
        ]
    try:
        around = len(form(found.tokenizer, (Message("user", ""),), [""] * responses).ids)
    except PreflightError as error:
        return list(error.problems)
    if limit is None or around < limit:
        return []
    return [
        f"{place}.max_tokens: {limit} tokens, and the template alone takes {around}; set it well above, or name a model "
        "that reads more."
    ]


def vocabulary_problems(settings: Settings, found: Found, read: Callable[[str], Row], place: str) -> list[str]:
    """A sentence where texts can come to tokens that the model has no embedding for.

    Args:
        read: a text in tokens, with all that is written around it.
    """
    size = embedding_size(found.config)
    if size is None:
        return []
    if unread := unread_problems(found.tokenizer, settings.name, place):
        return unread
    beyond = tokens_beyond(found.tokenizer, size, lambda text: read(text).ids)
    return beyond_problems(settings.name, size, beyond, {}, place)


def _weight_problems(settings: Settings, found: Found, place: str) -> list[str]:
    """Weights that are not all there, or not those that the configuration tells of; a sentence each."""
    lacking = hub.weight_problems(settings, found.folder, place)
    lacking = lacking or damage_problems(settings.name, found.folder, place)
    return lacking or stored_embedding_problems(settings.name, found.config, found.folder, place)


def is_pair_rm(config: Any) -> bool:
    """Whether a configuration is PairRM's."""
    return _architecture(config) == PAIR_RM


def _class(config: Any) -> Any:
    if not is_pair_rm(config):
        return AutoModelForSequenceClassification
    from posweep.policy.pairrm import PairRM

    return PairRM


def _classifies(settings: Settings, config: Any) -> bool:
    own_code = settings.trust_remote_code and AutoModelForSequenceClassification.__name__ in (
        getattr(config, "auto_map", None) or {}
    )
    pairwise = isinstance(settings, PairwiseModelSettings) and is_pair_rm(config)
    return own_code or pairwise or _architecture(config).endswith("ForSequenceClassification")


def _architecture(config: Any) -> str:
    return (config.architectures or ["model without a named architecture"])[0]


def _context(config: Any) -> int | None:
    """Tokens a model can read; None where positions are relative and nothing limits it."""
    text = config.get_text_config()
    if getattr(text, "relative_attention", False) and not getattr(text, "position_biased_input", True):
        return None
    positions = getattr(text, "max_position_embeddings", None)
    unused = (text.pad_token_id or 0) + 1 if config.model_type in SHIFTED else 0
    return positions - unused if positions else None


def _limit(settings: Settings, found: Found) -> int | None:
    """Tokens that are read: as set, else all that model and tokenizer were made for."""
    if settings.max_tokens:
        return settings.max_tokens
    if is_pair_rm(found.config):
        from posweep.policy.pairrm import CONTEXT

        return CONTEXT
    trained = _context(found.config) or getattr(found.config.get_text_config(), "max_position_embeddings", None)
    known = [one for one in (trained, found.tokenizer.model_max_length) if one and one < UNLIMITED]
    return min(known, default=None)
