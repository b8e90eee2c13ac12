"""From what is recorded to the page: the tracker's record of a sweep, or the ledger's where no tracker answers."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from posweep.errors import ConfigError, PreflightError, TrackerUnavailable
from posweep.fields import fingerprint
from posweep.folder import HEADER, PLAN, folder_of, folder_problems, read_header, read_opponents
from posweep.identity import ownership_problems, read_plan
from posweep.invocation import command
from posweep.ledger import Ledger
from posweep.records import SweepRecord, TrialResult
from posweep.settings import Configuration
from posweep.trackers import Tracker, open_tracker

STAMP = ".made_from"
"""Beside a report that a launch wrote: a fingerprint of the plan and the results in it."""


def publish(configuration: Configuration) -> Path:
    """Figures, tables and report.html from what the tracker holds; ConfigError where that is nothing."""
    return _write(configuration, *_read(configuration))


def publish_comparison(configurations: Sequence[Configuration]) -> Path:
    """The page of several sweeps, in `<output_dir>/<a+b>/report`, and each sweep's own, to which it links.

    Raises:
        ConfigError: of any sweep nothing is recorded; all of them.
        PreflightError: a tracker does not answer.
    """
    from posweep.report.compare import write_comparison

    found, problems = [], []
    for configuration in configurations:
        try:
            found.append((configuration, *_read(configuration)))
        except ConfigError as error:
            problems.append(error)
    if problems:
        raise type(problems[0])(dict.fromkeys(problem for error in problems for problem in error.problems))
    own = {record.name: _write(configuration, record, tracker) for configuration, record, tracker in found}
    folder = folder_of(configurations[0]).with_name("+".join(own)) / "report"
    return write_comparison(
        [record for _, record, _ in found], folder, {name: relative_address(page, folder) for name, page in own.items()}
    )


def relative_address(page: Path, folder: Path) -> str:
    """A page's address as seen from another folder."""
    return quote(Path(os.path.relpath(page, folder)).as_posix())


def _read(configuration: Configuration) -> tuple[SweepRecord, Tracker]:
    """What is recorded of a sweep, and where."""
    tracker = open_tracker(configuration.tracking)
    if problems := ownership_problems(folder_of(configuration), configuration.sweep.name):
        raise ConfigError(problems)
    if problems := tracker.preflight():
        raise PreflightError(problems)
    try:
        with _kept():
            record = tracker.read(configuration.sweep.name)
    except TrackerUnavailable as error:
        raise TrackerUnavailable(
            f"tracking.uri: {configuration.tracking.uri} does not answer ({error}); try again, or add tracking=none to "
            "report from the output folder."
        ) from error
    if record is None and configuration.tracking.kind == "none":
        record = _record_of_ledger(configuration)
    if record is None:
        raise ConfigError(
            f"sweep={configuration.sweep.name}: nothing is recorded at {configuration.tracking.uri or 'the ledger'}; "
            f"run {command(configuration)} first, or set tracking.uri to where it was recorded."
        )
    return record, tracker


def publish_table(
    table: str, metrics: list[str] | None, name: str, to: str, hyperparameters: list[str] | None
) -> tuple[SweepRecord, Path]:
    """The same of a table of one's own results; its record tells how the table was read.

    Raises:
        DataError: the table holds mistakes; all of them.
        ConfigError: the report would lie where a sweep keeps its own, or a name is no name of a folder.
    """
    from posweep.report import read_table, write_report

    record = read_table(table, metrics or (), name, hyperparameters)
    if Path(record.name).name != record.name:
        raise ConfigError(f"name: must be the name of a folder, got {record.name!r}.")
    folder = Path(to) if to else Path("outputs", record.name, "report")
    if (folder.parent / PLAN).is_file():
        raise ConfigError(f"name={record.name}: {folder} is the report of a sweep; give this one name=… or to=FOLDER.")
    if problems := folder_problems(folder.absolute()):
        raise ConfigError(problem.replace("output_dir", "to") for problem in problems)
    return record, write_report(record, folder)


@contextmanager
def _kept() -> Iterator[None]:
    """What is read inside stays: to look for garbage among half a million rows takes as long as reading them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def refresh(configuration: Configuration, finished: Mapping[str, TrialResult], tracker: Tracker | None) -> None:
    """Write the report where there is none, or one of other trials, judges or another metric; without a tracker, from
    the ledger."""
    folder = folder_of(configuration)
    keys = {key: result.score_key for key, result in finished.items()}
    made_from = fingerprint([(folder / PLAN).read_text(encoding="utf-8"), configuration.sweep.primary_metric, keys])
    stamp = folder / "report" / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        return
    record = None
    with _kept(), suppress(TrackerUnavailable):
        record = tracker.read(configuration.sweep.name) if tracker else None
    record = record or _record_of_ledger(configuration)
    if record:
        with suppress(TrackerUnavailable):  # the page is there; the next launch or sync attaches it
            _write(configuration, record, tracker)
            if tracker:
                stamp.write_text(made_from, encoding="utf-8")


def _write(configuration: Configuration, record: SweepRecord, tracker: Tracker | None) -> Path:
    from posweep.report import write_report

    page = write_report(record, folder_of(configuration) / "report")
    (page.parent / STAMP).unlink(missing_ok=True)  # whoever wrote it says what it was made from
    if tracker:
        try:
            tracker.attach(page.parent)
        except TrackerUnavailable as error:
            raise TrackerUnavailable(
                f"{page} is written, but MLflow did not take it ({error}); send it with: {command(configuration, 'sync')}"
            ) from error
    return page


def _record_of_ledger(configuration: Configuration) -> SweepRecord | None:
    """What a report needs, from the output folder: where there is no tracker, or none that answers."""
    folder = folder_of(configuration)
    if not (folder / HEADER).is_file():
        return None
    plan, ledger = read_plan(folder, configuration.sweep.name), Ledger(folder)
    outcomes = {key: ledger.outcome(key) for key in ledger.finished(plan)}
    return SweepRecord(
        **vars(read_header(folder)), plan=plan.trials,
        results={key: outcome.result for key, outcome in outcomes.items() if outcome},
        responses={key: outcome.judged for key, outcome in outcomes.items() if outcome},
        opponents=read_opponents(folder),
    )  # fmt: skip
