"""Prompts and responses as tokens, and back. A prompt that is too long loses its beginning, a response its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from posweep.policy.fit import answers, fit, question
from posweep.records import Prompt, messages, prompt_text

PAD, BEGIN, END, UNKNOWN, ANSWER = SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>", "<answer>")
"""Special tokens of tokenizers made here."""

SPEAKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
"""How a transcript marks its turns: the form of HH-RLHF, for models without a chat template."""


class Encoded(NamedTuple):
    """Token lists, and how many of them were cut to the limit."""

    rows: list[list[int]]
    cut: int


@dataclass(frozen=True)
class Texts:
    """A tokenizer, the form in which prompts are written, and the tokens that end a response.

    Attributes:
        form: `own` (tokenizers made here: `<begin> prompt <answer>`), `chat` (the tokenizer's chat template),
            `transcript` (`Human: … Assistant:`) or `text` (the prompt as it is).
        pad: never looked at, so any token will do.
        end: closes every response that is trained on.
        ends: a response that is drawn ends with the first of these.
        template_kwargs: what the chat template is told beside the turns.
    """

    tokenizer: Any
    form: str
    pad: int
    end: int
    ends: tuple[int, ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def own(cls, tokenizer: Any) -> Texts:
        """The texts of a tokenizer made here."""
        end = int(tokenizer.eos_token_id)
        return cls(tokenizer, "own", int(tokenizer.pad_token_id), end, (end,))

    def prompts(self, prompts: Sequence[Prompt], limit: int) -> Encoded:
        """Prompts in tokens, at most `limit`; a conversation loses its oldest turns first, its form stays whole."""
        rows = FORMS[self.form](self, prompts, limit)
        return Encoded([row for row, _ in rows], sum(cut for _, cut in rows))

    def responses(self, responses: Sequence[str], limit: int) -> Encoded:
        """Responses with the end token, at most `limit` tokens; one that is cut has no end token."""
        rows = self._answers(responses) if self.form == "chat" else self._alone(responses)
        return Encoded([row[:limit] for row in rows], sum(len(row) > limit for row in rows))

    def _alone(self, responses: Sequence[str]) -> list[list[int]]:
        lead = " " if self.form == "transcript" else ""
        return [[*ids, self.end] for ids in self.encode([lead + text for text in responses])]

    def _answers(self, responses: Sequence[str]) -> list[list[int]]:
        """Responses as the chat template writes them, up to the token that ends the turn."""
        rows = zip(responses, answers(self.tokenizer, responses, **self.template_kwargs), strict=True)
        return [
            written[: written.index(self.end) + 1] if self.end in written else self._alone([response])[0]
            for response, written in rows
        ]

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Responses as text, without special tokens."""
        return [self.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in responses]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Bare texts in tokens; the name of a special token in a text is text like any other."""
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True) if texts else {}
        return list(found.get("input_ids", []))

    @property
    def ends_text(self) -> str:
        """The end tokens as they are written."""
        names = self.tokenizer.convert_ids_to_tokens(list(self.ends))
        return ", ".join(name or f"token {end}" for end, name in zip(self.ends, names, strict=True))


Cut = tuple[list[int], bool]


def _own(texts: Texts, prompts: Sequence[Prompt], limit: int) -> list[Cut]:
    begin, answer = int(texts.tokenizer.bos_token_id), int(texts.tokenizer.convert_tokens_to_ids(ANSWER))
    room = max(0, limit - 2)
    asked = texts.encode([prompt_text(prompt) for prompt in prompts])
    return [([begin, *ids[max(0, len(ids) - room) :], answer], len(ids) > room) for ids in asked]


def _text(texts: Texts, prompts: Sequence[Prompt], limit: int) -> list[Cut]:
    return _from_the_left(texts, [prompt_text(prompt) for prompt in prompts], limit)


def _transcript(texts: Texts, prompts: Sequence[Prompt], limit: int) -> list[Cut]:
    written = ("".join(SPEAKERS[turn.role] + turn.content for turn in messages(prompt)) for prompt in prompts)
    return _from_the_left(texts, [text + SPEAKERS["assistant"].rstrip() for text in written], limit)


def _from_the_left(texts: Texts, written: Sequence[str], limit: int) -> list[Cut]:
    """Plain texts behind the token that begins every text of this tokenizer, if it has one."""
    begin = texts.tokenizer.bos_token_id
    first = [int(begin)] if begin is not None and texts.tokenizer("a")["input_ids"][:1] == [begin] else []
    room = limit - len(first)
    return [([*first, *ids[max(0, len(ids) - room) :]], len(ids) > room) for ids in texts.encode(written)]


def _chat(texts: Texts, prompts: Sequence[Prompt], limit: int) -> list[Cut]:
    """The chat template around as much of each conversation's end as there is room for."""
    form = partial(question, **texts.template_kwargs)
    fitted = (fit(form, texts.tokenizer, prompt, (), limit) for prompt in prompts)
    return [(list(one.row.ids[-limit:]), one.cut) for one in fitted]


FORMS: dict[str, Callable[[Texts, Sequence[Prompt], int], list[Cut]]] = {
    "own": _own, "chat": _chat, "transcript": _transcript, "text": _text,
}  # fmt: skip
