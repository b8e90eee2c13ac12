"""Where MLflow keeps things, a sqlite file or a server: what must be there before anything starts, how a file is used."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posweep.proxies import proxy_of, proxy_problems
from posweep.trackers.address import address_problems, database, is_file
from posweep.trackers.schema import connect, schema_problems

TIMEOUT = 5
"""Seconds a server may take to answer before anything is started."""
MOUNTS = Path("/proc/mounts")
NETWORK = {
    "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.s3fs",
    "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
}  # fmt: skip
"""Kinds of file systems that several machines see."""


def store_problems(uri: str) -> list[str]:
    """A server must answer; a store's folder must be there, and a store be one of this MLflow."""
    if problems := address_problems(uri):
        return problems
    if not is_file(uri) and proxy_of(uri):
        return proxy_problems(uri, "requests")  # it alone is reached from here
    if not is_file(uri):
        parts = urlsplit(uri)
        return _unreachable(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), uri)
    file = database(uri).absolute()
    folder = file.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        hint = " (%XX in it was decoded; a % is written %25)" if "%" in uri else ""
        return [f"tracking.uri: {folder} is no folder that can be written{hint}; name another file in tracking.uri."]
    if file.is_file() and not os.access(file, os.R_OK | os.W_OK):
        return [f"tracking.uri: {file} may not be read and written; change its permissions, or name another file."]
    return schema_problems(file)


def store_notes(uri: str) -> list[str]:
    """What is to be known of a store although nothing is wrong with it, a sentence each."""
    kind = network_file_system(database(uri)) if is_file(uri) else ""
    if not kind:
        return []
    return [
        f"tracking.uri: {database(uri)} is on a network disk ({kind}), where SQLite is safe on one machine at a time only; "
        "if several use it, run mlflow server on one and set tracking.uri=http://HOST:PORT."
    ]


def network_file_system(file: Path) -> str:
    """The kind of file system that a file is on, if other machines see it too; empty where it is local or nobody knows."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""  # no Linux
    path, kinds = file.resolve(), {}
    for fields in (line.split() for line in lines):
        if len(fields) > 2:  # blanks in a name are written \\040; the last mount on a place is what one sees
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
            kinds[Path(place)] = fields[2]
    kind = next((kinds[above] for above in path.parents if above in kinds), "")
    return kind if kind in NETWORK else ""


def ready_for_many(file: Path) -> None:
    """A sqlite store that is read while it is written, and does not wait for the disk at every commit.

    A power cut may take the last commits with it, never the file; the ledger holds them, and the next launch sends them.
    On a network disk neither is done: the log of such a store is memory that machines cannot share.
    """
    if kind := network_file_system(file):
        _log_is_a_file(file, kind)
        return
    with closing(connect(file)) as store:
        store.execute("PRAGMA journal_mode=WAL")
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _do_not_wait_for_disk):
        event.listen(Engine, "connect", _do_not_wait_for_disk)


def _log_is_a_file(file: Path, kind: str) -> None:
    with closing(connect(file)) as store:
        mode = store.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
    if mode != "delete":
        raise sqlite3.OperationalError(f"{file} is on {kind} and in use with a log that machines cannot share")


def _do_not_wait_for_disk(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=NORMAL")


def _unreachable(host: str, port: int, uri: str) -> list[str]:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            f"tracking.uri: {uri} does not answer ({reason}); start the server, or go on with tracking=none and send "
            "everything later with posweep sync."
        ]
    return []
