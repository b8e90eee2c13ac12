"""What travels between the stages and to disk: frozen records that survive a JSON round trip."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_origin, get_type_hints

from posweep.fields import plain

Status = Literal["finished", "diverged", "failed"]

DIVERGED_BY = "diverged_by"
"""The note of what a judge could not score: other judges may."""
JUDGED = ("win_rate_vs_sft", "win_rate_vs_chosen", "mean_score")
"""Measures by judge (no mean score, if it only compares); those of judges after the first are `<judge>/<measure>`."""
MEASURES = (
    *JUDGED, "kl_to_sft", "kl_to_sft_per_token", "response_length", "response_length_median", "response_length_p90",
    "length_ratio_sft", "length_ratio_chosen", "truncated", "distinct", "preference_accuracy", "chosen_logps_change",
    "rejected_logps_change",
)  # fmt: skip
"""What is measured on each evaluation set; docs/architecture.md defines every one."""


@functools.cache
def _tuple_fields(cls: type) -> frozenset[str]:
    """The fields that JSON turns into lists."""
    return frozenset(name for name, hint in get_type_hints(cls).items() if get_origin(hint) is tuple)


class JsonRecord:
    """A frozen dataclass that is written and read as a JSON object."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain dictionaries, lists, strings and numbers."""
        return plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        tuples = _tuple_fields(cls)  # type: ignore[arg-type]
        if not tuples:
            return cls(**data)
        return cls(**{name: tuple(value) if name in tuples else value for name, value in data.items()})


@dataclass(frozen=True)
class Message(JsonRecord):
    """One turn of a conversation: who (`system`, `user` or `assistant`) said what."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""One question, or the turns of a conversation that ends with the user's."""


def messages(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as the turns of a conversation: one question is one turn of the user."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def prompt_text(prompt: Prompt) -> str:
    """A prompt as people read it: one question as it is, a conversation turn by turn."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in prompt)


def prompt_of(found: Any) -> Prompt:
    """The prompt that JSON holds: text, or a list of turns. A lone question is text, however it was written."""
    if isinstance(found, str):
        return found
    turns = tuple(turn if isinstance(turn, Message) else Message.from_json(turn) for turn in found)
    return turns[0].content if len(turns) == 1 and turns[0].role == "user" else turns


@dataclass(frozen=True)
class PreferencePair(JsonRecord):
    """One prompt, the response an annotator preferred, and the other one.

    Of data with a label per response in place of pairs, `rejected` answers a prompt of its own.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    rejected_prompt: Prompt | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The pair that `to_json` wrote."""
        other = data.get("rejected_prompt")
        prompt = None if other is None else prompt_of(other)
        return cls(prompt_of(data["prompt"]), data["chosen"], data["rejected"], prompt)


@dataclass(frozen=True)
class Example(JsonRecord):
    """One prompt and one response to imitate."""

    prompt: Prompt
    response: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The example that `to_json` wrote."""
        return cls(prompt_of(data["prompt"]), data["response"])


@dataclass(frozen=True)
class TrialSpec(JsonRecord):
    """One trial of the plan: everything that determines its numbers, under three nested keys.

    `design` says how its point was chosen: `grid`, `list`, `random`, `qmc`, or `adaptive` by a search that saw scores.
    """

    key: str
    response_key: str
    score_key: str
    configuration: str
    method: str
    hyperparameters: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    varied: tuple[str, ...] = ()
    block: int = 0
    prior: str = "recommended"
    design: str = "grid"

    @property
    def point(self) -> dict[str, Any]:
        """The values that tell this configuration from its neighbours: hyperparameters, learning rate, varied settings."""
        shared = {name: self.train[name] for name in ("learning_rate", *self.varied) if name in self.train}
        return {**self.hyperparameters, **shared}


@dataclass(frozen=True)
class Response(JsonRecord):
    """One response of a trial's policy to one evaluation prompt. `length` in tokens with the end token; `kl` in nats."""

    set: str
    index: int
    prompt: str
    text: str
    length: int
    truncated: bool
    kl: float
    kl_length: int
    scores: Mapping[str, float] = field(default_factory=dict)
    wins: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Opponents(JsonRecord):
    """What responses to one evaluation prompt are compared with, as texts, with lengths in tokens and scores by judge.

    Attributes:
        chosen: the data's chosen response.
        sft: K responses of the SFT model.
        fresh: K more of them, from a noise stream of their own: the A/A row, and what best-of-n chooses among.
        scores: judge → `chosen`, `sft`, `fresh` → scores; judges that compare have none.
        fresh_wins: of each fresh response, named as those of `Response`.
    """

    set: str
    index: int
    prompt: str
    chosen: str
    chosen_length: int
    sft: tuple[str, ...]
    sft_lengths: tuple[int, ...]
    fresh: tuple[str, ...]
    fresh_lengths: tuple[int, ...]
    scores: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    fresh_wins: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutPair(JsonRecord):
    """How a trial's policy sees one held-out pair; changes of log π(y|x) against the SFT model, nats."""

    set: str
    index: int
    chosen_reward: float
    rejected_reward: float
    chosen_logps_change: float
    rejected_logps_change: float


@dataclass(frozen=True)
class TrialResult(JsonRecord):
    """What a trial came to: its measures, its training curves (at most 200 points each), its seconds by stage.

    `measures` are named `<set>/<measure>`; `along` holds the same at each earlier point of `train.evaluate_at`; `notes`
    what happened on the way: `resumed_at` (steps); `micro_batch_size` (pairs) and `sample_batch_size` (responses), where
    memory ran out; `checkpoint` and `policy`, which could not be written; `diverged_by`, what a judge could not score.
    """

    key: str
    response_key: str
    score_key: str
    status: Status
    measures: Mapping[str, float] = field(default_factory=dict)
    along: tuple[Mapping[str, Any], ...] = ()
    curves: Mapping[str, list[list[float]]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    started_at: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome(JsonRecord):
    """A trial's result with the rows behind it.

    What a judge could not score has diverged, and keeps its rows for other judges.
    """

    result: TrialResult
    responses: tuple[Response, ...] = ()
    held_out: tuple[HeldOutPair, ...] = ()

    @property
    def wants_only_judges(self) -> bool:
        """Whether other judges need nothing but what is here: the responses, or that there are none to judge."""
        return not self.result.along and (bool(self.responses) or DIVERGED_BY not in self.result.notes)

    @property
    def judged(self) -> tuple[Response, ...]:
        """The responses, where they have been judged."""
        return self.responses if self.result.status == "finished" else ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The outcome that `to_json` wrote."""
        return cls(
            TrialResult.from_json(data["result"]),
            tuple(Response.from_json(row) for row in data["responses"]),
            tuple(HeldOutPair.from_json(row) for row in data["held_out"]),
        )


@dataclass(frozen=True)
class SweepHeader(JsonRecord):
    """What belongs to a sweep as a whole; its fields are those of `SweepRecord`."""

    name: str
    primary_metric: str
    baseline: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialFailure(JsonRecord):
    """A trial that a mistake or the machine ended: the first line, the class and the log with the whole story.

    `kind`: `bug` (an exception), `memory` (not even one pair at a time fits), `judge` (none answers), `lost` (its worker or
    node went away more often than `executor.retries` allows).
    """

    key: str
    error: str
    message: str
    log: str = ""
    kind: str = "bug"

    @property
    def said(self) -> str:
        """The failure in one line."""
        return f"{self.error}: {self.message}"[:500]


@dataclass(frozen=True)
class SweepRecord:
    """What a tracker holds of a sweep: everything a report is made from.

    Attributes:
        name: of the sweep.
        primary_metric: `<set>/<measure>`, declared before the sweep ran.
        plan: every trial that belongs to the sweep.
        results: what each trial came to, by key; keys without a result are not finished.
        responses: per-prompt rows by key.
        baseline: the SFT model's own measures, `<set>/<measure>`; its `win_rate_vs_sft` is the A/A row and must be ½.
        facts: what else a reader should know: `judge/<name>/<fact>` numbers, `commit`, `data`, `model` texts.
        opponents: what responses were compared with, by prompt; empty in records of older versions.
        others: trials the tracker holds that the plan does not name.
        run_urls: where each trial's run is shown, by key.
    """

    name: str
    primary_metric: str
    plan: tuple[TrialSpec, ...]
    results: Mapping[str, TrialResult]
    responses: Mapping[str, tuple[Response, ...]] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    opponents: tuple[Opponents, ...] = ()
    others: int = 0
    run_urls: Mapping[str, str] = field(default_factory=dict)

    def planned(self) -> SweepRecord:
        """The record without the trials of a search and all that is known of them; itself where there are none."""
        gone = {spec.key for spec in self.plan if spec.design == "adaptive"}
        if not gone:
            return self
        kept: Any = {
            name: {key: value for key, value in getattr(self, name).items() if key not in gone}
            for name in ("results", "responses", "run_urls")
        }
        return dataclasses.replace(self, plan=tuple(spec for spec in self.plan if spec.key not in gone), **kept)
