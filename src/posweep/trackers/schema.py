"""MLflow's tables in a sqlite file: made whole or not at all, and never changed where another MLflow made them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from posweep.trackers.address import url_of

LOCKED = 5.0
"""Seconds that another program may lock a store before anything is started."""
SETTLED = 5.0
"""Seconds without a change after which tables that are not whole are taken for abandoned."""
MAKING = 300.0
"""Seconds to wait for another process that makes the store."""


class Schema(NamedTuple):
    """What a file says of itself.

    Attributes:
        tables: names of its tables.
        revision: MLflow's mark of the version of its tables; empty where there is none.
        experiments: how many are in it; a store that is whole has one from the start.
    """

    tables: frozenset[str]
    revision: str
    experiments: int


def is_missing(file: Path) -> bool:
    """Whether there is no store yet: no file, or one without a byte."""
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def connect(file: Path) -> sqlite3.Connection:
    """A connection to a store that is there; one that is not is not made."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCKED)


def schema_problems(file: Path) -> list[str]:
    """Why MLflow would not open a store, with the way out; none where it would, or where there is no store yet."""
    try:
        schema = _settled(file)
    except sqlite3.Error as error:
        return [_unreadable(file, str(error))]
    if schema is None or not schema.tables or schema.revision == _revisions()[0]:
        return []
    if not {"alembic_version", "experiments"} & schema.tables:
        names = ", ".join(sorted(schema.tables)[:3])
        return [f"tracking.uri: {file} is of another program (tables {names}); name another file in tracking.uri."]
    if not schema.experiments:
        return [
            f"tracking.uri: the tables in {file} are not whole (what made them was ended before they were), and no run is "
            "in it; remove that file and launch again."
        ]
    mlflow = version("mlflow")
    if not schema.revision or schema.revision in _revisions()[1]:
        return [
            f"tracking.uri: an older MLflow than this {mlflow} made {file}; copy the file, then run mlflow db upgrade "
            f"'{url_of(file)}', or name another file in tracking.uri."
        ]
    return [
        f"tracking.uri: a newer MLflow than this {mlflow} made {file} (its tables are of {schema.revision}); run "
        "pip install -U mlflow, or name another file in tracking.uri."
    ]


def make_store(file: Path) -> None:
    """A whole store where there is none: made elsewhere, then put in place in one step; the first of several counts."""
    file = file.resolve()  # a link may point to where it is to be
    with _only_maker(file):
        if not is_missing(file):
            return
        with tempfile.TemporaryDirectory(prefix="posweep-mlflow-") as folder:
            made = Path(folder, "mlflow.db")
            _make_tables(made, file.parent / "mlruns")
            _put(made, file)


def _make_tables(file: Path, artifacts: Path) -> None:
    """MLflow's own tables, in a file that nobody else has."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(url_of(file), artifacts.as_uri()).engine.dispose()


def _put(made: Path, file: Path) -> None:
    """A file at its place, whole, unless one is there that holds anything."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    beside = Path(name)
    try:
        shutil.copyfile(made, beside)
        beside.chmod(made.stat().st_mode)
        if file.exists():  # without a byte; the lock says that nobody else is here
            beside.replace(file)
            return
        try:
            os.link(beside, file)
        except FileExistsError:
            return  # another process was faster, where locks do nothing
        except OSError:  # no links on this disk
            if not file.exists():
                beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _only_maker(file: Path) -> Iterator[None]:
    """Others wait; where a disk has no locks, or one is held for ever, several may make it and the first one counts."""
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=MAKING)
    except (OSError, NotImplementedError, Timeout):
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it finds the store; who comes later needs none
        lock.release()


def _settled(file: Path) -> Schema | None:
    """What a store says of itself, when nobody is making its tables (`mlflow ui` makes them in place)."""
    schema, since = _schema(file), time.monotonic()
    while schema and schema.tables and not schema.experiments and schema.revision != _revisions()[0]:
        if not {"alembic_version", "experiments"} & schema.tables or time.monotonic() - since > SETTLED:
            break
        time.sleep(0.2)
        if (now := _schema(file)) != schema:
            schema, since = now, time.monotonic()
    return schema


def _schema(file: Path) -> Schema | None:
    if is_missing(file):
        return None
    listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    with closing(connect(file)) as store:
        tables = frozenset(name for (name,) in store.execute(listed))
        revisions = store.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
        revision = next((number for (number,) in revisions), "")
        counted = store.execute("SELECT count(*) FROM experiments") if "experiments" in tables else [(0,)]
        return Schema(tables, revision, next(iter(counted))[0])


def _unreadable(file: Path, reason: str) -> str:
    if "locked" in reason:
        return (
            f"tracking.uri: another program has locked {file} for {LOCKED:g} seconds; end it, or go on with tracking=none "
            "and send everything later with posweep sync."
        )
    return f"tracking.uri: {file} cannot be read ({reason}); name another file in tracking.uri."


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """The newest revision that this MLflow knows, and all of them; read as text, for importing them takes seconds."""
    package = importlib.util.find_spec("mlflow")
    root = next(iter((package and package.submodule_search_locations) or ()))
    before: dict[str, str] = {}
    for script in Path(root, "store", "db_migrations", "versions").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        names = dict(re.findall(r"^(revision|down_revision)\s*(?::[^=]*)?=\s*(.*)$", text, re.MULTILINE))
        quoted = {name: re.findall(r"[\"']([^\"']+)[\"']", value) for name, value in names.items()}
        if quoted.get("revision"):
            before[quoted["revision"][0]] = " ".join(quoted.get("down_revision", ()))
    followed = {name for names in before.values() for name in names.split()}
    (newest,) = before.keys() - followed
    return newest, frozenset(before)
