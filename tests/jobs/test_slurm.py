import sys
from pathlib import Path

import pytest

from .slurm import NOTE, SCRIPT, Submission, programs

ADDRESS = f"localhost:{20000 + 4321}"

pytestmark = pytest.mark.xdist_group("slurm")  # one job number, so one port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return programs(tmp_path)


def test_one_node_starts_ray_with_what_slurm_gave_and_runs_the_sweep_there(folder):
    job = Submission(folder, "sweep=demo", "executor.workers=2")
    code, out = job.end()
    assert code == 0, out
    (srun,) = job.called("srun")
    assert {"--nodes=1", "--nodelist=localhost", "--cpus-per-task=8"} <= set(srun)
    (ray,) = job.called("ray")
    assert ray[:3] == ["start", "--block", "--head"]
    assert {"--num-cpus=8", f"--port={20000 + 4321}", f"--temp-dir={folder}/ray-4321"} <= set(ray)
    assert job.called("posweep") == [["sweep=demo", "executor.workers=2", f"executor.address={ADDRESS}"]]
    assert job.called("scontrol") == [["show", "hostnames", "n[1-9]"]]
    assert [call for call in job.calls if call.get("ended")]  # Ray ends with the job


def test_other_nodes_join_the_first_and_only_with_its_token(folder):
    job = Submission(folder, "sweep=demo", hosts="localhost b c", SECONDS_LONG="1.5")
    code, out = job.end()
    assert code == 0, out
    srun = job.called("srun")[1]
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--exclude=localhost"} <= set(srun)
    joined = [ray for ray in job.called("ray") if "--head" not in ray]
    assert joined == [["start", "--block", f"--address={ADDRESS}", "--num-cpus=8"]]
    tokens = {call["token"] for call in job.calls if "token" in call}
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64
    assert {call["mode"] for call in job.calls if call["name"] == "ray" and "mode" in call} == {"token"}
    other = Submission(folder, "sweep=demo")
    other.end()
    assert len({call["token"] for call in other.calls if "token" in call}) == 2  # a token for each job
    assert not any("token" in argument.lower() for call in other.calls for argument in call["arguments"])


def test_slurms_signal_reaches_the_sweep_and_the_job_is_queued_again(folder):
    job = Submission(folder, "sweep=demo", SECONDS_LONG="60")
    job.wait_for("posweep")
    job.terminate()
    code, out = job.end()
    assert code == 130, out
    assert [call for call in job.calls if call.get("got") == "TERM"]
    assert job.called("scontrol")[-1] == ["requeue", "4321"]
    assert "The sweep was interrupted by Slurm; job 4321 is queued again and will go on from here." in out


def test_a_signal_before_the_sweep_began_queues_the_job_again_too(folder):
    (folder / ".venv/bin/ray").write_text(f"#!{sys.executable}\n{NOTE}\nimport time; note(); time.sleep(60)")
    job = Submission(folder, "sweep=demo")
    job.wait_for("ray")
    job.terminate()
    code, out = job.end()
    assert code == 130, out
    assert job.called("posweep") == []
    assert job.called("scontrol")[-1] == ["requeue", "4321"]


def test_a_sweep_that_died_of_the_signal_is_queued_again_too(folder):
    """It came before posweep could answer it."""
    job = Submission(folder, "sweep=demo", SECONDS_LONG="30", DEAF="1")
    job.wait_for("posweep")
    job.terminate()
    assert job.end()[0] == 143
    assert job.called("scontrol")[-1] == ["requeue", "4321"]


@pytest.mark.parametrize("code", [1, 2, 3, 130])
def test_a_sweep_that_ends_by_itself_is_not_queued_again(folder, code):
    job = Submission(folder, "sweep=demo", CODE=str(code))
    assert job.end()[0] == code
    assert ["requeue", "4321"] not in job.called("scontrol")


def test_a_ray_that_does_not_start_is_said(folder):
    job = Submission(folder, "sweep=demo", NO_RAY="1")
    code, out = job.end()
    assert code == 1
    assert "Ray did not start on localhost; its messages are above." in out
    assert job.called("posweep") == []


def test_what_slurm_is_told(folder):
    directives = Submission(folder, "sweep=demo").directives
    assert directives["signal"] == "B:TERM@90"
    assert directives["requeue"] == ""
    assert directives["open-mode"] == "append"
    known = {
        "job-name",
        "nodes",
        "ntasks-per-node",
        "cpus-per-task",
        "time",
        "output",
        "signal",
        "requeue",
        "open-mode",
    }
    assert set(directives) == known
    first = SCRIPT.read_text().split("set -euo pipefail")[0]
    assert all(line.startswith("#") or not line for line in first.splitlines())  # later directives would be ignored
