"""The SFT policy: what every trial starts from, what the reference is, what responses are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from posweep.data import Preferences
from posweep.policy.base import Policy
from posweep.policy.batch import Losses, PerItem, batches
from posweep.policy.load import save_policy
from posweep.policy.packed import Ragged
from posweep.policy.pretrained import folder_of, open_pretrained
from posweep.policy.score import lay_out, sequence_logps
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.policy.train import optimise
from posweep.records import prompt_text
from posweep.settings import Configuration, HubModel, TrainSettings, steps_of


def make_sft(configuration: Configuration, data: Preferences, folder: Path, device: str) -> None:
    """Train the start checkpoint on prompts with responses to imitate, and write it with its tokenizer.

    −log π(y|x) / |y|, averaged over the sequences of a batch: NLL per token, each response of equal weight.
    """
    policy, limits = _start(configuration, data, device), configuration.data
    prompts = Ragged.of(policy.texts.prompts([e.prompt for e in data.sft], limits.max_prompt_tokens).rows)
    responses = Ragged.of(policy.texts.responses([e.response for e in data.sft], limits.max_response_tokens).rows)

    def loss(items: np.ndarray) -> Losses:
        batch = lay_out(policy, prompts.take(items), responses.take(items))
        return Losses(-sequence_logps(policy, batch) / batch.lengths, {})

    sft = configuration.model.sft
    lengths = prompts.lengths + responses.lengths
    loop = TrainSettings(
        learning_rate=sft.learning_rate, warmup_ratio=sft.warmup_ratio, schedule="cosine",
        micro_batch_size=_micro_batch(configuration),
    )  # fmt: skip
    size = min(sft.batch_size, len(lengths))
    plan = batches(lengths, size, _steps(configuration, len(lengths), size), seed=sft.seed)
    policy.model.train()
    optimise(policy.model, plan, PerItem(loss), loop)
    save_policy(policy, folder)


def is_given(configuration: Configuration) -> bool:
    """Whether the model is the SFT policy as it comes, so that nothing has to be trained or written."""
    return isinstance(configuration.model, HubModel) and configuration.model.sft.epochs == 0


def _start(configuration: Configuration, data: Preferences, device: str) -> Policy:
    """A model by its name, or a new one with a tokenizer made from the training texts."""
    settings = configuration.model
    if isinstance(settings, HubModel):
        return open_pretrained(settings, folder_of(settings), device)
    fresh = new_policy(settings, make_tokenizer(settings, _texts(data)))
    return replace(fresh, model=fresh.model.to(device))


def _steps(configuration: Configuration, examples: int, batch_size: int) -> int:
    model = configuration.model
    if isinstance(model, HubModel):
        return steps_of(examples, batch_size, model.sft.epochs)
    return model.sft.steps


def _micro_batch(configuration: Configuration) -> int | None:
    """What fits in a trial fits here: a pair is two sequences."""
    pairs = configuration.train.micro_batch_size
    return 2 * pairs if pairs and isinstance(configuration.model, HubModel) else None


def _texts(data: Preferences) -> Iterable[str]:
    """Every training text: what the tokenizer may know."""
    for example in data.sft:
        yield from (prompt_text(example.prompt), example.response)
    for pair in data.train:
        yield from (prompt_text(pair.prompt), pair.chosen, pair.rejected)
