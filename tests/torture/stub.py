"""Trials that do next to nothing, in real workers: what lies around a trial is the subject, in every process of a sweep.

environment = stub_environment(seconds=0.05, die=0.1, starts=folder / "starts.jsonl")
start(folder, *trials(200), "executor=ray", environment=environment).wait()
"""

import json
import os
import subprocess
import sys
from pathlib import Path

CUSTOM = Path(__file__).parent / "stubbed"
COMMAND = [sys.executable, "-c", "from posweep.cli import main; main()"]


def stub_environment(
    seconds: float = 0.05, die: float = 0.0, oom: float = 0.0, fail: float = 0.0, starts: Path | None = None,
    metrics: int = 32, real: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Variables under which every posweep process, Ray's workers too, runs stub trials; artifacts and chapters likewise.

    Args:
        seconds: that a trial takes.
        die: chance that a trial kills its process halfway.
        oom: chance that it raises out-of-memory.
        fail: chance that it raises OSError.
        starts: file that gets a line for each start of a trial: key, pid, time, and POSWEEP_NODE.
        metrics: numbers that a trial measures.
        real: trials and artifacts are real ones, of which only `die` is wanted: after any step.
    """
    wanted = {"seconds": seconds, "die": die, "oom": oom, "fail": fail, "metrics": metrics, "real": real}
    path = [str(CUSTOM), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "POSWEEP_STUB": json.dumps({**wanted, "starts": starts and str(starts)}),
    }


def trials(n: int) -> list[str]:
    """Arguments of a sweep of n trials of one method."""
    block = f"{{method: dpo, prior: custom, random: {{points: {n}, space: {{beta: {{low: 0.001, high: 1}}}}}}}}"
    return ["sweep=smoke", "method=[dpo]", f"sweep.blocks=[{block}]"]


def start(folder: Path, *arguments: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """The command in a folder of its own, under these variables besides ours."""
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
