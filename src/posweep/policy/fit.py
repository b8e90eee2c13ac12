"""A prompt and its responses as one text in tokens that fits a model: in a chat template, as a pair, or in another form.

What is too long is cut before it is written, so that what a form writes around the texts stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from posweep.errors import PreflightError, first_line
from posweep.records import Message, Prompt, messages, prompt_text

TODAY = "{%- macro strftime_now(format) -%} 26 Jul 2024 {%- endmacro %}"
"""Chat templates may write today's date, and a score must be the same tomorrow: this day is what Llama's fall back on."""


class Row(NamedTuple):
    """A text in tokens, with the part (first or second) each belongs to where the tokenizer tells."""

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()


Form = Callable[[Any, Prompt, Sequence[str]], Row]
"""Writes a prompt and responses as one text, with a tokenizer."""


def chat(tokenizer: Any, prompt: Prompt, responses: Sequence[str], **template_kwargs: Any) -> Row:
    """A prompt and its one response in the tokenizer's chat template.

    Raises:
        PreflightError: the template refuses the conversation.
    """
    turns = (*messages(prompt), Message("assistant", responses[0]))
    return _rendered(tokenizer, turns, "set the judge's template=pair", **template_kwargs)


def question(tokenizer: Any, prompt: Prompt, _: Sequence[str] = (), **template_kwargs: Any) -> Row:
    """A prompt in the tokenizer's chat template, up to where the answer begins.

    Args:
        template_kwargs: what the template is told beside the turns.

    Raises:
        PreflightError: the template refuses the conversation.
    """
    way_out = "set model.prompt_format=transcript"
    return _rendered(tokenizer, messages(prompt), way_out, add_generation_prompt=True, **template_kwargs)


def answers(tokenizer: Any, responses: Sequence[str], **template_kwargs: Any) -> Iterator[list[int]]:
    """Responses as the chat template writes each behind a question, with all that follows it.

    Alone it may be other tokens: some tokenizers put a space before whatever begins a text. Empty where the template
    writes a question otherwise once it is answered, so that the response cannot be told apart.
    """
    before = question(tokenizer, "?", **template_kwargs).ids
    for response in responses:
        whole = chat(tokenizer, "?", [response], **template_kwargs).ids
        yield list(whole[len(before) :]) if whole[: len(before)] == before else []


def _rendered(tokenizer: Any, turns: Sequence[Message], way_out: str, **options: Any) -> Row:
    """The template writes the begin token, so that the tokenizer must not."""
    written = [turn.to_json() for turn in turns]
    try:
        return Row(tuple(_tokens(tokenizer, written, chat_template=dateless(tokenizer), tokenize=True, **options)))
    except (TemplateError, TypeError) as error:
        raise PreflightError(
            f"the chat template of {tokenizer.name_or_path} refuses the turns {', '.join(turn.role for turn in turns)} "
            f"({first_line(error)}); {way_out}, or name another model."
        ) from None


def dateless(tokenizer: Any) -> str:
    """The tokenizer's chat template, in which it is always the same day."""
    template: str = tokenizer.get_chat_template()
    return TODAY + template if "strftime_now" in template else template


def _tokens(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **options: Any) -> Sequence[int]:
    """Control tokens that a text spells are text, where the tokenizer can tell."""
    try:
        found = tokenizer.apply_chat_template(turns, sanitize_control_tokens=True, **options)
    except ValueError:
        found = tokenizer.apply_chat_template(turns, **options)
    return found["input_ids"] if isinstance(found, Mapping) else found


def pair(tokenizer: Any, prompt: Prompt, responses: Sequence[str]) -> Row:
    """A prompt and its one response as a pair of sentences; special tokens in them are text."""
    found = tokenizer(prompt_text(prompt), responses[0], split_special_tokens=True)
    return Row(tuple(found["input_ids"]), tuple(found.get("token_type_ids", ())))


class Fitted(NamedTuple):
    """A row that a model can read, and whether something was cut off for it."""

    row: Row
    cut: bool


def fit(form: Form, tokenizer: Any, prompt: Prompt, responses: Sequence[str], limit: int | None) -> Fitted:
    """A prompt and responses as one row of at most `limit` tokens.

    Cut are, as far as needed and in this order: the oldest turns of a conversation, the beginning of the last question, what
    the system said, the ends of the responses (the longest first). What the form writes around them stays whole.
    """
    row = form(tokenizer, prompt, responses)
    if limit is None or len(row.ids) <= limit:
        return Fitted(row, False)
    row, shorter = _with_less_prompt(form, tokenizer, prompt, responses, limit, row)
    starts = [_starts(tokenizer, response) for response in responses]
    kept = max(map(len, starts), default=0)
    while (excess := len(row.ids) - limit) > 0 and kept:
        kept = max(0, kept - -(-excess // len(responses)))
        row = form(tokenizer, shorter, [_until(r, s, kept) for r, s in zip(responses, starts, strict=True)])
    return Fitted(row, True)


def _with_less_prompt(
    form: Form, tokenizer: Any, prompt: Prompt, responses: Sequence[str], limit: int, row: Row
) -> tuple[Row, Prompt]:
    """The row with as much of the prompt's end as there is room for, and that prompt."""
    turns = messages(prompt)
    while len(row.ids) > limit and (fewer := _without_oldest(turns)):
        turns = fewer
        row = form(tokenizer, turns, responses)
    content, lost = turns[-1].content, 0
    starts = [*_starts(tokenizer, content), len(content)]
    while (excess := len(row.ids) - limit) > 0 and lost < len(starts) - 1:
        lost = min(len(starts) - 1, lost + excess)
        turns = (*turns[:-1], Message(turns[-1].role, content[starts[lost] :]))
        row = form(tokenizer, _as(prompt, turns), responses)
    if len(row.ids) > limit and len(turns) > 1:
        turns = turns[-1:]
        row = form(tokenizer, _as(prompt, turns), responses)
    return row, _as(prompt, turns)


def _without_oldest(turns: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation without its oldest question and answer; empty where the last question is all there is."""
    system = [turn for turn in turns if turn.role == "system"]
    rest = [turn for turn in turns if turn.role != "system"][1:]
    while rest and rest[0].role != "user":
        rest = rest[1:]
    return (*system, *rest) if rest else ()


def _as(prompt: Prompt, turns: tuple[Message, ...]) -> Prompt:
    """Turns as the prompt they came from: a lone question is written without its speaker."""
    return turns[-1].content if isinstance(prompt, str) else turns


def _starts(tokenizer: Any, text: str) -> list[int]:
    """Where each token of a text begins; where the tokenizer cannot tell, each character counts as one."""
    if not tokenizer.is_fast:
        return list(range(len(text)))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    return [start for start, _ in found["offset_mapping"]]


def _until(text: str, starts: Sequence[int], kept: int) -> str:
    return text[: starts[kept]] if kept < len(starts) else text
