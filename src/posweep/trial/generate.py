"""Responses of a trial's policy to every evaluation prompt, with their KL to the SFT model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from posweep.artifacts.shared import EvaluationSet, Shared
from posweep.policy.divergence import kl_all
from posweep.policy.reproducible import stream
from posweep.policy.sample import Sampled, sample
from posweep.policy.score import SCORED
from posweep.records import Response, TrialSpec, prompt_text

Stage = Callable[[str], AbstractContextManager[None]]


def generate(spec: TrialSpec, shared: Shared, stage: Stage) -> list[Response]:
    """One response per prompt of every set; trials of one seed share the noise, the SFT baseline has its own."""
    return [response for one in shared.evaluation for response in _respond(spec, shared, one, stage)]


def _respond(spec: TrialSpec, shared: Shared, evaluation: EvaluationSet, stage: Stage) -> list[Response]:
    settings = shared.configuration.sample
    drawn = _draw(spec, shared, evaluation, "trial", settings.temperature, settings.top_p)
    plain = settings.temperature == 1 and settings.top_p == 1
    # KL is of the policy itself: where judged responses are drawn otherwise, it has samples of its own
    for_kl = drawn if plain else _draw(spec, shared, evaluation, "kl", 1.0, 1.0)
    with stage("kl"):
        kl = kl_all(
            shared.policy, shared.reference, evaluation.pairs.prompts, [one.tokens for one in for_kl],
            min(SCORED, settings.batch_size),
        )  # fmt: skip
    texts = shared.policy.texts.decode([one.tokens for one in drawn])
    return [
        Response(
            set=evaluation.name, index=i, prompt=prompt_text(prompt), text=text, length=len(one.tokens),
            truncated=one.truncated, kl=float(kl[i]), kl_length=len(for_kl[i].tokens),
        )
        for i, (prompt, text, one) in enumerate(zip(evaluation.prompts, texts, drawn, strict=True))
    ]  # fmt: skip


def _draw(
    spec: TrialSpec, shared: Shared, evaluation: EvaluationSet, name: str, temperature: float, top_p: float
) -> list[Sampled]:
    settings, prompts = shared.configuration.sample, evaluation.pairs.prompts
    noise = stream(name, settings.seed, spec.seed, evaluation.name).random((len(prompts), settings.max_new_tokens))
    return sample(shared.policy, prompts, noise, temperature=temperature, top_p=top_p, batch_size=settings.batch_size)
