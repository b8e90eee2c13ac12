"""Addresses that are no cluster of ours: a sentence within seconds, and nothing of Ray's raw lines."""

import signal
import socket
import subprocess
import threading

import pytest

from posweep.executors import address as module
from posweep.executors.address import address_problems


@pytest.fixture
def listening():
    """HOST:PORT of something that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: _accept(server), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _accept(server):
    while True:
        try:
            server.accept()
        except OSError:
            return


@pytest.mark.parametrize("address", ["cluster", "host:", ":6379", "host:port", "host:0", "host:65536", "http://host"])
def test_an_address_is_auto_or_host_and_port(address):
    assert address_problems(address) == [f"executor.address: must be auto or HOST:PORT, got {address!r}."]


def test_the_address_of_a_client_is_refused_and_auto_needs_a_cluster():
    assert "is the address of Ray's client, which cannot run trials" in address_problems("ray://host:10001")[0]
    assert address_problems("auto")[0].startswith("executor.address: auto finds no Ray cluster here; ")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "no.such.host.invalid:6379", f"{'x' * 70}.invalid:6379"])
def test_who_does_not_answer_is_named_with_the_reason(address):
    (sentence,) = address_problems(address)
    assert sentence.startswith(f"executor.address: no Ray cluster answers at {address} (")


ANSWERS = {
    "a cluster": (0, "", None),
    "a token is missing": (
        1,
        "[2026 W] gcs_client.cc: Unauthenticated: RPC error\nposweep: AuthenticationError: Authentication token is missing",
        "does not let this process in (authentication: its token is missing or incorrect here); it needs ",
    ),
    "another error": (1, "[C] raw\nposweep: RpcError: what it says.", "(RpcError: what it says); start one, or "),
    "no answer": (-signal.SIGALRM, "[W] raw", "(something listens there, but it does not answer as a cluster does); "),
    "a crash": (-6, "[C] raw", "(something listens there, but it is no cluster); "),
}


@pytest.mark.parametrize(("code", "said", "meaning"), ANSWERS.values(), ids=ANSWERS)
def test_what_ray_says_becomes_one_sentence(listening, monkeypatch, code, said, meaning):
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code, "", said))
    problems = address_problems(listening)
    assert len(problems) == (meaning is not None)
    for sentence in problems:
        assert sentence.startswith("executor.address: ")
        assert meaning in sentence
        assert "[" not in sentence
