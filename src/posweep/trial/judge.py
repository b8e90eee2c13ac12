"""Scores and wins of a trial's responses, by every judge; the first one is the primary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from posweep.artifacts.baselines import BaselineScores, BaselineWins, compared, met
from posweep.artifacts.shared import EvaluationSet, Shared
from posweep.errors import JudgeUnavailable, NotFinite, OutOfMemory
from posweep.judges import Judge, PairwiseJudge, compares, wins
from posweep.records import Prompt, Response
from posweep.trial.halving import judging_sentence, out_of_memory

T = TypeVar("T")


def judge(responses: Sequence[Response], shared: Shared) -> tuple[Response, ...]:
    """The responses with a score by each judge, and how often each beats the SFT model's and the chosen one.

    Wins are named `vs_sft` and `vs_chosen` for the primary judge, `<judge>/vs_sft` and so on for the others.

    Raises:
        NotFinite: a judge that is sound gives a response no finite score.
        JudgeUnavailable: a judge does not answer, or has no finite scores for the SFT model either.
        OutOfMemory: judging does not fit.
    """
    judged: list[Response] = []
    for evaluation in shared.evaluation:
        judged += _judge_set([r for r in responses if r.set == evaluation.name], evaluation, shared)
    return tuple(judged)


def _judge_set(responses: list[Response], evaluation: EvaluationSet, shared: Shared) -> list[Response]:
    prompts, texts = [evaluation.prompts[r.index] for r in responses], [r.text for r in responses]
    scores: dict[str, np.ndarray] = {}
    columns: dict[str, np.ndarray] = {}
    for place, (name, judge) in enumerate(shared.judges.items()):
        baseline = evaluation.scores[name]
        if compares(judge):
            won = _asked(name, partial(_met, judge, prompts, texts, evaluation), baseline, shared)
        else:
            assert isinstance(baseline, BaselineScores)
            scores[name] = _asked(name, partial(_scored, judge, prompts, texts, name), baseline, shared)
            won = beaten(scores[name], baseline)
        columns |= prefixed(won, name if place else "")
    return [
        dataclasses.replace(
            response,
            scores={name: float(values[i]) for name, values in scores.items()},
            wins={name: float(values[i]) for name, values in columns.items()},
        )
        for i, response in enumerate(responses)
    ]


def _asked(name: str, ask: Callable[[], T], baseline: BaselineScores | BaselineWins, shared: Shared) -> T:
    """What a judge says, and whose fault it is where it cannot."""
    try:
        return ask()
    except NotFinite as error:
        if all(np.isfinite(values).all() for values in vars(baseline).values()):
            raise NotFinite(f"score by judge {name}", str(error)) from error
        raise JudgeUnavailable(
            f"judge.{name}: its scores of the SFT model's own responses are not finite either; name another judge, or set "
            f"judge.{name}.dtype=float32 where it has one."
        ) from error
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(judging_sentence(name, shared.configuration)) from error


def _scored(judge: Judge, prompts: Sequence[Prompt], texts: Sequence[str], name: str) -> np.ndarray:
    scores = judge.score(prompts, texts)
    if not np.isfinite(scores).all():
        raise NotFinite(f"score by judge {name}")
    return scores


def _met(
    judge: PairwiseJudge, prompts: Sequence[Prompt], texts: Sequence[str], evaluation: EvaluationSet
) -> dict[str, np.ndarray]:
    """Wins by a judge that compares, one response per prompt."""
    return {
        "vs_sft": compared(judge, prompts, texts, met(evaluation.sft, judge.opponents)),
        "vs_chosen": compared(judge, prompts, texts, [[chosen] for chosen in evaluation.chosen]),
    }


def prefixed(won: Mapping[str, np.ndarray], judge: str) -> dict[str, np.ndarray]:
    """Wins by the judge that gave them; the primary one, "", has no prefix."""
    return {f"{judge}/{against}" if judge else against: values for against, values in won.items()}


def beaten(scores: np.ndarray, baseline: BaselineScores) -> dict[str, np.ndarray]:
    """Wins of responses, equally many per prompt, against the SFT model's K responses and against the chosen one."""
    per_prompt = len(scores) // len(baseline.chosen)
    return {
        "vs_sft": wins(scores, baseline.sft.repeat(per_prompt, axis=0)),
        "vs_chosen": wins(scores, baseline.chosen[:, None].repeat(per_prompt, axis=0)),
    }
