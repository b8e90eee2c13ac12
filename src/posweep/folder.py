"""Where a sweep keeps everything it writes, and who may write there."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from posweep.errors import ConfigError, NoRoom, PreflightError, first_line, no_room
from posweep.records import Opponents, SweepHeader
from posweep.settings import Configuration

T = TypeVar("T")
RUNNING, HEADER, PLAN, CONFIG, LOCK = "running.json", "sweep.json", "plan.jsonl", "config.yaml", ".lock"
COMMITS, OPPONENTS, IDENTITY, LAUNCH = "commits.json", "opponents.json", "identity.json", "launch.json"
STOP = "stop"
"""While it lies in the sweep's folder, trials write a checkpoint and give up their place: the driver was interrupted."""
DRIVER = "driver"
"""Names the driver of the last launch; trials of an earlier one, which may have been killed, give up their place."""


def folder_of(configuration: Configuration) -> Path:
    """Where a sweep keeps everything it writes."""
    return Path(configuration.output_dir).absolute() / configuration.sweep.name


def policy_folder(folder: Path, key: str) -> Path:
    """Where a trained policy is kept."""
    return folder / "policies" / key


def checkpoint_file(folder: Path, key: str) -> Path:
    """Where a trial that is not finished goes on."""
    return folder / "checkpoints" / f"{key}.pt"


def take_over(folder: Path) -> str:
    """Make this launch the one whose trials count; its name."""
    driver = uuid.uuid4().hex
    temporary = folder / f".{DRIVER}-{driver}"
    temporary.write_text(driver, encoding="utf-8")
    temporary.replace(folder / DRIVER)
    return driver


def asked_to_stop(folder: Path, driver: str = "") -> bool:
    """Whether trials are to give up their place: the sweep stops, or another driver has taken it over."""
    return (folder / STOP).exists() or taken_over(folder, driver)


def taken_over(folder: Path, driver: str) -> bool:
    """Whether a later launch runs the trials of a driver's workers, which must not record a second result."""
    try:
        return bool(driver) and (folder / DRIVER).read_text(encoding="utf-8") != driver
    except OSError:
        return False


def note_running(folder: Path, keys: Iterable[str]) -> None:
    """Note the trials that run now, whole or not at all; a note that a power failure takes is not missed."""
    temporary = folder / f".{RUNNING}"
    temporary.write_text(json.dumps(list(keys)), encoding="utf-8")
    temporary.replace(folder / RUNNING)


def running_keys(folder: Path) -> set[str]:
    """The trials that run now; none where a driver died and left its note behind, for then its lock is free."""
    try:
        noted = set(json.loads((folder / RUNNING).read_text(encoding="utf-8")))
        with FileLock(folder / LOCK, timeout=0):
            return set()
    except Timeout:
        return noted
    except (OSError, ValueError):
        return set()


def folder_problems(folder: Path) -> list[str]:
    """The output folder, or the nearest one above it that exists, must take files."""
    there = existing(folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [f"output_dir: {there} is no folder that can be written; set output_dir to one."]


@contextmanager
def needs_room(folder: Path) -> Iterator[None]:
    """Where a file could not be written inside, because its disk is full or read-only, a sentence says so.

    Raises:
        NoRoom: nothing could be written.
    """
    try:
        yield
    except NoRoom:
        raise
    except Exception as error:
        if reason := no_room(error):
            raise NoRoom(f"output_dir: {folder}", reason) from None
        raise


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(above for above in (folder, *folder.parents) if above.exists())


@contextmanager
def only_driver(folder: Path, name: str) -> Iterator[None]:
    """One driver per sweep; the system releases the lock of one that died."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise PreflightError(
            f"sweep.name: another posweep is running sweep {name} in {folder}; wait for it, or give this one another name."
        ) from None
    finally:
        if not existed and not any(folder.glob("[!.]*")):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def read_header(folder: Path) -> SweepHeader:
    """What belongs to the sweep as a whole, as the last launch wrote it."""
    return read_json(folder / HEADER, SweepHeader.from_json)


def read_opponents(folder: Path) -> tuple[Opponents, ...]:
    """What responses are compared with, as the last launch wrote it; none where it wrote nothing."""
    file = folder / OPPONENTS
    return read_json(file, lambda rows: tuple(map(Opponents.from_json, rows))) if file.is_file() else ()


def read_json(file: Path, parse: Callable[[Any], T], way_out: str = "the next launch writes it anew") -> T:
    """What a file of the sweep's folder holds.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"{file}: cannot be read ({first_line(error)}); {way_out}.") from None


def clear_damaged(folder: Path) -> list[str]:
    """Remove what a launch writes anew where it cannot be read; a sentence each."""
    said = []
    for name, read in {HEADER: read_header, OPPONENTS: read_opponents}.items():
        try:
            read(folder)
        except FileNotFoundError:
            continue
        except ConfigError as error:
            (folder / name).unlink()
            (folder / HEADER).unlink(missing_ok=True)  # they are made together
            said.append(str(error).replace("the next launch writes it anew", "it is written anew"))
    return said
