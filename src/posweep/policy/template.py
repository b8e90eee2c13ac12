"""What a chat template writes around an answer, looked at before anything is trained.

A policy goes on where the template's prompt ends. Responses are scored and drawn from there, so the prompt must end where an
answer begins: behind the mark of the assistant's turn, and in no thought that is still open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from posweep.errors import PreflightError, first_line
from posweep.policy.fit import dateless

QUESTION, THOUGHT, ANSWER = "Aquestion", "Bthought", "Cresponse"
"""Texts that no template writes of its own."""
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
TAG = re.compile(r"<\|channel\|?>\s*\w*|[<\[◁][^<>\[\]◁▷\s]{2,40}[>\]▷]")
"""What may begin or end a thought: `<think>`, `[/THINK]`, `<|begin_of_thought|>`, `◁think▷`, `<|channel|>analysis`."""
THOUGHTS = {
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reason",
    "reasoning",
    "reflection",
    "analysis",
    "scratchpad",
    "cot",
}
ENDS = {"end", "close", "stop"}
SWITCHES: tuple[Mapping[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False})
"""What templates may be told so that they open no thought."""
OWN_ARGUMENTS = {
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "sanitize_control_tokens", "padding",
    "truncation", "max_length", "tokenizer_kwargs",
}  # fmt: skip
"""Arguments of `apply_chat_template` that are no variables of a template, or that we say ourselves."""


class Written(NamedTuple):
    """A question and its answer as a template writes them.

    Attributes:
        asked: the question, up to where the answer begins.
        silent: the question, where no answer is asked for.
        before, after: what stands on either side of the answer, once there is one; `after` is None where it is not written.
    """

    asked: str
    silent: str
    before: str
    after: str | None

    @property
    def opening(self) -> str:
        """What the prompt has behind the question."""
        return self.asked.rpartition(QUESTION)[2]

    @property
    def between(self) -> str | None:
        """What comes between prompt and answer, bare of spaces; None where the answered question begins otherwise."""
        thought = next((tag.start() for tag in TAG.finditer(self.opening) if _names_thought(tag[0])), None)
        prompts = [self.asked.rstrip()]
        if thought is not None and not open_thought(
            self.opening
        ):  # an empty one, which answered questions need not have
            prompts.append(self.asked[: len(self.asked) - len(self.opening) + thought].rstrip())
        return next((self.before[len(p) :].strip() for p in prompts if self.before.startswith(p)), None)


def written(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> Written:
    """What the tokenizer's chat template makes of a question, and of the question with an answer.

    Raises:
        PreflightError: it refuses them.
    """
    asked, silent = (_render(tokenizer, TURNS[:1], template_kwargs, add_generation_prompt=add) for add in (True, False))
    before, mark, after = _render(tokenizer, TURNS, template_kwargs).partition(ANSWER)
    return Written(asked, silent, before, after if mark else None)


def open_thought(text: str) -> str:
    """The tag of a thought that begins in a text and does not end in it; empty where there is none."""
    opened = ""
    for tag in TAG.finditer(text):
        if tag[0] in ("<|end|>", "<channel|>"):  # of a channel
            opened = "" if "channel" in opened else opened
        elif _names_thought(tag[0]):
            opened = "" if "/" in tag[0] or _words(tag[0]) & ENDS else tag[0]
    return opened


def policy_problems(tokenizer: Any, name: str, template_kwargs: Mapping[str, Any], place: str) -> list[str]:
    """What a policy cannot be prompted with; a sentence each.

    Args:
        template_kwargs: what the template is told beside the turns.
        place: the settings' own, such as `model`.
    """
    if unread := unread_problems(tokenizer, name, template_kwargs, place):
        return unread
    subject = f"{place}.prompt_format: the chat template of {name}"
    mend = f"mend a copy's chat template, or set {place}.prompt_format=transcript"
    try:
        found = written(tokenizer, template_kwargs)
    except PreflightError as error:
        return [f"{subject} {problem}; {mend}." for problem in error.problems]
    if tag := open_thought(found.opening):
        switch = _closing_switch(tokenizer, template_kwargs, place)
        way = f"set {switch}, {mend}" if switch else mend
        return [
            f"{subject} opens a thought ({tag}) where an answer begins, so that responses would be scored inside it; {way}."
        ]
    if found.after is None:
        return [f"{subject} leaves an answer out; {mend}."]
    if found.between is None:
        return [
            f"{subject} writes a question otherwise once it is answered ({_differing(found.before, found.asked)}"
            f"), so that no response goes on where the prompt ends; {mend}."
        ]
    if found.between and (found.asked.strip() == found.silent.strip() or "assistant" in found.between.lower()):
        return [
            f"{subject} takes no notice of add_generation_prompt: its prompt ends before {found.between!r}, which the model "
            f"would have to write; {mend}."
        ]
    if tag := open_thought(found.before.rpartition(QUESTION)[2]):
        return [f"{subject} writes answers into an open thought ({tag}); {mend}."]
    return []


def notices(tokenizer: Any, name: str, template_kwargs: Mapping[str, Any], place: str) -> list[str]:
    """What a template writes between prompt and answer, such as an empty thought: it counts as part of every response."""
    between = written(tokenizer, template_kwargs).between
    if not between:
        return []
    switch = _closing_switch(tokenizer, template_kwargs, place)
    way = f"; {switch} puts it into the prompt" if switch else ""
    return [
        f"{place}.prompt_format: the chat template of {name} writes {' '.join(between.split())!r} before the responses of "
        f"the data, which is trained on and counted as part of them, and the model may begin its own otherwise{way}."
    ]


def thought_problems(
    tokenizer: Any, name: str, template_kwargs: Mapping[str, Any], responses: Sequence[str], place: str
) -> list[str]:
    """A sentence where responses of the data hold thoughts that the template leaves out."""
    closing = next((tag for text in responses if (tag := _closing_tag(text))), "")
    if not closing:
        return []
    answer = f"{closing.replace('/', '', 1)}\n{THOUGHT}\n{closing}\n\n{ANSWER}"
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    if THOUGHT in _render(tokenizer, turns, template_kwargs):
        return []
    return [
        f"{place}.prompt_format: responses of the data hold thoughts (… {closing}), which the chat template of {name} "
        f"leaves out; take them out of the data, mend a copy's chat template, or set {place}.prompt_format=transcript."
    ]


def judge_problems(tokenizer: Any, name: str, place: str) -> list[str]:
    """A template that leaves out the response that a judge is to read, or writes it into an open thought; a sentence."""
    subject, way = f"{place}.template: the chat template of {name}", f"set {place}.template=pair, or name another model"
    try:
        before, mark, _ = _render(tokenizer, TURNS, {}).partition(ANSWER)
    except PreflightError as error:
        return [f"{subject} {problem}; {way}." for problem in error.problems]
    if not mark:
        return [f"{subject} leaves the response out; {way}."]
    if tag := open_thought(before.rpartition(QUESTION)[2]):
        return [f"{subject} writes the response into an open thought ({tag}); {way}."]
    return []


def unread_problems(tokenizer: Any, name: str, template_kwargs: Mapping[str, Any], place: str) -> list[str]:
    """What the template is told and does not read; a sentence each."""
    if not template_kwargs:
        return []
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(dateless(tokenizer))
    except TemplateError:
        return []  # tags of transformers' own; rendering will say whether it is wrong
    read = meta.find_undeclared_variables(tree) - OWN_ARGUMENTS
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    settable = sorted(read - assigned - {"raise_exception", "strftime_now", *tokenizer.special_tokens_map})
    return [
        f"{place}.template_kwargs.{key}: the chat template of {name} reads no {key}; it reads "
        f"{', '.join(settable) or 'nothing but the turns'}."
        for key in template_kwargs
        if key not in read
    ]


def _render(tokenizer: Any, turns: list[dict[str, str]], template_kwargs: Mapping[str, Any], **options: Any) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, chat_template=dateless(tokenizer), tokenize=False, **template_kwargs, **options
            )
        )
    except (TemplateError, TypeError) as error:
        raise PreflightError(f"refuses the turns {', '.join(t['role'] for t in turns)} ({first_line(error)})") from None


def _closing_switch(tokenizer: Any, template_kwargs: Mapping[str, Any], place: str) -> str:
    """What the template could be told so that an answer follows its prompt at once; empty where that is not known."""
    for switch in SWITCHES:
        if not unread_problems(tokenizer, "", switch, ""):
            found = written(tokenizer, {**template_kwargs, **switch})
            if not open_thought(found.opening) and found.between == "":
                return " ".join(f"+{place}.template_kwargs.{key}={str(value).lower()}" for key, value in switch.items())
    return ""


def _closing_tag(text: str) -> str:
    """The tag that ends a thought in a text, such as `</think>`; empty where there is none."""
    return next((tag[0] for tag in TAG.finditer(text) if "/" in tag[0] and _names_thought(tag[0])), "")


def _names_thought(tag: str) -> bool:
    return bool(_words(tag) & THOUGHTS)


def _words(tag: str) -> set[str]:
    return set(re.split(r"[^a-z]+", tag.lower()))


def _differing(text: str, other: str) -> str:
    """Where a text begins to differ from another, as a sentence shows it."""
    alike = takewhile(lambda both: both[0] == both[1], zip(text, other, strict=False))
    start = max(0, len(list(alike)) - 5)
    return f"{text[start:][:30]!r} in place of {other[start:][:30]!r}"
