"""Scores and wins of a trial's responses, by every judge; the first one is the primary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from posweep.artifacts.shared import EvaluationSet, Shared
from posweep.judges import wins
from posweep.records import Response


def judge(responses: Sequence[Response], shared: Shared) -> tuple[Response, ...]:
    """The responses with a score by each judge, and how often each beats the SFT model's and the chosen one.

    Wins are named `vs_sft` and `vs_chosen` for the primary judge, `<judge>/vs_sft` and so on for the others.
    """
    judged: list[Response] = []
    for evaluation in shared.evaluation:
        judged += _judge_set([r for r in responses if r.set == evaluation.name], evaluation, shared)
    return tuple(judged)


def _judge_set(responses: list[Response], evaluation: EvaluationSet, shared: Shared) -> list[Response]:
    prompts, texts = [r.prompt for r in responses], [r.text for r in responses]
    scores = {name: judge.score(prompts, texts) for name, judge in shared.judges.items()}
    columns: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        prefix = "" if name == next(iter(scores)) else f"{name}/"
        columns |= compared(values, evaluation, name, prefix)
    return [
        dataclasses.replace(
            response,
            scores={name: float(values[i]) for name, values in scores.items()},
            wins={name: float(values[i]) for name, values in columns.items()},
        )
        for i, response in enumerate(responses)
    ]


def compared(scores: np.ndarray, evaluation: EvaluationSet, judge: str, prefix: str) -> dict[str, np.ndarray]:
    """Wins of responses, equally many per prompt, against the SFT model's K responses and against the chosen one."""
    baseline = evaluation.scores[judge]
    per_prompt = len(scores) // len(evaluation.prompts)
    return {
        f"{prefix}vs_sft": wins(scores, baseline.sft.repeat(per_prompt, axis=0)),
        f"{prefix}vs_chosen": wins(scores, baseline.chosen[:, None].repeat(per_prompt, axis=0)),
    }
