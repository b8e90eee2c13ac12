"""Rows of every common shape → preference pairs. Pure: the columns a row has tell its format.

    prompt, chosen, rejected                    text, or conversations (lists of {role, content}), with the prompt or without
    chosen, rejected                            transcripts that differ in the last answer: HH-RLHF text, or conversations
    prompt, response_0, response_1, preference  which of the two is preferred: 0, 1, or the name of its column
    prompt, response, label                     one response and whether it is desirable (`completion` also names it)

Columns of other names are given by `columns`: our name → theirs. Two more are read where `columns` names them: `system` is a
system turn before the prompt, `input` is what Alpaca sets behind an instruction. A row that carries no preference is dropped
for a reason that is counted; one that is not of its format is a mistake.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from posweep.errors import DataError
from posweep.records import Message, PreferencePair, Prompt, messages, prompt_of

ROLES = {
    "user": "user", "assistant": "assistant", "system": "system", "human": "user", "gpt": "assistant", "developer": "system",
}  # fmt: skip
"""Names of roles, and what they mean."""
TURN = re.compile(r"\n\n(Human|Assistant):")
"""Where a turn begins in the text of HH-RLHF; its first turn may have lost the empty line."""
PANDAS_INDEX = re.compile(r"__index_level_\d+__")

EMPTY, EQUAL = "empty response", "chosen equals rejected"
NO_ANSWER, NO_QUESTION = "the last turn is not the assistant's", "the prompt does not end with words of the user"
DIFFERENT = "transcripts differ before the last answer"
ELSEWHERE = "the conversation does not hold the prompt"
TIE, NO_LABEL = "no preference between the two", "no label"


class Malformed(ValueError):
    """A row that is not of its format; the sentence says why."""


class Dropped(Exception):
    """A row of its format that carries no preference, for a reason that is counted."""


@dataclass(frozen=True)
class Labelled:
    """One response, and whether it is desirable."""

    prompt: Prompt
    response: str
    desirable: bool


Cells = Mapping[str, Any]
"""What a row holds, under our names of the columns."""


@dataclass(frozen=True)
class Format:
    """One shape of rows: the columns it needs, and what makes a pair of them."""

    columns: tuple[str, ...]
    read: Callable[[Cells], PreferencePair | Labelled]


@dataclass(frozen=True)
class Layout:
    """The format of a source, and which of its columns hold what."""

    format: Format
    names: Mapping[str, str]
    context: Mapping[str, str] = field(default_factory=dict)  # `system` and `input`, where they are named
    declined: tuple[str, ...] = ()  # our names that `columns` sets to null: a column that is there and not meant

    def unused(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Those of a source's columns that nothing is read from; the index that pandas writes needs no word."""
        used = {*self.names.values(), *self.context.values(), *self.declined}
        return tuple(column for column in columns if column not in used and not PANDAS_INDEX.fullmatch(column))

    def read(self, values: Mapping[str, Any]) -> PreferencePair | Labelled:
        """What a row comes to.

        Raises:
            Malformed: a column is missing or holds something else.
            Dropped: the row carries no preference.
        """
        if any(theirs not in values for theirs in self.names.values()):
            raise Malformed(f"must have {', '.join(self.names.values())}; it has {', '.join(values) or 'nothing'}.")
        item = self.format.read({ours: self._said(ours, values[theirs]) for ours, theirs in self.names.items()})
        if not self.context:
            return item
        told = {ours: _context(values.get(theirs), theirs) for ours, theirs in self.context.items()}
        return replace(item, prompt=in_context(item.prompt, told.get("system", ""), told.get("input", "")))

    def _said(self, ours: str, value: Any) -> Any:
        """A cell; a preference that names a column of the data set by our name for it."""
        if ours != "preference" or not isinstance(value, str):
            return value
        return {self.names["response_0"]: "response_0", self.names["response_1"]: "response_1"}.get(value, value)


# --- which format


def layout(found: Sequence[str], columns: Mapping[str, str | None], place: str, name: str) -> Layout:
    """The format that the columns of `name` have.

    Raises:
        DataError: none; or a setting of `{place}.columns` names what is not there.
    """
    _check_columns(found, columns, place, name)
    names = _names(found, columns)
    if {"response_0", "response_1"} <= set(names) and "preference" not in names and "chosen" not in names:
        raise DataError(_which_preference(found, columns, place, name))
    for one in FORMATS:
        if set(one.columns) <= set(names):
            declined = tuple(ours for ours, theirs in columns.items() if theirs is None)
            context = {ours: theirs for ours in CONTEXT if (theirs := columns.get(ours)) is not None}
            return Layout(one, {ours: names[ours] for ours in one.columns}, context, declined)
    needed = " · ".join(", ".join(one.columns) for one in FORMATS)
    raise DataError(
        f"{name}: has the columns {', '.join(found) or 'none'}, but preferences need {needed}; "
        f"{setting(place, 'chosen', columns)}=COLUMN says which of its columns holds what, and so for the others."
    )


def _names(found: Iterable[str], columns: Mapping[str, str | None]) -> dict[str, str]:
    """Our names of the columns that are there; a column set to null is not used."""
    theirs = {ours: columns.get(ours, ours) for ours in OURS}
    if "response" not in columns and "response" not in found:
        theirs["response"] = "completion"
    return {ours: name for ours, name in theirs.items() if name is not None and name in found}


def _check_columns(found: Iterable[str], columns: Mapping[str, str | None], place: str, name: str) -> None:
    problems = [
        f"{place}.columns.{ours}: no such column in any format; there are {', '.join((*OURS, *CONTEXT))}."
        for ours in columns
        if ours not in (*OURS, *CONTEXT)
    ]
    lacks = [f"{theirs} ({ours})" for ours, theirs in columns.items() if theirs is not None and theirs not in found]
    if lacks and not problems:
        problems.append(
            f"{place}.columns: {name} has no column {', '.join(lacks)}; it has {', '.join(found) or 'none'}."
        )
    if problems:
        raise DataError(problems)


def _which_preference(found: Iterable[str], columns: Mapping[str, str | None], place: str, name: str) -> str:
    candidates = [column for column in found if column.endswith("response_id")]
    there = f"one of {', '.join(candidates)}" if candidates else f"it has {', '.join(found)}"
    example = candidates[0] if candidates else "COLUMN"
    return (
        f"{place}.columns.preference: must name the column that says which response is preferred, {there}; "
        f"add {setting(place, 'preference', columns)}={example}."
    )


def setting(place: str, ours: str, columns: Mapping[str, str | None]) -> str:
    """How the command line sets it: what no file has is added."""
    return f"{'' if ours in columns else '+'}{place}.columns.{ours}"


# --- the formats


def _explicit(cells: Cells) -> PreferencePair:
    return _pair(_asked(cells["prompt"]), cells["chosen"], cells["rejected"])


def _implicit(cells: Cells) -> PreferencePair:
    return _pair((), *(_with_turns(cells[name], name) for name in ("chosen", "rejected")))


def _of_two(cells: Cells) -> PreferencePair:
    responses, best = (cells["response_0"], cells["response_1"]), _preferred(cells["preference"])
    return _pair(_asked(cells["prompt"]), responses[best], responses[1 - best])


def _labelled(cells: Cells) -> Labelled:
    label = cells["label"]
    if label is None:
        raise Dropped(NO_LABEL)
    if not isinstance(label, bool | int | float) or label not in (0, 1):
        raise Malformed(f"label must be true or false, or 1 or 0, got {_short(label)}.")
    before, response = _answered(_asked(cells["prompt"]), cells["response"], "response")
    return Labelled(_prompt(before), response, bool(label))


FORMATS = (
    Format(("prompt", "chosen", "rejected"), _explicit),
    Format(("chosen", "rejected"), _implicit),
    Format(("prompt", "response_0", "response_1", "preference"), _of_two),
    Format(("prompt", "response", "label"), _labelled),
)
"""Every format, the first that fits is taken."""
OURS = tuple(dict.fromkeys(column for one in FORMATS for column in one.columns))
"""Our names of the columns."""
CONTEXT = ("system", "input")
"""Our names of columns that are read only where they are named: taken unasked, they would change what data come to."""


def _preferred(preference: Any) -> int:
    """0 or 1: which response is preferred."""
    if preference is None or preference in ("tie", -1) or preference != preference:  # not a number
        raise Dropped(TIE)
    names = {"response_0": 0, "response_1": 1, "0": 0, "1": 1}
    found = names.get(preference) if isinstance(preference, str) else preference
    if not isinstance(found, bool | int | float) or found not in (0, 1):
        raise Malformed(f"preference must be 0 or 1, or the name of the preferred response, got {_short(preference)}.")
    return int(found)


def _pair(start: tuple[Message, ...], chosen: Any, rejected: Any) -> PreferencePair:
    before, good = _answered(start, chosen, "chosen")
    also, bad = _answered(start, rejected, "rejected")
    if before != also:
        raise Dropped(DIFFERENT)
    if good.strip() == bad.strip():
        raise Dropped(EQUAL)
    return PreferencePair(_prompt(before), good, bad)


# --- conversations


def _answered(start: tuple[Message, ...], answer: Any, name: str) -> tuple[tuple[Message, ...], str]:
    """What stands before an answer, and the answer: text, or messages that hold what stands before or follow it."""
    if answer is None:
        raise Dropped(EMPTY)
    if isinstance(answer, str):
        return start, _filled(answer, name)
    turns = _turns(answer, name)
    if not turns or turns[-1].role != "assistant":
        raise Dropped(NO_ANSWER)
    before = turns[:-1]
    if turns[0].role == "assistant":
        before = start + before
    elif start and not _holds(before, start):
        raise Dropped(ELSEWHERE)
    return before, _filled(turns[-1].content, name)


def _holds(turns: tuple[Message, ...], start: tuple[Message, ...]) -> bool:
    """Whether a conversation is of this prompt: a lone question is one of its turns, a longer prompt its beginning."""
    found = [(turn.role, turn.content.strip()) for turn in turns]
    asked = [(turn.role, turn.content.strip()) for turn in start]
    return asked[0] in found if len(asked) == 1 else found[: len(asked)] == asked


def _filled(text: str, name: str) -> str:
    if not _text(text, name).strip():
        raise Dropped(EMPTY)
    return text


def _asked(prompt: Any) -> tuple[Message, ...]:
    """The turns of a prompt: text is one turn of the user, or a transcript that leaves the answer open."""
    if prompt is None:
        return ()
    if not isinstance(prompt, str):
        return _turns(prompt, "prompt")
    if TURN.match(_opened(prompt)) and prompt.rstrip().endswith("\n\nAssistant:"):
        return _transcript(prompt, "prompt")[:-1]
    return (Message("user", _text(prompt, "prompt")),)


def _prompt(turns: tuple[Message, ...]) -> Prompt:
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise Dropped(NO_QUESTION)
    return prompt_of(turns)


def _context(found: Any, name: str) -> str:
    """The text of a `system` or `input` column; an empty cell says nothing."""
    return "" if found is None or not _text(found, name).strip() else found


def in_context(prompt: Prompt, system: str, question_input: str) -> Prompt:
    """A prompt with an input behind its last turn, as Alpaca writes it, and a system turn before the first.

    Raises:
        Malformed: it has another system turn already.
    """
    *before, asked = messages(prompt)
    turns = (*before, Message(asked.role, f"{asked.content}\n\n{question_input}") if question_input else asked)
    if not system:
        return prompt_of(turns)
    if turns[0].role != "system":
        return prompt_of((Message("system", system), *turns))
    if turns[0].content.strip() != system.strip():
        raise Malformed("has a system turn in its prompt and another in its system column; one of them must go.")
    return prompt_of(turns)


def _with_turns(found: Any, name: str) -> Any:
    """An answer with all that stands before it, as messages."""
    return _transcript(found, name) if isinstance(found, str) else found


def _opened(text: str) -> str:
    return "\n\n" + text.lstrip("\n")


def _transcript(text: str, name: str) -> tuple[Message, ...]:
    """The turns of a text such as HH-RLHF's: `Human: … Assistant: …`, an empty line between two."""
    if not TURN.match(opened := _opened(_text(text, name))):
        raise Malformed(
            f"{name} must be a transcript of turns 'Human: …' and 'Assistant: …', or a list of messages, where no column "
            f"holds the prompt; got {_short(text)}."
        )
    _, *parts = TURN.split(opened)
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True))


def _turns(found: Any, name: str) -> tuple[Message, ...]:
    """Messages; a mapping is one message, or the lists of roles and contents that older data sets hold for several."""
    if isinstance(found, Mapping):
        found = _listed(found)
    if not isinstance(found, list | tuple):
        raise Malformed(f"{name} must be text or a list of messages (role, content), got {_short(found)}.")
    return tuple(_message(one, name) for one in found)


def _listed(found: Mapping[str, Any]) -> Any:
    """The messages of a mapping; what is no mapping of messages as it is."""
    names = _message_names(found)
    if names is None:
        return found
    roles, contents = (found[name] for name in names)
    if not isinstance(roles, list | tuple):
        return [found]
    if not isinstance(contents, list | tuple):
        return found
    return [dict(zip(names, both, strict=True)) for both in zip(roles, contents, strict=False)]


def _message_names(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a message calls its role and its content: ShareGPT says `from` and `value`."""
    return next((names for names in (("role", "content"), ("from", "value")) if set(names) <= set(found)), None)


def _message(found: Any, name: str) -> Message:
    if isinstance(found, Message):
        return found
    names = _message_names(found) if isinstance(found, Mapping) else None
    if names is None:
        raise Malformed(f"{name} must be a list of messages with role and content, got {_short(found)}.")
    role, content = (found[one] for one in names)
    if not isinstance(role, str) or role not in ROLES:
        raise Malformed(f"{name}: the role of a message must be user, assistant or system, got {_short(role)}.")
    return Message(ROLES[role], _content(content, name))


def _content(found: Any, name: str) -> str:
    """The text of a message; of a list of parts, as endpoints take it, the text parts one behind the other."""
    if not isinstance(found, list | tuple):
        return _text("" if found is None else found, name)
    for part in found:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            said = (
                f"one of type {_short(part['type'])}" if isinstance(part, Mapping) and "type" in part else _short(part)
            )
            raise Malformed(f"{name}: the parts of a message must be text ({{type: text, text: …}}), got {said}.")
    return "".join(_text(part.get("text"), name) for part in found)


def _text(found: Any, name: str) -> str:
    """Text that can be written; JSON can name half a character."""
    if not isinstance(found, str):
        raise Malformed(f"{name} must be text, got {_short(found)}.")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{name} must be text that can be written, got half a character in {_short(found)}.") from None
    return found


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:79]}…"


# --- labels


def couple(labelled: Iterable[Labelled], seed: int) -> tuple[list[PreferencePair], Counter[str]]:
    """Pairs of labelled responses, and what is left of them.

    Desirable and undesirable responses to one prompt become ordinary pairs. What remains of either kind is coupled across
    prompts, in an order drawn by `seed`; the surplus is left out and counted.
    """
    pairs, counts = [], Counter[str]()
    alone: dict[bool, list[tuple[Prompt, str]]] = {True: [], False: []}
    for prompt, responses in _by_prompt(labelled).items():
        both = min(map(len, responses.values()))
        for good, bad in zip(responses[True][:both], responses[False][:both], strict=True):
            if good.strip() == bad.strip():
                counts[f"dropped: {EQUAL}"] += 1
            else:
                pairs.append(PreferencePair(prompt, good, bad))
        for label, texts in responses.items():
            alone[label] += [(prompt, text) for text in texts[both:]]
    couples, left = _across(alone, seed)
    return [*pairs, *couples], counts + left


def _by_prompt(labelled: Iterable[Labelled]) -> dict[Prompt, dict[bool, list[str]]]:
    found: dict[Prompt, dict[bool, list[str]]] = {}
    for one in labelled:
        found.setdefault(one.prompt, {True: [], False: []})[one.desirable].append(one.response)
    return found


def _across(alone: Mapping[bool, list[tuple[Prompt, str]]], seed: int) -> tuple[list[PreferencePair], Counter[str]]:
    """Couples of what is left; of one prompt only one kind is, so the two are always of different prompts."""
    rng = np.random.default_rng([seed, 0xC0291E])
    desirable, undesirable = ([alone[label][i] for i in rng.permutation(len(alone[label]))] for label in (True, False))
    both = min(len(desirable), len(undesirable))
    pairs = [
        PreferencePair(prompt, good, bad, other)
        for (prompt, good), (other, bad) in zip(desirable[:both], undesirable[:both], strict=True)
    ]
    left = {"left out: desirable": len(desirable) - both, "left out: undesirable": len(undesirable) - both}
    return pairs, Counter({reason: count for reason, count in left.items() if count})
