"""A model that reads a prompt and two responses and says which is better: PairRM, or a classifier trained for it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posweep.policy.classify import (
    Classifier,
    Found,
    is_pair_rm,
    length_problems,
    model_problems,
    open_classifier,
    problems_of,
    vocabulary_problems,
)
from posweep.policy.fit import Fitted, Row, fit
from posweep.records import Prompt, prompt_text
from posweep.settings import PairwiseModelSettings

SLOTS = ("prompt", "first", "second")


@dataclass
class PairwiseModelJudge:
    """A model with the log-odds ℓ(A, B) that the first of two responses is better: its one output, or first minus second.

    Attributes:
        template: what the model reads, with {prompt}, {first} and {second}; PairRM has its own.
        opponents: responses of the SFT model that each response meets.
        cut: texts that were too long so far; each comparison reads two.
    """

    classifier: Classifier
    template: str
    opponents: int
    cut: int = 0

    def compare(self, prompts: Sequence[Prompt], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """1 where the response is better, 0 where its opponent is, ½ where neither: the sign of ℓ(A, B) − ℓ(B, A).

        Asking in both orders takes out a liking for the first place, and makes a comparison of like texts a tie. The
        sign is kept and not the chance σ((ℓ(A, B) − ℓ(B, A)) / 2): a win is then what it is under any other judge, and
        not smaller for a judge that is less sure of itself.

        Raises:
            NotFinite: an output is no finite number.
        """
        asked = list(zip(prompts, responses, opponents, strict=True))
        log_odds = self._log_odds([*asked, *((prompt, second, first) for prompt, first, second in asked)])
        margins = log_odds[: len(asked)] - log_odds[len(asked) :]
        return np.asarray((1 + np.sign(margins)) / 2)

    def _log_odds(self, asked: Sequence[tuple[Prompt, str, str]]) -> np.ndarray:
        """ℓ(first, second) of each, (asked,)."""
        texts = [self._text(prompt, (first, second)) for prompt, first, second in asked]
        self.cut += sum(text.cut for text in texts)
        outputs = self.classifier.logits([text.row for text in texts])
        return np.asarray(outputs[:, 0] - outputs[:, 1] if outputs.shape[1] == 2 else outputs[:, 0])

    def _text(self, prompt: Prompt, responses: tuple[str, str]) -> Fitted:
        reader = self.classifier
        if is_pair_rm(reader.model.config):
            from posweep.policy.pairrm import CONTEXT, row

            return row(reader.tokenizer, reader.model.config, prompt, responses, reader.limit or CONTEXT)
        return fit(functools.partial(filled, self.template), reader.tokenizer, prompt, responses, reader.limit)


def filled(template: str, tokenizer: Any, prompt: Prompt, responses: Sequence[str]) -> Row:
    """A template with its texts put in, in one pass, so that braces in a text are text; in tokens."""
    texts = dict(zip(SLOTS, (prompt_text(prompt), *responses), strict=True))
    written = re.sub(r"\{(prompt|first|second)\}", lambda slot: texts[slot[1]], template)
    found = tokenizer(written)
    return Row(tuple(found["input_ids"]), tuple(found.get("token_type_ids", ())))


def open_pairwise_model(
    settings: PairwiseModelSettings, device: str, place: str = "judge.pairwise_model"
) -> PairwiseModelJudge:
    """The model that the settings name, on `device`.

    Raises:
        PreflightError: it cannot be one; all that `problems` finds, and a device without bfloat16.
    """
    reader = open_classifier(settings, functools.partial(_problems, settings, place), device, place)
    return PairwiseModelJudge(reader, settings.template, settings.opponents)


def problems(settings: PairwiseModelSettings, place: str) -> list[str]:
    """What stands in the way of this judge; a sentence each. Weights are fetched last, and not loaded."""
    return problems_of(settings, functools.partial(_problems, settings, place), place)


def _problems(settings: PairwiseModelSettings, place: str, found: Found) -> list[str]:
    bad = model_problems(settings, found.config, (1, 2), place)
    if is_pair_rm(found.config):
        from posweep.policy.pairrm import pair_rm_problems

        bad += pair_rm_problems(settings, found, place)
        return bad or vocabulary_problems(settings, found, lambda text: _read_by_pair_rm(found, text), place)
    lacking = [f"{{{slot}}}" for slot in SLOTS if f"{{{slot}}}" not in settings.template]
    if lacking:
        return [*bad, f"{place}.template: lacks {', '.join(lacking)}; write where the prompt and both responses go."]
    form = functools.partial(filled, settings.template)
    bad += length_problems(settings, found, form, 2, place)
    return bad or vocabulary_problems(settings, found, lambda text: form(found.tokenizer, text, [text, text]), place)


def _read_by_pair_rm(found: Found, text: str) -> Row:
    from posweep.policy.pairrm import CONTEXT, row

    return row(found.tokenizer, found.config, text, [text, text], CONTEXT).row
