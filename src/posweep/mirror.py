"""Who copies what when, where `executor.storage` names a place: a worker's own folder, and the driver's output folder.

    worker    before a trial: its checkpoint, and rows that only want other judges, are pulled;
              during it: checkpoints are pushed when they are written, the request to stop is looked for;
              after it: policy, rows and then the result are pushed, or log and failure; its own copies are removed
    driver    at launch: what is finished there and not here is pulled; what the trials to come need is pushed;
              on events: the ended trial's files are pulled
    both      artifacts, by kind and fingerprint, when they are made or missing

Without a storage all of them work in the sweep's output folder, and nothing is copied (`NoMirror`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from posweep.errors import PosweepError, StorageUnavailable
from posweep.folder import DRIVER, STOP
from posweep.ledger import Ledger, write_atomically
from posweep.records import TrialSpec
from posweep.settings import Configuration
from posweep.storage import Storage

POLL = 2.0
"""Seconds between looks: for the request to stop there, for a new checkpoint here."""
MANIFEST = "manifest.json"
"""What says that an artifact is complete."""


class NoMirror:
    """One folder for all: nothing is copied."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fetch(self, name: str, into: Path) -> bool:
        """Copy an artifact into a folder; whether there was one."""
        return False

    def offer(self, name: str) -> None:
        """Copy an artifact there, if it is missing there."""

    @contextmanager
    def trial(self, key: str) -> Iterator[None]:
        """A worker's trial: what it needs is here when it begins, what it leaves is there when it ends."""
        yield

    def gather(self, plan: Iterable[TrialSpec]) -> None:
        """The driver takes what is finished there and not here."""

    def prepare(self, keys: Iterable[str]) -> None:
        """The driver gives what trials to come can use, and takes their failures away."""

    def collect(self, key: str) -> bool:
        """The driver takes what an ended trial left; whether it could."""
        return True

    def settle(self) -> list[str]:
        """The driver takes what it could not take before: the keys. StorageUnavailable where it still cannot."""
        return []

    def ask_to_stop(self) -> None:
        """Every worker is to write a checkpoint and give up its place."""

    def take_over(self) -> None:
        """From now on the trials of this driver count, and those of workers of earlier ones do not."""

    def go_on(self) -> None:
        """Nobody is asked to stop."""


class Mirror(NoMirror):
    """A folder here and the sweep's files in a storage."""

    def __init__(self, folder: Path, storage: Storage):
        super().__init__(folder)
        self.storage = storage

    def fetch(self, name: str, into: Path) -> bool:
        """Copy an artifact into a folder; whether there was one."""
        return self.storage.pull_folder(name, into)

    def offer(self, name: str) -> None:
        """Copy an artifact there, if it is missing there."""
        if not self.storage.has(f"{name}/{MANIFEST}"):
            self.storage.push_folder(self.folder / name, name, last=MANIFEST)

    def _push(self, name: str) -> None:
        """Copy a file or folder of that name there, if it is here."""
        here = self.folder / name
        if here.is_dir():
            self.storage.push_folder(here, name)
        elif here.is_file():
            self.storage.push(here, name)


class WorkerMirror(Mirror):
    """A worker's side: the folder is a node's own, and holds no trial but those that run."""

    def __init__(self, folder: Path, storage: Storage):
        super().__init__(folder, storage)
        self._pushed: dict[str, int] = {}

    @contextmanager
    def trial(self, key: str) -> Iterator[None]:
        """Pull, look while it runs, push."""
        self._look_for_stop()
        self._begin(key)
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(key, ended), name="posweep-mirror", daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
        self._hand_over(key)

    def _begin(self, key: str) -> None:
        """What was there before, from this or another node; an old failure is none any more."""
        self.storage.pull(_checkpoint(key), self.folder / _checkpoint(key))
        if self.storage.has(_result(key)):
            self.storage.pull_all({name: self.folder / name for name in (_rows(key), _result(key))})
        for name in _failure(key):
            (self.folder / name).unlink(missing_ok=True)
        self._pushed[_checkpoint(key)] = _written(self.folder / _checkpoint(key))

    def _watch(self, key: str, ended: threading.Event) -> None:
        """Until the trial ends; a storage that is away for a moment is asked again a moment later."""
        while not ended.wait(POLL):
            with suppress(PosweepError, OSError):
                self._look_for_stop()
                self._save(key)

    def _look_for_stop(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.storage.pull(DRIVER, self.folder / DRIVER)
        if self.storage.has(STOP):
            (self.folder / STOP).touch()
        else:
            (self.folder / STOP).unlink(missing_ok=True)

    def _save(self, key: str) -> None:
        """Push a checkpoint that was written since."""
        name = _checkpoint(key)
        written = _written(self.folder / name)
        if written and written != self._pushed.get(name):
            self.storage.push(self.folder / name, name)
            self._pushed[name] = written

    def _hand_over(self, key: str) -> None:
        """The result comes last, for its presence means finished; only then are copies of this node removed.

        A trial that gave up its place takes nothing away, here neither: it may run elsewhere by now, or beside this one.
        """
        kept, left = (*_policy_and_rows(key), _result(key)), (*_failure(key), _checkpoint(key))
        finished = (self.folder / _result(key)).is_file()
        for name in (*kept, *_failure(key)):
            self._push(name)
        self._save(key)
        for name in left:
            if finished and not (self.folder / name).exists():
                self.storage.remove(name)
        for name in (*kept, *left) if finished else ():
            _remove(self.folder / name)


class DriverMirror(Mirror):
    """The driver's side: the folder is the sweep's output folder."""

    def __init__(self, folder: Path, storage: Storage):
        super().__init__(folder, storage)
        self._late: set[str] = set()

    def gather(self, plan: Iterable[TrialSpec]) -> None:
        """Policies and rows before results, as ever: what breaks off is found again by the next launch."""
        there, ledger = self.storage.names("ledger"), Ledger(self.folder)
        lacking = [spec.key for spec in plan if f"{spec.key}.json" in there and not _holds(ledger, spec)]
        failed = self.storage.names("logs")
        for key in [spec.key for spec in plan if f"{spec.key}.json" in failed and f"{spec.key}.json" not in there]:
            self._collect_failure(key)
        policies = self.storage.names("policies").intersection(lacking) if lacking else ()
        for key in policies:
            self.storage.pull_folder(f"policies/{key}", self.folder / "policies" / key)
        for names in ([_rows(key) for key in lacking], [_result(key) for key in lacking]):
            self.storage.pull_all({name: self.folder / name for name in names})

    def prepare(self, keys: Iterable[str]) -> None:
        """Rows that want other judges, and checkpoints; workers look for both."""
        results, checkpoints, logs = (self.storage.names(folder) for folder in ("ledger", "checkpoints", "logs"))
        for key in keys:
            if f"{key}.json" not in results and (self.folder / _result(key)).is_file():
                self._push(_rows(key))
                self._push(_result(key))
            if f"{key}.pt" not in checkpoints:
                self._push(_checkpoint(key))
            for name in _failure(key):
                if Path(name).name in logs:
                    self.storage.remove(name)

    def collect(self, key: str) -> bool:
        """A storage that is away now is asked again when the trials have ended."""
        try:
            self._collect(key)
            self._late.discard(key)
        except StorageUnavailable:
            self._late.add(key)
        return key not in self._late

    def settle(self) -> list[str]:
        """What was late; and a policy that was not kept here in the end is not kept there."""
        late = sorted(self._late)
        for key in late:
            self._collect(key)
        self._late.clear()
        for key in self.storage.names("policies"):
            if (self.folder / _result(key)).is_file() and not (self.folder / "policies" / key).is_dir():
                self.storage.remove(f"policies/{key}")
        return late

    def _collect(self, key: str) -> None:
        self.storage.pull_folder(f"policies/{key}", self.folder / "policies" / key)
        for name in (_rows(key), _result(key)):
            self.storage.pull(name, self.folder / name)
        self._collect_failure(key)

    def _collect_failure(self, key: str) -> None:
        for name in _failure(key):
            self.storage.pull(name, self.folder / name)
        _at_home(self.folder, key)

    def ask_to_stop(self) -> None:
        """In the storage, where workers look for it."""
        self.storage.write(STOP, b"")

    def take_over(self) -> None:
        """Its name goes where all workers look."""
        self._push(DRIVER)

    def go_on(self) -> None:
        """Nor by an earlier driver that was killed."""
        self.storage.remove(STOP)


def driver_mirror(configuration: Configuration, folder: Path) -> NoMirror:
    """The driver's side of what the settings name."""
    storage = _storage(configuration)
    return DriverMirror(folder, storage) if storage else NoMirror(folder)


def worker_mirror(configuration: Configuration, folder: Path) -> NoMirror:
    """A worker's side of what the settings name."""
    storage = _storage(configuration)
    return WorkerMirror(own_folder(storage), storage) if storage else NoMirror(folder)


def own_folder(storage: Storage) -> Path:
    """Where a node keeps its copies: under the system's folder for what is temporary (TMPDIR), one per user and storage.

    Raises:
        StorageUnavailable: the folder belongs to somebody else.
    """
    mine = Path(tempfile.gettempdir()) / f"posweep-{os.getuid()}"
    mine.mkdir(mode=0o700, parents=True, exist_ok=True)
    if mine.stat().st_uid != os.getuid():
        raise StorageUnavailable(f"TMPDIR: {mine} belongs to another user; set TMPDIR to a folder of your own.")
    return mine / f"{storage.sweep}-{hashlib.sha256(storage.url.encode()).hexdigest()[:12]}"


def _storage(configuration: Configuration) -> Storage | None:
    url = configuration.executor.storage
    return Storage(url, configuration.sweep.name) if url else None


# --- the files of a trial


def _result(key: str) -> str:
    return f"ledger/{key}.json"


def _rows(key: str) -> str:
    return f"responses/{key}.json"


def _policy_and_rows(key: str) -> tuple[str, str]:
    return f"policies/{key}", _rows(key)


def _failure(key: str) -> tuple[str, str]:
    return f"logs/{key}.log", f"logs/{key}.json"


def _checkpoint(key: str) -> str:
    return f"checkpoints/{key}.pt"


def _written(file: Path) -> int:
    """When a file was written; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _holds(ledger: Ledger, spec: TrialSpec) -> bool:
    """Whether a trial is finished here, under the plan's own judges."""
    result = ledger.result(spec.key)
    return result is not None and result.score_key == spec.score_key


def _at_home(folder: Path, key: str) -> None:
    """A failure names its log where it lay when it was written; now it lies here."""
    log, record = (folder / name for name in _failure(key))
    if record.is_file():
        with suppress(ValueError):
            write_atomically(record, {**json.loads(record.read_text(encoding="utf-8")), "log": str(log)})
