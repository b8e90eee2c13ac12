"""`posweep ui`: of its server nothing stays, however posweep ends."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posweep.errors import ConfigError, PreflightError
from posweep.trackers import ui
from posweep.trackers.schema import is_missing

pytestmark = pytest.mark.xdist_group("mlflow")

DRIVER = """
import signal, socket, sys, time
from contextlib import suppress
from posweep.cli import interrupt
from posweep.trackers import ui
signal.signal(signal.SIGTERM, interrupt)
ui.sys.executable = sys.argv[1]  # stands for mlflow ui and what it starts
ui._end_with_the_terminal()
with suppress(KeyboardInterrupt), ui._listening(0) as listener, ui._Server("sqlite:///x.db", listener) as server:
    print(listener.getsockname()[1], flush=True)
    listener.close()
    server.wait()
"""
SERVER = """#!/bin/sh
trap '' TERM INT
sleep 300 & sleep 300 & wait; sleep 300
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_stays_of_a_server_however_posweep_ends(number: signal.Signals, tmp_path: Path) -> None:
    """A server that listens to no signal, with processes of its own, all of which hold the port."""
    stub = tmp_path / "server"
    stub.write_text(SERVER)
    stub.chmod(0o755)
    driver = DRIVER.replace("ui.sys.executable", "ui.GRACE = 0.3\nui.WATCH = ui.WATCH.replace('sleep 5', 'sleep 0.3')\n"
                            "ui.sys.executable")  # fmt: skip
    posweep = subprocess.Popen([sys.executable, "-c", driver, str(stub)], stdout=subprocess.PIPE, text=True)
    assert posweep.stdout
    port = int(posweep.stdout.readline())
    time.sleep(0.2)
    assert not can_be_bound(port)
    posweep.send_signal(number)
    code = posweep.wait(30)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    end = time.monotonic() + 20
    while not can_be_bound(port):
        assert time.monotonic() < end, "something holds the port"
        time.sleep(0.05)


def can_be_bound(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((ui.HOST, port))
        except OSError:
            return False
        return True


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        port = taken.getsockname()[1]
        said = rf"port: {port} cannot be used \(Address already in use\); add port="
        with pytest.raises(ConfigError, match=said), ui._listening(port):
            pass


def test_a_server_that_does_not_start_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "server"
    stub.write_text("#!/bin/sh\necho 'Error: no such option: --fd.'; exit 2\n")
    stub.chmod(0o755)
    monkeypatch.setattr(ui.sys, "executable", str(stub))
    said = r"MLflow UI: the server did not start \(Error: no such option: --fd\)"
    with ui._listening(0) as listener, ui._Server("x", listener) as server:
        listener.close()
        with pytest.raises(PreflightError, match=said):
            server.wait_until_it_answers()


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"mlflow\.db is not there; run a sweep first"):
        ui.serve(f"sqlite:///{tmp_path}/mlflow.db", 1)
    assert is_missing(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []
