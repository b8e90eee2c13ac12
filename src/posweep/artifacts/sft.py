"""The SFT policy: what every trial starts from, what the reference is, what responses are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from posweep.data import Preferences
from posweep.policy.load import Policy, encode_prompts, encode_responses, make_tokenizer, new_policy, save_policy
from posweep.policy.score import collate, sequence_logps
from posweep.policy.train import Losses, PerItem, batches, optimise
from posweep.settings import Configuration, TrainSettings


def make_sft(configuration: Configuration, data: Preferences, folder: Path, device: str) -> None:
    """Train the start checkpoint on prompts with responses to imitate, and write it with its tokenizer.

    −log π(y|x) / |y|, averaged over the sequences of a batch: NLL per token, each response of equal weight.
    """
    settings = configuration.model
    tokenizer = make_tokenizer(settings, _texts(data))
    fresh = new_policy(settings, tokenizer)
    policy = Policy(fresh.model.to(device), tokenizer)
    prompts = encode_prompts(tokenizer, [e.prompt for e in data.sft], configuration.data.max_prompt_tokens)
    responses = encode_responses(tokenizer, [e.response for e in data.sft], configuration.data.max_response_tokens)

    def loss(items: np.ndarray) -> Losses:
        batch = collate([prompts[i] for i in items], [responses[i] for i in items], policy.pad, policy.device)
        return Losses(-sequence_logps(policy, batch) / batch.lengths, {})

    sft = settings.sft
    lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)])
    loop = TrainSettings(learning_rate=sft.learning_rate, warmup_ratio=sft.warmup_ratio, schedule="cosine")
    plan = batches(lengths, min(sft.batch_size, len(lengths)), sft.steps, seed=sft.seed)
    optimise(policy.model, plan, PerItem(loss), loop)
    save_policy(policy, folder)


def _texts(data: Preferences) -> Iterable[str]:
    """Every training text: what the tokenizer may know."""
    for example in data.sft:
        yield from (example.prompt, example.response)
    for pair in data.train:
        yield from (pair.prompt, pair.chosen, pair.rejected)
