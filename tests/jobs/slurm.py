"""Stand-ins for Slurm, and for the programs that a submission starts: each notes how it was called."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "jobs" / "slurm.sh"
NOTE = """
import json, os, sys
def note(**more):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps({"name": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], **more}) + chr(10))
"""
SCONTROL = """
note()
if sys.argv[1:3] == ["show", "hostnames"]:
    print("\\n".join(os.environ["HOSTS"].split()))
"""
SRUN = """
note()
import subprocess
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
os.execv(command[0], command)
"""
RAY = """
import signal, socket, time
note(token=os.environ.get("RAY_AUTH_TOKEN", ""), mode=os.environ.get("RAY_AUTH_MODE", ""))
if os.environ.get("NO_RAY"):
    sys.exit("ray: no")
signal.signal(signal.SIGTERM, lambda *_: (note(ended=True), sys.exit(0)))
if "--head" in sys.argv:
    port = next(a.partition("=")[2] for a in sys.argv if a.startswith("--port="))
    listening = socket.create_server(("localhost", int(port)))
while True:
    time.sleep(60)
"""
POSWEEP = """
import signal, time
def stop(*_):
    note(got="TERM")
    time.sleep(0.2)
    sys.exit(130)
if not os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, stop)
note(token=os.environ.get("RAY_AUTH_TOKEN", ""))
time.sleep(float(os.environ.get("SECONDS_LONG", "0")))
sys.exit(int(os.environ.get("CODE", "0")))
"""


class Submission:
    """The script as `sbatch` would run it: in the folder it was submitted from, signals to the batch shell alone."""

    def __init__(self, folder: Path, *arguments: str, hosts: str = "localhost", job: int = 4321, **environment: str):
        self.calls_file = folder / "calls.jsonl"
        _programs(folder / "slurm", scontrol=SCONTROL, srun=SRUN)
        directives = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE)
        self.directives = dict(directives)
        nodes = hosts.split()
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], cwd=folder, start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={
                **os.environ, "PATH": f"{folder / 'slurm'}:{os.environ['PATH']}", "CALLS": str(self.calls_file),
                "TMPDIR": str(folder), "HOSTS": hosts, "SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "n[1-9]",
                "SLURM_JOB_NUM_NODES": str(len(nodes)), "SLURM_CPUS_PER_TASK": self.directives["cpus-per-task"],
                **environment,
            },
        )  # fmt: skip

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What was called, in order."""
        return (
            [json.loads(line) for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []
        )

    def called(self, name: str) -> list[list[str]]:
        """The arguments of each call of a program."""
        return [
            call["arguments"] for call in self.calls if call["name"] == name and len(set(call) & {"got", "ended"}) == 0
        ]

    def wait_for(self, name: str, seconds: float = 30) -> None:
        """Until a program was called."""
        until = time.monotonic() + seconds
        while not self.called(name):
            assert time.monotonic() < until, self.calls
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def terminate(self) -> None:
        """Slurm's `--signal=B:TERM`."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Exit code and output; nothing of the job is left behind."""
        try:
            out, _ = self.process.communicate(timeout=120)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, out


def programs(folder: Path) -> Path:
    """A folder to submit from, whose environment has stand-ins for posweep and ray."""
    _programs(folder / ".venv" / "bin", posweep=POSWEEP, ray=RAY)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return folder


def _programs(folder: Path, **codes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in codes.items():
        (folder / name).write_text(f"#!{sys.executable} -ES\n{NOTE}{code}")
        (folder / name).chmod(0o755)
