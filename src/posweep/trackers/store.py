"""Where MLflow keeps things, a sqlite file or a server: what must be there before anything starts, and its UI."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posweep.errors import PreflightError
from posweep.proxies import proxy_of, proxy_problems

SQLITE = "sqlite:///"
TIMEOUT = 5
"""Seconds a server may take to answer before anything is started."""


def absolute(uri: str) -> str:
    """The same address from every folder: MLflow keeps stores by their URI, a relative one means that of its first use."""
    return f"{SQLITE}{database(uri).absolute()}" if is_file(uri) else uri


def is_file(uri: str) -> bool:
    """Whether it is a sqlite file, and no server."""
    return uri.startswith(SQLITE)


def database(uri: str) -> Path:
    """The sqlite file."""
    return Path(uri.removeprefix(SQLITE))


def store_problems(uri: str) -> list[str]:
    """A server must answer, a store's folder must be there."""
    parts = urlsplit(uri)
    if parts.password is not None or parts.username is not None:
        return [
            "tracking.uri: must hold no user or password, which would be recorded with the sweep; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
        ]
    if parts.scheme in ("http", "https") and proxy_of(uri):
        return proxy_problems(uri, "requests")  # it alone is reached from here
    if parts.scheme in ("http", "https"):
        return _unreachable(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), uri)
    if parts.scheme != "sqlite":
        return [f"tracking.uri: must be sqlite:///FILE or http(s)://HOST:PORT, got {uri!r}."]
    folder = database(uri).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return [f"tracking.uri: {folder} is no folder that can be written; name another file in tracking.uri."]
    return _unreadable(database(uri))


def ready_for_many(file: Path) -> None:
    """A sqlite store that is read while it is written, and does not wait for the disk at every commit.

    A power cut may take the last commits with it, never the file; the ledger holds them, and the next launch sends them.
    """
    with sqlite3.connect(file) as store:
        store.execute("PRAGMA journal_mode=WAL")
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _do_not_wait_for_disk):
        event.listen(Engine, "connect", _do_not_wait_for_disk)


def _do_not_wait_for_disk(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=NORMAL")


def serve(uri: str, port: int) -> None:
    """The MLflow UI on a store, on 127.0.0.1 only; for a server, its address."""
    if not is_file(uri):
        print(f"This store has a server of its own: {uri}")
        return
    if not database(uri).is_file():
        raise PreflightError(f"tracking.uri: {database(uri)} is not there; run a sweep first, or set tracking.uri.")
    print(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)")
    hosts = f"127.0.0.1:{port},localhost:{port},127.0.0.1,localhost"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    subprocess.run([*command, "--port", str(port), "--allowed-hosts", hosts], check=False)


def _unreadable(file: Path) -> list[str]:
    """A file that is there must be a database."""
    try:
        if file.exists():
            with sqlite3.connect(file) as store:
                store.execute("PRAGMA schema_version")
        return []
    except sqlite3.Error as error:
        return [f"tracking.uri: {file} cannot be read ({error}); name another file in tracking.uri."]


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
