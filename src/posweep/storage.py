"""The door to fsspec: one sweep's files in a storage that every node reaches, a folder or a URL such as s3://BUCKET/FOLDER.

A file is written whole or not at all: object stores give that, elsewhere it gets its name after it is written.
Credentials are the environment's business: fsspec's packages find them as their vendors' own tools do.
"""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from posweep.errors import StorageUnavailable, first_line, without_password

T = TypeVar("T")

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "memory"}
"""Where a file appears when it is whole, and renaming would copy it."""
AT_ONCE = 16
"""Files on their way at the same time."""
FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""What waiting does not mend."""


@dataclass(frozen=True)
class Storage:
    """The files of one sweep in a storage; names are relative to the sweep, as in its output folder.

    Args:
        url: what `executor.storage` says.
        sweep: the name of the sweep; empty where `url` is the sweep's own folder.
        attempts: tries before a storage counts as gone, 1, 2, 4 … seconds apart.
    """

    url: str
    sweep: str = ""
    attempts: int = 4

    def push(self, file: Path, name: str) -> None:
        """Copy a file there."""
        self._put(name, lambda files, target: files.put_file(str(file), target))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._put(name, lambda files, target: files.pipe_file(target, content))

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        try:
            return bytes(self._try(lambda files: files.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def pull(self, name: str, file: Path) -> bool:
        """Copy a file from there; whether there was one."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            self._try(lambda files: files.get_file(self._path(name), str(temporary)))
            temporary.replace(file)
        except FileNotFoundError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def push_folder(self, folder: Path, name: str, last: str = "") -> None:
        """Copy a folder there; the file `last` says that it is complete, and so comes last."""
        names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        _together(lambda one: self.push(folder / one, f"{name}/{one}"), [one for one in names if one != last])
        if last in names:
            self.push(folder / last, f"{name}/{last}")

    def pull_folder(self, name: str, folder: Path) -> bool:
        """Copy a folder from there; whether there was one."""
        start = f"{self._path(name)}/"
        try:
            found = [str(path).partition(start)[2] for path in self._try(lambda files: files.find(start))]
        except FileNotFoundError:
            return False
        self.pull_all({f"{name}/{one}": folder / one for one in found if one})
        return bool(found)

    def pull_all(self, files: Mapping[str, Path]) -> None:
        """Copy many files from there; those that are not there are left out."""
        _together(lambda item: self.pull(*item), files.items())

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; none where there is no such folder."""
        try:
            listed = self._try(lambda files: files.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return set()
        return {str(path).rstrip("/").rpartition("/")[2] for path in listed}

    def has(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._try(lambda files: files.exists(self._path(name))))

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there: file by file, for `rm` would take its name for a pattern."""

        def remove(files: Any) -> None:
            for path in files.find(self._path(name)):
                files.rm_file(path)

        try:
            if protocol_of(self.url) in OBJECT_STORES:  # where files are all there is
                self._try(remove)
            else:
                self._try(lambda files: files.rm(self._path(name), recursive=True))
        except FileNotFoundError:
            return

    # --- the filesystem

    @cached_property
    def _place(self) -> tuple[Any, str]:
        # what a listing said a second ago is worth nothing here: others write meanwhile
        files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        return files, f"{root.rstrip('/')}/{self.sweep}" if self.sweep else root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._place[1]}/{name}"

    def _put(self, name: str, put: Callable[[Any, str], None]) -> None:
        target = self._path(name)
        parent, _, base = target.rpartition("/")

        def attempt(files: Any) -> None:
            if protocol_of(self.url) in OBJECT_STORES:
                put(files, target)
                return
            files.makedirs(parent, exist_ok=True)
            temporary = f"{parent}/.{base}-{uuid.uuid4().hex}"
            try:
                put(files, temporary)
                files.mv(temporary, target)
            except BaseException:
                if files.exists(temporary):
                    files.rm_file(temporary)
                raise

        self._try(attempt)

    def _try(self, do: Callable[[Any], T]) -> T:
        """Several times, for networks have hiccups; what is still wrong then becomes a sentence."""
        for attempt in range(self.attempts):
            try:
                return do(self._place[0])
            except FileNotFoundError:
                raise
            except Exception as error:  # every filesystem has errors of its own
                if attempt + 1 == self.attempts or isinstance(error, FINAL):
                    raise StorageUnavailable(
                        f"executor.storage: {without_password(self.url)} does not answer ({reason(error)})."
                    ) from error
                time.sleep(2**attempt)
        raise AssertionError("there is at least one attempt")


def _together(do: Callable[[T], Any], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(do, items))


# --- what the setting may say


def protocol_of(url: str) -> str:
    """`s3` of s3://…; `file` of a folder."""
    return str(fsspec.core.split_protocol(url)[0] or "file")


def setting_problems(url: str | None) -> list[str]:
    """What is wrong with `executor.storage` as it is written; nothing is contacted."""
    if url is None:
        return []
    shown, place = without_password(url), "executor.storage"
    if re.search(r"://[^/@\s]*:[^/@\s]*@", url):
        return [
            f"{place}: {shown} has a password in it, which would be written down with the sweep; leave it out and give "
            "credentials by the environment, as the storage's own tools take them."
        ]
    if "://" not in url and not Path(url).is_absolute():
        return [
            f"{place}: must be a folder by its absolute name or a URL such as s3://BUCKET/FOLDER, got {url!r}; "
            f"set {place}={Path(url).expanduser().absolute()}."
        ]
    if "::" in url:
        return [f"{place}: {shown} has '::' in it, by which fsspec chains addresses; name a folder or a URL without."]
    return _protocol_problems(protocol_of(url), f"{place}: {shown}")


def _protocol_problems(protocol: str, place: str) -> list[str]:
    """A kind of storage that fsspec does not know, or whose package is not installed."""
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        return [f"{place} is no kind of storage that fsspec knows; take a folder, s3://, gs://, abfs:// or the like."]
    except ImportError as error:
        return [f"{place} needs a package that is not installed here ({first_line(error)}), and on every node."]
    return []


def reason(error: BaseException) -> str:
    """Why, in few words: what the system calls it, or what another program says."""
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
