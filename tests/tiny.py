"""posweep in this process, as a user types it, on the smallest things there are: a model, preferences, a judge."""

import contextlib
import functools
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from posweep.cli import main
from posweep.config import configure
from posweep.plan import Plan, make_plan
from posweep.settings import Configuration

from .judges.models import judge_folder
from .policy.families import make_model

SMOKE = ["sweep=smoke", "executor=local", "tracking=none"]
"""The smallest sweep there is, in this process and written down in its own folder only."""
QUESTIONS = [f"who is number {i}?" for i in range(24)]
SMALL = [
    "sweep=own", "executor=local", "executor.trial_resources.gpu=0", "model.dtype=float32", "model.lora.rank=0",
    "data.max_prompt_tokens=48", "data.max_response_tokens=16", "sample.max_new_tokens=8", "train.batch_size=8",
    "train.micro_batch_size=null", "evaluation.baseline_responses=2", "sweep.learning_rates=[1e-2]", "method=[dpo]",
    "method.dpo.grid.beta=[0.1]",
]  # fmt: skip
"""One trial of DPO on two steps."""


@dataclass(frozen=True)
class Ran:
    """What the command came to."""

    code: Any
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()


def posweep(*arguments: str) -> Ran:
    """The command; an exception that is no sentence comes through as it is.

    Chapters of reports are left out: nobody looks at them here, and their figures take longer than all the rest.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["posweep", *arguments]),
        patch("posweep.report.write.chapters", lambda _: []),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            return Ran(ended.code, out.getvalue(), err.getvalue())
    raise AssertionError("main() always exits")


def configured(arguments: Sequence[str]) -> Configuration:
    """The configuration; composed once, for that takes long."""
    return _configured(tuple(arguments))[0]


def planned(arguments: Sequence[str]) -> Plan:
    """Its plan."""
    return _configured(tuple(arguments))[1]


@functools.cache
def _configured(arguments: tuple[str, ...]) -> tuple[Configuration, Plan]:
    configuration = configure(arguments)
    return configuration, make_plan(configuration)


def write(folder: Path, **files: Iterable[dict[str, Any]]) -> Path:
    """JSON lines by the name of their file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pairs(questions: Sequence[str]) -> list[dict[str, str]]:
    """One pair a question."""
    return [{"prompt": q, "chosen": "nobody and you", "rejected": "a dog"} for q in questions]


@dataclass(frozen=True)
class World:
    """A model of the qwen family, preferences and a reward model, as folders."""

    home: Path

    @property
    def model(self) -> Path:
        return self.home / "model"

    @property
    def data(self) -> Path:
        return self.home / "pairs"

    @property
    def judge(self) -> Path:
        return self.home / "judge"

    def arguments(self, *changes: str, judge: str = "reward_model") -> list[str]:
        """The sweep on these, with some settings in place of its own."""
        given = [*SMALL, f"model.name={self.model}", f"data.path={self.data}"]
        if judge == "reward_model":
            given += [f"judge.reward_model.name={self.judge}", "judge.reward_model.dtype=float32"]
        return changed(given, *changes)


def changed(arguments: Sequence[str], *changes: str) -> list[str]:
    """Settings with others in their place; one that is written `~name` is left out."""
    replaced = {change.partition("=")[0].lstrip("~") for change in changes}
    kept = [one for one in arguments if one.partition("=")[0] not in replaced]
    return [*kept, *(change for change in changes if not change.startswith("~"))]


def make_world(home: Path) -> World:
    """The three folders."""
    make_model("qwen", home / "model")
    judge_folder(home / "judge", texts=["nobody and you", "a dog", *QUESTIONS], context=256)
    write(home / "pairs", train=pairs(QUESTIONS[:16]), iid=pairs(QUESTIONS[16:20]), ood=pairs(QUESTIONS[20:]))
    return World(home)
