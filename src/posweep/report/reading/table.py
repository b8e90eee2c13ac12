"""Somebody's own table as the record of a sweep, so that everything downstream is one code path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from posweep.errors import DataError
from posweep.fields import fingerprint
from posweep.objectives import OBJECTIVES
from posweep.records import Status, SweepRecord, TrialResult, TrialSpec
from posweep.report.reading.columns import SETTINGS, Columns, columns_of, is_number
from posweep.report.reading.rows import Row, Rows, rows_of
from posweep.report.tables import is_win_rate

STATUS: Mapping[str, Status | None] = {
    "finished": "finished", "completed": "finished", "terminated": "finished",
    "diverged": "diverged",
    "failed": "failed", "crashed": "failed", "killed": "failed", "preempted": "failed", "error": "failed",
    "missing": None, "running": None, "pending": None, "scheduled": None, "preempting": None,
}  # fmt: skip
"""What posweep, W&B, MLflow and Ray call the ways in which a trial ends; None: it has not."""
FEW = 3  # places that a sentence lists


def read_table(
    table: pd.DataFrame | Path | str,
    metric: str | Sequence[str] = (),
    name: str = "",
    hyperparameters: Sequence[str] | None = None,
) -> SweepRecord:
    """The record of a table of one's own results, one row per trial: `write_report` and `Tables.of` take it.

    Columns are `method` (required), `seed`, `status`, metrics, and hyperparameters, which are the rest. A metric is called
    `<set>/<measure>`, is one of `records.MEASURES` (then its set is `evaluation`) or is named by `metric`; `<metric>_se` is
    its standard error. Exports of W&B, MLflow and Ray are read as they are: `config.beta`, `State`, `metrics.…`.

    Args:
        table: a data frame, or a file: CSV, TSV, JSON lines, a JSON list, parquet.
        metric: the column of the primary metric, or several columns that are metrics, the primary one first; where none
            is named, the only win-rate, else the first one, else the first metric.
        name: of the sweep; that of the file where empty.
        hyperparameters: the columns that are hyperparameters, where not all the rest are.

    Raises:
        DataError: everything that is wrong with the table, each with its file and line.
    """
    rows = rows_of(table)
    columns = columns_of(rows, (metric,) if isinstance(metric, str) and metric else tuple(metric), hyperparameters)
    found = _Reading(rows, columns)
    trials = [found.trial(row) for row in rows.rows]
    found.check_repeats(trials)
    if found.problems:
        raise DataError(found.sentences())
    stem = "table" if isinstance(table, pd.DataFrame) else Path(table).stem
    plan = tuple(spec for spec, _ in trials)
    results = {result.key: result for _, result in trials if result}
    return SweepRecord(name or stem, columns.primary, plan, results, facts=_facts(rows, columns))


def _facts(rows: Rows, columns: Columns) -> dict[str, Any]:
    """How the table was read, and what is the same in all of its rows."""
    told = {
        "table": Path(rows.name).name,
        "primary metric": f"{columns.primary}, {columns.chosen or 'named by who asked for the report'}",
        "hyperparameters": ", ".join(columns.hyperparameters),
        "columns not used": ", ".join(columns.unused),
    }
    return {name: value for name, value in told.items() if value} | dict(columns.constant)


@dataclass
class _Reading:
    """Reads row after row and keeps what is wrong, by what it is: one sentence for all rows with the same mistake."""

    rows: Rows
    columns: Columns
    problems: dict[tuple[str, str], tuple[str, list[str]]] = field(default_factory=dict)

    def trial(self, row: Row) -> tuple[TrialSpec, TrialResult | None]:
        """A row as a trial of the plan and what it came to."""
        spec, status = self.spec(row), self.status(row)
        ids = (spec.key, spec.response_key, spec.score_key)
        if status != "finished":
            return spec, TrialResult(*ids, status, seconds=self.seconds(row)) if status else None
        return spec, TrialResult(*ids, "finished", self.measures(row), seconds=self.seconds(row))

    def spec(self, row: Row) -> TrialSpec:
        """Its method, point and seed; keys are made of these, or are the table's own."""
        point = {name: row.cells[c] for name, c in self.columns.hyperparameters.items() if c in row.cells}
        for name, value in point.items():
            if is_number(value) and not math.isfinite(value):
                self.wrong(row, name, f"must be a finite number, got {value}")
        method, seed = self.method(row), self.seed(row)
        configuration = fingerprint([method, _even(point)])
        key = self.key(row) or fingerprint([configuration, seed])
        train = {name: value for name, value in point.items() if name in SETTINGS}
        own = {name: value for name, value in point.items() if name not in SETTINGS}
        how = {role: str(said) for role in ("prior", "design") if (said := self.cell(row, role)) is not None}
        return TrialSpec(
            key, key, key, configuration, method, own, train, seed, varied=tuple(point),
            prior=how.get("prior", "custom"), design=how.get("design", "list"),
        )  # fmt: skip

    def method(self, row: Row) -> str:
        """The method, by posweep's name for it where it has one."""
        found = self.cell(row, "method")
        if found is None:
            self.wrong(row, "method", "is empty")
        return known_method(str(found))

    def seed(self, row: Row) -> int:
        """The seed, 0 where the table has none."""
        if "seed" not in self.columns.roles:
            return 0
        found = self.cell(row, "seed")
        if not is_number(found) or not math.isfinite(found) or found != int(found):
            self.wrong(row, "seed", f"must be a whole number, got {found!r}" if found is not None else "is empty")
            return 0
        return int(found)

    def status(self, row: Row) -> Status | None:
        """How the trial ended; a table that does not say holds finished ones."""
        if "status" not in self.columns.roles:
            return "finished"
        found = self.cell(row, "status")
        if str(found).casefold() in STATUS:
            return STATUS[str(found).casefold()]
        said = "is empty" if found is None else f"must be finished, diverged or failed, got {found!r}"
        self.wrong(row, self.columns.roles["status"], said)
        return None

    def measures(self, row: Row) -> dict[str, float]:
        """The metrics of a finished trial; an empty cell is a metric that was not taken, but for the primary one."""
        found = {}
        for name, column in self.columns.metrics.items():
            if (value := row.cells.get(column)) is None:
                continue
            if said := _wrong_metric(name, value):
                self.wrong(row, column, said)
            else:
                found[name] = float(value)
        if self.columns.metrics[self.columns.primary] not in row.cells:
            said = "is empty; a trial that came to nothing needs a status, diverged or failed"
            self.wrong(row, self.columns.metrics[self.columns.primary], said)
        return found

    def seconds(self, row: Row) -> dict[str, float]:
        """How long the trial took, where that is a number."""
        found = self.cell(row, "seconds")
        return {"total": float(found)} if is_number(found) and 0 <= found < math.inf else {}

    def key(self, row: Row) -> str:
        """The table's own name for the run, where it tells runs apart."""
        return str(self.cell(row, "key")) if self.has_keys else ""

    @cached_property
    def has_keys(self) -> bool:
        """Whether every row has a name of its own."""
        column = self.columns.roles.get("key")
        return column is not None and len(set(map(str, self.rows.values(column)))) == len(self.rows.rows)

    def cell(self, row: Row, role: str) -> Any:
        """What the column of a role holds; None where there is none."""
        column = self.columns.roles.get(role)
        return None if column is None else row.cells.get(column)

    def wrong(self, row: Row, column: str, said: str) -> None:
        """Keep a mistake; rows with the same one share a sentence, which quotes the first."""
        kind = column, said.partition(",")[0]
        self.problems.setdefault(kind, (said, []))[1].append(row.place)

    def check_repeats(self, trials: Sequence[tuple[TrialSpec, TrialResult | None]]) -> None:
        """Two rows of one configuration and seed are two answers to one question."""
        first: dict[tuple[str, int], Row] = {}
        for row, (spec, _) in zip(self.rows.rows, trials, strict=True):
            before = first.setdefault((spec.configuration, spec.seed), row)
            if before is not row:
                point = ", ".join(f"{name} {value}" for name, value in spec.point.items())
                hint = "" if "seed" in self.columns.roles else " (a column seed tells repetitions apart)"
                said = f"is the same trial as {before.place}: {spec.method}, {point or 'no hyperparameters'}, "
                self.problems["repeat", row.place] = f"{said}seed {spec.seed}{hint}", [row.place]

    def sentences(self) -> list[str]:
        """One sentence per kind of mistake."""
        return [
            f"{places[0]}: {said if column == 'repeat' else f'{column} {said}'}{_also(places[1:])}."
            for (column, _), (said, places) in self.problems.items()
        ]


def _also(places: Sequence[str]) -> str:
    """Where else: ` (so are lines 4, 5, 6 and 12 more)`."""
    if not places:
        return ""
    numbers = [place.rpartition(":")[2] if ":" in place else place.rpartition(" ")[2] for place in places]
    more = f" and {len(numbers) - FEW} more" if len(numbers) > FEW else ""
    word = "line" if ":" in places[0] else places[0].rpartition(" ")[0].rpartition(" ")[2]
    return f" (also {word}{'s' * (len(numbers) > 1)} {', '.join(numbers[:FEW])}{more})"


def _wrong_metric(name: str, value: Any) -> str:
    """What is wrong with a metric's cell; empty where nothing is."""
    if not is_number(value):
        return f"must be a number, got {value!r}"
    if not math.isfinite(value):
        return f"must be a finite number, got {value}; leave the cell empty, or give the trial the status diverged"
    if name.endswith("_se") and value < 0:
        return f"is a standard error and must be at least 0, got {value:g}"
    if is_win_rate(name) and not name.endswith("_se") and not 0 <= value <= 1:
        return f"is a win-rate and must lie between 0 and 1, got {value:g}"
    return ""


def _even(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point in which 1 and 1.0 are the same value."""
    return {name: float(value) if is_number(value) else value for name, value in sorted(point.items())}


def known_method(text: str) -> str:
    """posweep's name of a method written in any of the usual ways (`LN-DPO`, `ln-dpo`); other texts as they are."""
    plain = text.strip().casefold().replace("-", "_").replace(" ", "_")
    by_title = {objective.title.casefold(): name for name, objective in OBJECTIVES.items()}
    return plain if plain in OBJECTIVES else by_title.get(text.strip().casefold(), text.strip())
