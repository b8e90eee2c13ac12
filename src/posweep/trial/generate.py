"""Responses of a trial's policy to every evaluation prompt, with their KL to the SFT model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from posweep.artifacts.shared import Shared
from posweep.policy.divergence import kl_all
from posweep.policy.reproducible import stream
from posweep.policy.sample import Sampled, sample
from posweep.policy.score import SCORED
from posweep.records import Response, TrialSpec, prompt_text

Stage = Callable[[str], AbstractContextManager[None]]


def draw(
    spec: TrialSpec, shared: Shared, name: str, temperature: float, top_p: float, groups: int = 1
) -> list[Sampled]:
    """Responses to the prompts of every set, all sets in the same batches, by the noise called `name`.

    Args:
        groups: of how many policies of trials of one seed the policy is a stack; the responses of each follow one another.
    """
    settings = shared.configuration.sample
    streams = (stream(name, settings.seed, spec.seed, one.name) for one in shared.evaluation)
    counts = (len(one.pairs) for one in shared.evaluation)
    noise = [rng.random((count, settings.max_new_tokens)) for rng, count in zip(streams, counts, strict=True)]
    return sample(
        shared.policy, _prompts(shared), np.tile(np.concatenate(noise), (groups, 1)), temperature=temperature,
        top_p=top_p, batch_size=settings.batch_size, groups=groups,
    )  # fmt: skip


Draw = Callable[[TrialSpec, Shared, str, float, float], list[Sampled]]
"""Draws a trial's responses, as `draw` does."""


def generate(spec: TrialSpec, shared: Shared, stage: Stage, draw: Draw = draw) -> list[Response]:
    """One response per prompt of every set; trials of one seed share the noise, the SFT baseline has its own."""
    settings = shared.configuration.sample
    drawn = draw(spec, shared, "trial", settings.temperature, settings.top_p)
    plain = settings.temperature == 1 and settings.top_p == 1
    # KL is of the policy itself: where judged responses are drawn otherwise, it has samples of its own
    for_kl = drawn if plain else draw(spec, shared, "kl", 1.0, 1.0)
    with stage("kl"):
        kl = kl_all(
            shared.policy, shared.reference, _prompts(shared), [one.tokens for one in for_kl],
            min(SCORED, settings.batch_size),
        )  # fmt: skip
    texts = shared.policy.texts.decode([one.tokens for one in drawn])
    asked = [(one.name, i, prompt) for one in shared.evaluation for i, prompt in enumerate(one.prompts)]
    return [
        Response(
            set=name, index=i, prompt=prompt_text(prompt), text=text, length=len(one.tokens), truncated=one.truncated,
            kl=nats, kl_length=len(other.tokens),
        )
        for (name, i, prompt), text, one, other, nats in zip(asked, texts, drawn, for_kl, kl.tolist(), strict=True)
    ]  # fmt: skip


def _prompts(shared: Shared) -> list[list[int]]:
    """The prompts of every set in tokens."""
    return [prompt for one in shared.evaluation for prompt in one.pairs.prompts]
