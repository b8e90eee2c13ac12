"""stdout and stderr in any encoding, and into a pipe whose reader leaves early."""

from __future__ import annotations

import io
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

READER_GONE = 141
"""Exit code where the reader of a pipe has closed it: 128 and the number of SIGPIPE, as a shell reports it."""


@contextmanager
def any_reader() -> Iterator[None]:
    """What an encoding lacks becomes a replacement character; where a pipe's reader has gone, the process ends quietly.

    Raises:
        SystemExit: the reader of stdout or stderr has gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()  # at the interpreter's end a failure would print "Exception ignored in …"
    except BrokenPipeError:
        if not _closed_pipes():
            raise  # a socket's, which is an error of its own
        sys.exit(READER_GONE)
    except SystemExit:
        if _closed_pipes():
            sys.exit(READER_GONE)
        raise


def _closed_pipes() -> bool:
    """Whether stdout or stderr has lost its reader; what is still to be written there then goes nowhere."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _reader_is_gone(stream: TextIO) -> bool:
    """Whether nobody can read what is written; a stream of a test has no file, and is always read."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    asked = select.poll()
    asked.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def undecodable(texts: Iterable[str]) -> list[str]:
    """One sentence per text with bytes that the system's encoding does not know: it could be neither recorded nor hashed."""
    encoding = sys.getfilesystemencoding()
    way_out = "rename it in UTF-8" if encoding == "utf-8" else "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    shown = [text.encode("utf-8", "replace").decode() for text in texts if re.search("[\ud800-\udfff]", text)]
    return [
        f"{text}: holds bytes that are no text in this system's encoding ({encoding}); {way_out}." for text in shown
    ]
