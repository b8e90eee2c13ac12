"""Addresses of MLflow stores: what tracking.uri may say, the file that it names, and the URL under which MLflow opens it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEME = re.compile(r"(sqlite(?:\+pysqlite)?)://", re.IGNORECASE)
FORMS = "sqlite:///FILE or http(s)://HOST:PORT"


def is_file(uri: str) -> bool:
    """Whether it is a sqlite file, and no server."""
    return bool(SCHEME.match(uri))


def database(uri: str) -> Path:
    """The sqlite file: what follows the third slash, with %XX decoded, as SQLAlchemy reads it."""
    return Path(unquote(_path(uri)))


def absolute(uri: str) -> str:
    """The same address from every folder: MLflow keeps stores by their URI, a relative one means that of its first use."""
    if is_file(uri):
        return url_of(database(uri).absolute()) if _path(uri) else uri
    scheme, colon, rest = uri.partition(":")
    return f"{scheme.lower()}{colon}{rest}"


def url_of(file: Path) -> str:
    """The URL under which SQLAlchemy and MLflow open a file.

    SQLAlchemy takes what follows a `?` for options and decodes %XX. MLflow makes the folder that a `sqlite:///` URL shows
    before it is decoded, so a path that needs quoting names the driver: such URLs it leaves alone.
    """
    path = str(file)
    quoted = path.replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def address_problems(uri: str) -> list[str]:
    """What is wrong with the words of an address, before anything is looked at."""
    if is_file(uri):
        return _file_problems(uri)
    try:
        parts = urlsplit(uri)
        host, _, credentials = parts.hostname, parts.port, parts.password or parts.username
    except ValueError as error:
        return [f"tracking.uri: must be {FORMS} ({error})."]  # the address may hold a password
    if credentials is not None:
        return [
            "tracking.uri: must hold no user or password, which would be recorded with the sweep; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
        ]
    if parts.scheme not in ("http", "https") or not host:
        return [f"tracking.uri: must be {FORMS}, got {uri!r}."]
    return []


def _path(uri: str) -> str:
    """What follows the third slash; empty where there are only two."""
    rest = uri[match.end() :] if (match := SCHEME.match(uri)) else uri
    return rest[1:] if rest.startswith("/") else ""


def _file_problems(uri: str) -> list[str]:
    rest = uri.partition("://")[2]
    if rest and not rest.startswith("/"):
        return [f"tracking.uri: a file stands behind three slashes (sqlite:///FILE), got {uri!r}."]
    path = _path(uri)
    if path in ("", ":memory:"):
        return [f"tracking.uri: names no file (what is in memory would be lost), got {uri!r}; write sqlite:///FILE."]
    if "?" in path:
        return [f"tracking.uri: takes no options; a ? in a file's name is written %3F (and a % is %25), got {uri!r}."]
    if path.startswith("~"):
        return [f"tracking.uri: ~ is not your home here; write sqlite:///{Path(path).expanduser()}, got {uri!r}."]
    file = database(uri).absolute()
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return [f"tracking.uri: {str(file)!r} is not UTF-8, which SQLite's names of files are; name another file."]
    if "\0" in str(file):
        return [f"tracking.uri: {str(file)!r} holds a zero byte; name another file."]
    return _unspeakable(file)


def _unspeakable(file: Path) -> list[str]:
    """SQLAlchemy before 2.1 decodes nothing, and has no way to write a `?`."""
    if not {"%", "?"} & set(str(file)):
        return []
    from sqlalchemy import __version__, make_url

    if make_url(url_of(file)).database == str(file):
        return []
    return [
        f"tracking.uri: SQLAlchemy {__version__} opens no {file}, whose path holds ? or %; pip install -U SQLAlchemy."
    ]
