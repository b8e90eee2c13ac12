"""Stand-ins for Slurm, and for the programs that a submission starts: each notes how it was called.

Nodes are names for this machine. `srun` keeps to what Slurm documents: a step has all CPUs of its nodes unless it asks for
some per task, the GPUs that the job asked for (as often as its own shape has them), and it waits for other steps' resources
unless it overlaps them.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "jobs" / "slurm.sh"
NOTE = """
import json, os, sys
def note(**more):
    more["name"], more["arguments"] = os.path.basename(sys.argv[0]), sys.argv[1:]
    more["node"], more["secret"] = os.environ.get("SLURMD_NODENAME", ""), os.environ.get("HF_TOKEN", "")
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps(more) + chr(10))
"""
SCONTROL = """
note()
if sys.argv[1:3] == ["show", "hostnames"]:
    print("\\n".join(os.environ["HOSTS"].split()))
"""
SRUN = """
import signal, subprocess
note()
asked, command = {}, sys.argv[1:]
while command[0].startswith("--"):
    name, _, value = command.pop(0)[2:].partition("=")
    asked[name] = value
job = os.environ
hosts, cpus, gpus = job["HOSTS"].split(), job["NODE_CPUS"].split(), job["NODE_GPUS"].split()
options = "overlap export nodes ntasks ntasks-per-node mem cpu-bind wait kill-on-bad-exit gpus-per-node"
assert set(asked) <= set(options.split()), asked
if int(asked["nodes"]) != len(hosts) and "SLURM_GPUS" in job:
    sys.exit("srun: error: Unable to create step: Requested node configuration is not available")
busy = os.path.join(os.path.dirname(job["CALLS"]), "a-step-is-running")
if os.path.exists(busy) and "overlap" not in asked:
    sys.exit("srun: Job step creation temporarily disabled, retrying (Requested nodes are busy)")
def on(place):
    gpus_here = gpus[place]
    if "SLURM_GPUS_PER_TASK" in job:
        gpus_here = job["SLURM_GPUS_PER_TASK"]
    if "gpus-per-node" in asked:
        gpus_here = asked["gpus-per-node"]
    sent = job if asked.get("export") == "ALL" or job.get("SLURM_EXPORT_ENV") != "NONE" else {
        name: job[name] for name in ("PATH", "CALLS", "HOSTS", "NODE_CPUS", "NODE_GPUS", "SLURM_JOB_ID")
    }
    temporary = os.path.join(job["NODES"], hosts[place])
    os.makedirs(temporary, exist_ok=True)
    return dict(sent, SLURMD_NODENAME=hosts[place], SLURM_NODEID=str(place), TMPDIR=temporary,
                SLURM_CPUS_ON_NODE=job.get("SLURM_CPUS_PER_TASK", cpus[place]), SLURM_GPUS_ON_NODE=gpus_here)
open(busy, "w").close()
tasks = [subprocess.Popen(command, env=on(place)) for place in range(int(asked["ntasks"]))]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(codes))
"""
RAY = """
import signal, socket, time
temporary = next(a.partition("=")[2] for a in sys.argv if a.startswith("--temp-dir="))
note(token=os.environ.get("RAY_AUTH_TOKEN", ""), mode=os.environ.get("RAY_AUTH_MODE", ""), scratch=os.environ["TMPDIR"])
if os.environ.get("NO_RAY"):
    sys.exit("ray: no")
if os.environ.get("NO_RAY_AT_FIRST") and not os.path.exists(os.environ["CALLS"] + ".tried"):
    open(os.environ["CALLS"] + ".tried", "w").close()
    sys.exit("ray: the port is in use")
for folder in (temporary, os.environ["TMPDIR"]):
    open(os.path.join(folder, "left-" + str(os.getpid())), "w").close()
signal.signal(signal.SIGTERM, lambda *_: (note(ended=True), sys.exit(0)))
if "--head" in sys.argv:
    port = next(a.partition("=")[2] for a in sys.argv if a.startswith("--port="))
    listening = socket.create_server(("localhost", int(port)))
    if os.environ.get("SLOW_AT_FIRST") and not os.path.exists(os.environ["CALLS"] + ".tried"):
        open(os.environ["CALLS"] + ".tried", "w").close()
        time.sleep(1)
        sys.exit("Exception: The current node timed out during startup.")
    os.makedirs(os.path.join(temporary, "session_latest", "sockets"))
    open(os.path.join(temporary, "session_latest", "sockets", "raylet"), "w").close()
elif os.environ.get("KILLED"):
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(1)
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
note(token=os.environ.get("RAY_AUTH_TOKEN", ""), scratch=os.environ["TMPDIR"])
rays = int(os.environ["WAIT_FOR_RAYS"])
until = time.monotonic() + 60
while time.monotonic() < until and open(os.environ["CALLS"]).read().count('"mode"') < rays:
    time.sleep(0.05)
time.sleep(float(os.environ.get("SECONDS_LONG", "0")))
sys.exit(int(os.environ.get("CODE", "0")))
"""


class Submission:
    """The script as `sbatch` would run it: in the folder it was submitted from, signals to the batch shell alone.

    Args:
        hosts: names of nodes; the first is where the script runs, and has to be this machine's.
        cpus: how many the job has on each node.
        gpus: likewise.
        environment: more of what sbatch sets.
    """

    def __init__(
        self, folder: Path, *arguments: str, hosts: str = "localhost", job: int = 4321, cpus: str = "8", gpus: str = "0",
        **environment: str,
    ):  # fmt: skip
        self.calls_file = folder / f"calls-{job}.jsonl"
        _programs(folder / "slurm", scontrol=SCONTROL, srun=SRUN)
        self.nodes = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # names of Ray's sockets are short
        directives = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE)
        self.directives = dict(directives)
        names = hosts.split()
        node_cpus, node_gpus = (" ".join((many.split() * len(names))[: len(names)]) for many in (cpus, gpus))
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], cwd=folder, start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "POSWEEP", "HF_"))},
                "PATH": f"{folder / 'slurm'}:{os.environ['PATH']}", "CALLS": str(self.calls_file), "HOME": str(folder),
                "TMPDIR": str(self.nodes), "NODES": str(self.nodes), "HOSTS": hosts, "NODE_CPUS": node_cpus,
                "NODE_GPUS": node_gpus, "WAIT_FOR_RAYS": str(len(names)), "SLURMD_NODENAME": names[0],
                "SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "n[1-9]", "SLURM_JOB_NUM_NODES": str(len(names)),
                "SLURM_CPUS_PER_TASK": self.directives["cpus-per-task"], "SLURM_CPUS_ON_NODE": node_cpus.split()[0],
                "SLURM_GPUS_ON_NODE": node_gpus.split()[0], "SLURM_NTASKS_PER_NODE": "1", "SLURM_MEM_PER_NODE": "32768",
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

    def rays(self) -> dict[str, list[str]]:
        """How Ray was started, by node."""
        return {call["node"]: call["arguments"] for call in self.calls if "mode" in call}

    @property
    def left(self) -> list[Path]:
        """What lies in the temporary folders of the nodes."""
        return [path for path in self.nodes.rglob("*") if path.parent != self.nodes or path.name.startswith("posweep")]

    def wait_for(self, name: str, times: int = 1, seconds: float = 60) -> None:
        """Until a program was called."""
        until = time.monotonic() + seconds
        while len(self.called(name)) < times:
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
            assert not self.left, self.left
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            shutil.rmtree(self.nodes, ignore_errors=True)
        return self.process.returncode, out


def programs(folder: Path, environment: str = ".venv") -> Path:
    """A folder to submit from, whose environment has stand-ins for posweep and ray."""
    _programs(folder / environment / "bin", posweep=POSWEEP, ray=RAY)
    (folder / environment / "bin" / "python").symlink_to(sys.executable)
    return folder


def _programs(folder: Path, **codes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in codes.items():
        (folder / name).write_text(f"#!{sys.executable} -ES\n{NOTE}{code}")
        (folder / name).chmod(0o755)
