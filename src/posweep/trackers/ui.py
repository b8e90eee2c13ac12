"""The MLflow UI on a store: one server on 127.0.0.1, of which nothing stays when posweep ends, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from posweep.errors import ConfigError, PreflightError
from posweep.trackers.address import absolute, database, is_file
from posweep.trackers.schema import is_missing
from posweep.trackers.store import store_problems

HOST = "127.0.0.1"
STARTING = 600.0
"""Seconds until the server answers; it loads all of MLflow twice, which a busy machine takes minutes for."""
GRACE = 5.0
"""Seconds that the server has to end by itself."""
WATCH = f"read -r _; trap '' TERM; kill -TERM 0; sleep {GRACE:g}; kill -KILL 0"
"""Ends its process group when the pipe to posweep closes, which it does when posweep is killed, too."""


def serve(uri: str, port: int) -> None:
    """The MLflow UI on a store, until Ctrl-C or SIGTERM; for a server, its address.

    Raises:
        ConfigError: the store or the port cannot be used, or the server says no.
    """
    if problems := store_problems(uri):
        raise PreflightError(problems)
    uri = absolute(uri)
    if not is_file(uri):
        print(f"This store has a server of its own: {uri}")
        return
    if is_missing(database(uri)):
        raise PreflightError(f"tracking.uri: {database(uri)} is not there; run a sweep first, or set tracking.uri.")
    _end_with_the_terminal()
    with suppress(KeyboardInterrupt), _listening(port) as listener, _Server(uri, listener) as server:
        listener.close()  # it is the server's now
        server.wait_until_it_answers()
        print(f"MLflow UI: http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
        server.wait()


def _end_with_the_terminal() -> None:
    """A terminal that is closed ends the server as SIGTERM does, unless nohup says that it shall not."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))


class _Server:
    """`mlflow ui` in a process group of its own, with a process that ends the group when posweep is gone."""

    def __init__(self, uri: str, listener: socket.socket):
        self.port = listener.getsockname()[1]
        self._said: deque[str] = deque(maxlen=50)
        hosts = f"{HOST}:{self.port},localhost:{self.port},{HOST},localhost"
        command = [
            sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", HOST, "--port", str(self.port),
            "--workers", "1", "--allowed-hosts", hosts, "--uvicorn-opts", "--fd 0 --log-level warning",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # what it would run are GenAI jobs
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdin=listener.fileno(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                errors="replace", process_group=self._watch.pid, env=environment,
            )  # fmt: skip
        except BaseException:
            self._watch.kill()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        """End the group, and wait until nobody of it holds the pipe that its words come through."""
        with suppress(KeyboardInterrupt):  # a second Ctrl-C hurries
            os.killpg(self._watch.pid, signal.SIGTERM)
            self._reader.join(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self._watch.pid, signal.SIGKILL)
        self._reader.join(GRACE)
        self._process.wait()
        self._watch.wait()

    def wait_until_it_answers(self) -> None:
        """Return when a page can be opened.

        Raises:
            PreflightError: the server has ended, or does not answer.
        """
        end = time.monotonic() + STARTING
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=2):
                return
            time.sleep(0.1)
        ended = self._process.poll() is not None
        self._failed("the server did not start" if ended else f"the server does not answer for {STARTING:g} seconds")

    def wait(self) -> None:
        """Wait for the server's end, which is a failure: who ends it interrupts posweep."""
        self._process.wait()
        self._failed("the server has ended")

    def _failed(self, what: str) -> None:
        self._reader.join(1)
        last = next((line for line in reversed(self._said) if line), "it said nothing")
        raise PreflightError(f"MLflow UI: {what} ({last.rstrip('.')}); mlflow ui shows all that it says.")

    def _read(self) -> None:
        """Remember the last of what the server says, until its last process has ended."""
        for line in self._process.stdout or ():
            self._said.append(line.strip())


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """The port, taken before the server is started: what answers there is this server and no other.

    Raises:
        ConfigError: it cannot be had.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            reason = error.strerror or str(error)
            other = port + 1 if 1024 <= port < 65535 else 5001
            raise ConfigError(f"port: {port} cannot be used ({reason}); add port={other}.") from None
        yield listener
