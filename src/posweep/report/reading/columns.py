"""What each column of somebody's own table is: the method, a hyperparameter, a metric, or nothing to a report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posweep.errors import DataError
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.records import MEASURES
from posweep.report.reading.rows import Rows
from posweep.report.tables import IDENTITY, STATUSES, is_win_rate
from posweep.settings import TrainSettings

SET = "evaluation"
"""The evaluation set of a metric that names none."""
CONFIGURED = re.compile(r"^(?:config|params|hparams)[./]")
"""How W&B, MLflow and Ray mark a setting of the run."""
MEASURED = re.compile(r"^(?:summary|metrics)\.")
"""How they mark what came out."""
ROLES = {
    "method": ("method",),
    "seed": ("seed",),
    "status": ("status", "state"),
    "key": ("key", "id", "run_id", "trial_id"),
    "seconds": ("_runtime", "runtime", "_wandb.runtime", "time_total_s", "seconds"),
    "prior": ("prior",),
    "design": ("design",),
}
"""What a table may say of a trial besides its point and its metrics, and what such a column may be called."""
SETTINGS = frozenset(setting.name for setting in dataclasses.fields(TrainSettings))
KNOWN = SETTINGS | {name for objective in OBJECTIVES.values() for name in hyperparameters(objective)}
OWN = frozenset((*IDENTITY, *STATUSES, "trials"))
"""Names that the report's own tables use."""
NO_SETTING = frozenset((
    "", "artifact_uri", "checkpoint_dir_name", "command", "commit", "cpu count", "created", "date", "description",
    "done", "end time", "end_time", "entity", "experiment_id", "github", "gpu count", "gpu type", "group", "host",
    "hostname", "index", "iterations_since_restore", "job type", "logdir", "logical cpu count", "name", "node_ip",
    "notes", "os", "pid", "project", "python version", "relative time (process)", "relative time (wall)",
    "should_checkpoint", "start time", "start_time", "sweep", "tags", "time_since_restore", "time_this_iter_s",
    "timestamp", "training_iteration", "updated", "url", "user",
))  # fmt: skip
"""Columns that W&B, MLflow and Ray add of themselves, in lower case."""


@dataclass(frozen=True)
class Columns:
    """What each column is.

    Attributes:
        roles: role (a name of `ROLES`) → column.
        metrics: `<set>/<measure>` → column, in the order of the table.
        hyperparameters: name → column.
        primary: the primary metric.
        chosen: why it is that one, where the user named none.
        constant: name → value of what is the same in every row and no known hyperparameter.
        unused: columns that a report has no use for.
    """

    roles: Mapping[str, str]
    metrics: Mapping[str, str]
    hyperparameters: Mapping[str, str]
    primary: str
    chosen: str = ""
    constant: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def columns_of(table: Rows, metrics: Sequence[str] = (), named: Sequence[str] | None = None) -> Columns:
    """What each column is.

    Args:
        table: the rows.
        metrics: columns that the user says are metrics, the primary one first.
        named: columns that the user says are the hyperparameters, and no others; None lets posweep tell.

    Raises:
        DataError: every reason why this is no table of trials.
    """
    plain = {column: MEASURED.sub("", CONFIGURED.sub("", column)) for column in table.columns}
    roles = _roles(plain)
    problems = _absent(table, plain, [*metrics, *(named or ())])
    if "method" not in roles:
        listed = ", ".join(name for name in table.columns if name) or "none"
        problems.append(f"{table.name}: has no column 'method'; rename the one that says it ({listed}).")
    left = [column for column in table.columns if column not in roles.values()]
    outcomes = [column for column in left if _is_metric(table, column, plain[column], metrics)]
    measured = {metric_name(plain[column]): column for column in reversed(outcomes)}
    measured = dict(reversed(measured.items()))
    problems += [
        f"{table.name}: {column} and {measured[metric_name(plain[column])]} are the same metric; remove one."
        for column in outcomes
        if column not in measured.values()
    ]
    if not any(not name.endswith("_se") for name in measured):
        problems.append(
            f"{table.name}: has no metric; a column of one is called <set>/<measure>, such as ood/win_rate_vs_sft, "
            "or named with metric=COLUMN."
        )
    if problems:
        raise DataError(problems)
    left = [column for column in left if column not in measured.values()]
    points, constant, unused = _settings(table, plain, left, named)
    problems += _collisions(table, points, [column for column in left if column not in unused], plain)
    if problems:
        raise DataError(problems)
    primary, chosen = (metric_name(metrics[0]), "") if metrics else _primary(list(measured))
    return Columns(roles, measured, points, primary, chosen, constant, tuple(unused))


def metric_name(name: str) -> str:
    """A metric as `<set>/<measure>`."""
    name = MEASURED.sub("", name)
    return name if "/" in name else f"{SET}/{name}"


def _roles(plain: Mapping[str, str]) -> dict[str, str]:
    """The first column that plays each role; what a run was configured with says nothing of how it ended."""
    found: dict[str, str] = {}
    for role, names in ROLES.items():
        allowed = {c: p.casefold() for c, p in plain.items() if role in ("method", "seed") or not CONFIGURED.match(c)}
        matching = [column for name in names for column, called in allowed.items() if called == name]
        found |= {role: matching[0]} if matching else {}
    return found


def _absent(table: Rows, plain: Mapping[str, str], named: Iterable[str]) -> list[str]:
    there = {*plain, *plain.values(), *(metric_name(name) for name in plain.values())}
    listed = ", ".join(name for name in table.columns if name) or "none"
    return [f"{table.name}: has no column {name!r}; it has {listed}." for name in named if name not in there]


def _is_metric(table: Rows, column: str, plain: str, named: Sequence[str]) -> bool:
    """Whether the user says so, its name does, or a tracker marks it as an outcome and it holds numbers."""
    if {column, plain, metric_name(plain), plain.removesuffix("_se")} & set(named):
        return True
    if CONFIGURED.match(column) or plain.startswith(("_", "tags.")):
        return False
    if MEASURED.match(column):
        return all(map(is_number, table.values(column)))
    return "/" in plain or plain.removesuffix("_se") in MEASURES


def is_number(value: Any) -> bool:
    """Whether a cell holds a number: a truth is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _settings(
    table: Rows, plain: Mapping[str, str], left: Sequence[str], named: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Hyperparameters by name, what is the same everywhere, and columns of no use."""
    points: dict[str, str] = {}
    constant: dict[str, Any] = {}
    unused: list[str] = []
    marked = any(CONFIGURED.match(column) for column in left)
    for column in left:
        name = plain[column].replace("/", ".")  # a slash would make it a metric
        values = {str(value) for value in table.values(column)}
        if named is not None:
            points |= {name: column} if {column, plain[column]} & set(named) else {}
            unused += [] if name in points else [column]
        elif _of_no_use(table, column, plain[column], marked) or not values:
            unused.append(column)
        elif len(values) == 1 and name not in KNOWN and len(table.values(column)) == len(table.rows):
            constant[name] = table.values(column)[0]
        else:
            points[name] = column
    return points, constant, [column for column in unused if column]


def _of_no_use(table: Rows, column: str, plain: str, marked: bool) -> bool:
    """A tracker's own column, an outcome, a text that names the run, or one not marked as setting where others are."""
    if MEASURED.match(column) or plain.startswith(("_", "tags.")):
        return True
    if CONFIGURED.match(column):
        return _names_the_run(table, column)
    return marked or plain.casefold() in NO_SETTING or plain.casefold() in OWN or _names_the_run(table, column)


def _names_the_run(table: Rows, column: str) -> bool:
    """Whether it is a text that differs in every row."""
    values = table.values(column)
    texts = all(isinstance(value, str) for value in values)
    return texts and len(table.rows) > 2 and len(set(values)) == len(table.rows)


def _collisions(table: Rows, points: Mapping[str, str], columns: Sequence[str], plain: Mapping[str, str]) -> list[str]:
    """Two columns for one setting, and settings under names of the report's own."""
    kept = {column: points.get(plain[column].replace("/", "."), column) for column in columns}
    found = [
        f"{table.name}: {column} and {other} are the same hyperparameter; remove one."
        for column, other in kept.items()
        if column != other
    ]
    return found + [
        f"{table.name}: {c} is a name of the report's own; rename it." for n, c in points.items() if n in OWN
    ]


def _primary(metrics: Sequence[str]) -> tuple[str, str]:
    """The metric that a report is about where nobody said, and why."""
    values = [name for name in metrics if not name.endswith("_se")]
    wins = [name for name in values if is_win_rate(name)]
    if len(wins) == 1:
        return wins[0], "the only win-rate"
    first = (wins or values)[0]
    return first, f"the first {'win-rate' if wins else 'metric'} of the table"
