"""What is finished, on disk: one atomic file per key, written before anything is sent anywhere.

ledger/KEY.json      the result: its presence means finished (or diverged, which is a result)
responses/KEY.json   the rows behind it, written first
logs/KEY.json, .log  a failure and its whole story; a later result removes them
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posweep.fields import plain
from posweep.records import HeldOutPair, Outcome, Response, TrialFailure, TrialResult, TrialSpec


@dataclass(frozen=True)
class Ledger:
    """The record of one sweep in its output folder."""

    folder: Path

    def write(self, outcome: Outcome) -> None:
        """Record a result; the rows come first, so that a result always has them. Its seconds gain those of writing."""
        began, key, result = time.perf_counter(), outcome.result.key, outcome.result
        rows = {"responses": plain(outcome.responses), "held_out": plain(outcome.held_out)}
        write_atomically(self._rows(key), rows)
        seconds = dict(result.seconds)
        if "record" not in seconds:  # a result fetched from a tracker was recorded before
            seconds["record"] = time.perf_counter() - began
            seconds["total"] = seconds.get("total", 0.0) + seconds["record"]
        write_atomically(self._result(key), {**result.to_json(), "seconds": seconds})
        self.forget_failure(key)

    def finished(self, plan: Iterable[TrialSpec]) -> dict[str, TrialResult]:
        """Results of the plan's trials under the plan's own judges, by key."""
        with _without_collecting():
            results = ((spec, self.result(spec.key)) for spec in plan)
            return {spec.key: result for spec, result in results if result and result.score_key == spec.score_key}

    def recorded(self) -> set[str]:
        """The keys that have a result, whatever plan they are of and whatever judged it."""
        return {file.stem for file in (self.folder / "ledger").glob("[!.]*.json")}

    def unreadable(self, keys: Iterable[str]) -> list[Path]:
        """Results that are there and cannot be read: their trials run again."""
        return [self._result(key) for key in keys if self._result(key).is_file() and self.result(key) is None]

    def result(self, key: str) -> TrialResult | None:
        """The result of a key, whatever judged it; None where there is none that can be read."""
        try:
            return TrialResult.from_json(_read(self._result(key)))
        except (AttributeError, TypeError):  # none, or fields are missing
            return None

    def outcome(self, key: str) -> Outcome | None:
        """A result with its rows."""
        result, rows = self.result(key), _read(self._rows(key))
        if result is None:
            return None
        try:
            return Outcome(
                result,
                tuple(Response.from_json(row) for row in rows["responses"]),
                tuple(HeldOutPair.from_json(row) for row in rows["held_out"]),
            )
        except (AttributeError, KeyError, TypeError):
            return None

    def fail(self, failure: TrialFailure, story: str) -> None:
        """Record a failure with its traceback."""
        self.log(failure.key).parent.mkdir(parents=True, exist_ok=True)
        self.log(failure.key).write_text(story, encoding="utf-8")
        write_atomically(self._failure(failure.key), failure.to_json())

    def forget_failure(self, key: str) -> None:
        """A failed trial runs again, or has run."""
        for file in (self._failure(key), self.log(key)):
            file.unlink(missing_ok=True)

    def failures(self, plan: Iterable[TrialSpec]) -> dict[str, TrialFailure]:
        """Failures of the plan's trials that no later result made good, by key."""
        found = [(spec, failure) for spec in plan if (failure := self._failed(spec.key))]
        made_good = self.finished(
            spec for spec, _ in found
        )  # a worker was killed in between, or another machine did it
        return {spec.key: failure for spec, failure in found if spec.key not in made_good}

    def _failed(self, key: str) -> TrialFailure | None:
        try:
            return TrialFailure.from_json(_read(self._failure(key)))
        except (AttributeError, TypeError):  # none, or fields are missing
            return None

    def log(self, key: str) -> Path:
        """Where the story of a failed trial is."""
        return self.folder / "logs" / f"{key}.log"

    def size(self, key: str) -> int:
        """Bytes of a finished trial's records."""
        return sum(file.stat().st_size for file in (self._result(key), self._rows(key)) if file.is_file())

    def _result(self, key: str) -> Path:
        return self.folder / "ledger" / f"{key}.json"

    def _rows(self, key: str) -> Path:
        return self.folder / "responses" / f"{key}.json"

    def _failure(self, key: str) -> Path:
        return self.folder / "logs" / f"{key}.json"


@contextmanager
def _without_collecting() -> Iterator[None]:
    """To look for garbage again and again among what is being read takes as long as reading it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def write_atomically(file: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of it."""
    write_text_atomically(file, json.dumps(content, indent=indent))


def write_text_atomically(file: Path, text: str) -> None:
    """The same of text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read(file: Path) -> Any:
    """A JSON file, or None where there is none or it is not whole (its trial runs again)."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
