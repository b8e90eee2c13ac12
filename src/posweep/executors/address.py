"""Whether a Ray cluster answers at an address and lets this process in: asked of another process, whose words are read.

Ray's own client writes raw lines to standard error and tries again for half a minute; here it is asked once.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

TIMEOUT = 5
"""Seconds a cluster may take to answer before anything is started."""
ASKED = 8
"""Seconds that its control service may take, which answers in hundredths of one."""
IMPORTED = 60
"""Seconds that the process which asks may take in all: on a busy machine Ray is imported in many."""
ASK = """
import signal, sys
from ray._raylet import GcsClient
signal.alarm(int(sys.argv[2]))  # ends the process wherever it waits
try:
    print(GcsClient(address=sys.argv[1]).cluster_id)
except Exception as error:
    sys.exit(f"posweep: {type(error).__name__}: {error}")
"""


def address_problems(address: str, here: Sequence[str] = ()) -> list[str]:
    """A sentence where no cluster answers, or one that does not let this process in.

    Args:
        address: HOST:PORT or auto.
        here: addresses of the clusters that this machine is part of, for auto.
    """
    if address.startswith("ray://"):
        return [
            f"executor.address: {address} is the address of Ray's client, which cannot run trials; name the cluster's own, "
            "HOST:PORT (the port of ray start --head: 6379 if none was set)."
        ]
    if address == "auto" and not here:
        return ["executor.address: auto finds no Ray cluster here; run ray start --head, or leave the address out."]
    if address == "auto" and len(here) > 1:
        return []  # Ray takes the one that was started last
    asked = here[0] if address == "auto" else address
    host, _, port = asked.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        return [f"executor.address: must be auto or HOST:PORT, got {address!r}."]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT).close()
    except (OSError, UnicodeError) as error:
        return [silent(address, getattr(error, "strerror", None) or str(error))]
    return _refusal(address, asked)


def _refusal(address: str, asked: str) -> list[str]:
    """Something listens there; whether it is a cluster that this process may use."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK, asked, str(ASKED)], capture_output=True, encoding="utf-8", errors="replace",
            timeout=IMPORTED, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [silent(address, f"Ray could not ask in {IMPORTED} s")]
    if answer.returncode == 0:
        return []
    if answer.returncode == -signal.SIGALRM:
        return [silent(address, "something listens there, but it does not answer as a cluster does")]
    said = next((line for line in answer.stderr.splitlines() if line.startswith("posweep: ")), "")
    if "AuthenticationError" in said or "Unauthenticated" in answer.stderr:
        return [refused(address, "authentication: its token is missing or incorrect here")]
    reason = said.removeprefix("posweep: ")[:200].rstrip(".") or "something listens there, but it is no cluster"
    return [silent(address, reason)]


def silent(address: str, reason: str) -> str:
    """The sentence for a cluster that is not there."""
    return f"executor.address: no Ray cluster answers at {address} ({reason}); start one, or leave the address out."


def refused(address: str, reason: str) -> str:
    """The sentence for a cluster that does not want us."""
    return (
        f"executor.address: the Ray cluster at {address} does not let this process in ({reason}); it needs the "
        "same Ray and Python here and, where it asks for a token, RAY_AUTH_MODE=token and that RAY_AUTH_TOKEN in the "
        "environment."
    )
