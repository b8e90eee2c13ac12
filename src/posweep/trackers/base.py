"""What every tracker does: open a sweep, write trials, say which it holds, read everything back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from posweep.records import Outcome, SweepHeader, SweepRecord, TrialFailure, TrialSpec


class Tracker(Protocol):
    """What is written down of a sweep, and where people see it.

    All but `preflight` raise TrackerUnavailable where it does not do what it is asked to; the same may be asked again.
    """

    def preflight(self) -> list[str]:
        """What stands in the way, a sentence each; takes at most 5 seconds and leaves nothing behind."""
        ...

    def notes(self) -> list[str]:
        """What is to be known of it although nothing stands in the way, a sentence each."""
        ...

    def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
        """Find or make the place of a sweep.

        Raises:
            PreflightError: it says no, and will not say otherwise later.
        """
        ...

    def held(self) -> dict[str, str]:
        """The trials that are completely recorded: key → score key."""
        ...

    def failed(self) -> dict[str, str]:
        """The trials that are recorded as failed: key → what is said of it."""
        ...

    def write(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Record one trial; a second time is the same as once."""
        ...

    def fail(self, spec: TrialSpec, failure: TrialFailure, story: str) -> None:
        """Record that a trial failed, with the text of its log; `write` makes it good."""
        ...

    def fetch(self, key: str) -> Outcome | None:
        """A recorded trial with its rows."""
        ...

    def describe(self, header: SweepHeader, files: Sequence[Path]) -> None:
        """Record what belongs to the sweep as a whole, and some files."""
        ...

    def attach(self, folder: Path) -> None:
        """Put the report's folder beside the sweep."""
        ...

    def close(self, status: str) -> None:
        """Mark the sweep as finished, failed or killed."""
        ...

    def read(self, name: str) -> SweepRecord | None:
        """Everything a report is made from; None where nothing is held."""
        ...


@dataclass(frozen=True)
class NullTracker:
    """Writes nothing down: the ledger in the output folder is all there is."""

    def preflight(self) -> list[str]:
        """Nothing can stand in the way."""
        return []

    def notes(self) -> list[str]:
        """Nothing is to be known."""
        return []

    def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
        """Nothing to open."""

    def held(self) -> dict[str, str]:
        """Nothing is held."""
        return {}

    def failed(self) -> dict[str, str]:
        """Nothing is held."""
        return {}

    def write(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Nothing is written."""

    def fail(self, spec: TrialSpec, failure: TrialFailure, story: str) -> None:
        """Nothing is written."""

    def fetch(self, key: str) -> Outcome | None:
        """Nothing to fetch."""
        return None

    def describe(self, header: SweepHeader, files: Sequence[Path]) -> None:
        """Nothing is described."""

    def attach(self, folder: Path) -> None:
        """Nothing is attached."""

    def close(self, status: str) -> None:
        """Nothing to close."""

    def read(self, name: str) -> SweepRecord | None:
        """Nothing to read."""
        return None
