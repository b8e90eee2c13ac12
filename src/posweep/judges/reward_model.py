"""A reward model by its name: any sequence classifier with one output, r(x, y), higher is better."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posweep.policy import template
from posweep.policy.classify import (
    Classifier,
    Found,
    length_problems,
    model_problems,
    open_classifier,
    problems_of,
    vocabulary_problems,
)
from posweep.policy.fit import Form, chat, fit, pair
from posweep.records import Prompt
from posweep.settings import RewardModelSettings

FORMS: dict[str, Form] = {"chat": chat, "pair": pair}


@dataclass
class RewardModelJudge:
    """A reward model, and the form in which it reads a prompt and a response.

    Attributes:
        cut: texts that were too long so far: of those the prompt lost its beginning, or also the response its end.
    """

    classifier: Classifier
    form: Form
    cut: int = 0

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """r(x, y) of each response, (responses,), float64; in bfloat16 a score has three significant digits.

        Raises:
            NotFinite: a score is no finite number.
            PreflightError: the chat template refuses a conversation.
        """
        reader = self.classifier
        texts = [
            fit(self.form, reader.tokenizer, prompt, [response], reader.limit)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        self.cut += sum(text.cut for text in texts)
        return reader.logits([text.row for text in texts])[:, 0]


def open_reward_model(
    settings: RewardModelSettings, device: str, place: str = "judge.reward_model"
) -> RewardModelJudge:
    """The reward model that the settings name, on `device`.

    Raises:
        PreflightError: it cannot be one; all that `problems` finds, and a device without bfloat16.
    """
    reader = open_classifier(settings, functools.partial(_problems, settings, place), device, place)
    return RewardModelJudge(reader, FORMS[settings.template])


def problems(settings: RewardModelSettings, place: str) -> list[str]:
    """What stands in the way of this judge; a sentence each. Weights are fetched last, and not loaded."""
    return problems_of(settings, functools.partial(_problems, settings, place), place)


def _problems(settings: RewardModelSettings, place: str, found: Found) -> list[str]:
    bad = model_problems(settings, found.config, (1,), place)
    if settings.template == "chat" and not found.tokenizer.chat_template:
        return [
            *bad,
            f"{place}.template: the tokenizer of {settings.name} has no chat template; set {place}.template=pair "
            "(prompt and response as two sentences), or name a model that has one.",
        ]
    form = FORMS[settings.template]
    unread = template.judge_problems(found.tokenizer, settings.name, place) if settings.template == "chat" else []
    bad += unread or length_problems(settings, found, form, 1, place)
    return bad or vocabulary_problems(settings, found, lambda text: form(found.tokenizer, text, [text]), place)
