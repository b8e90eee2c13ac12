"""A Ray cluster on one machine: each node with a temporary folder of its own, so that only a storage is shared."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
"""A node that died is missed after two seconds, not after a quarter of a minute."""


HIDING = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
"""A view of the files of its own for a command, in which a folder is empty."""


def can_hide() -> bool:
    """Whether this system lets us make such views."""
    try:
        return subprocess.run([*HIDING, "/mnt", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Cluster:
    """Nodes by name, as `ray start` makes them."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.port, self.nodes = folder, _free_port(), dict[str, subprocess.Popen[bytes]]()
        self.environment = {
            **os.environ, **environment, **QUICK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, cpus: int = 1, hidden: Path | None = None, **environment: str) -> None:
        """Start a node; the first one is the head.

        Args:
            name: of the node, and of its folder.
            cpus: that it offers.
            hidden: a folder that looks empty from there, as another machine's would.
            environment: variables of its own.
        """
        home = self.folder / name
        home.mkdir()
        there = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder / 'ray'}"]
        here = [f"--address={self.address}", "--dashboard-agent-listen-port=0"]
        command = [RAY, "start", "--block", f"--num-cpus={cpus}", "--min-worker-port=0", "--max-worker-port=0"]
        if hidden:
            command = [*HIDING, str(hidden), *command]
        with (home / "ray.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                [*command, *(here if self.nodes else there)], cwd=home, stdout=log, stderr=log, start_new_session=True,
                env={**self.environment, "TMPDIR": str(home), "POSWEEP_NODE": name, **environment},
            )  # fmt: skip
        until = time.monotonic() + 60
        while "Ray runtime started" not in (home / "ray.log").read_text():
            assert time.monotonic() < until, (home / "ray.log").read_text()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """The node and all its processes, at once and without a word."""
        process = self.nodes.pop(name)
        for pid in _session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _session(leader: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster(folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """A cluster without nodes; those that are added end with the block."""
    made = Cluster(folder, environment)
    try:
        yield made
    finally:
        for name in list(made.nodes)[::-1]:
            made.kill(name)
