import re
import sys
from pathlib import Path

import pytest

from .slurm import NOTE, SCRIPT, Submission, programs

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return programs(tmp_path)


def option(arguments: list[str], name: str) -> str:
    return next(argument.partition("=")[2] for argument in arguments if argument.startswith(f"--{name}="))


def test_one_node_starts_ray_with_what_slurm_gave_and_runs_the_sweep_there(folder):
    job = Submission(folder, "sweep=demo", "executor.workers=2")
    code, out = job.end()
    assert code == 0, out
    assert job.called("srun") == []
    (ray,) = job.called("ray")
    assert ray[:3] == ["start", "--block", "--head"]
    assert {"--num-cpus=8", "--num-gpus=0", f"--temp-dir={job.nodes}/posweep-job-4321"} <= set(ray)
    assert 20000 <= int(option(ray, "port")) < 30000
    address = f"localhost:{option(ray, 'port')}"
    assert job.called("posweep") == [["sweep=demo", "executor.workers=2", f"executor.address={address}"]]
    assert job.called("scontrol") == [["show", "hostnames", "n[1-9]"]]
    assert [call for call in job.calls if call.get("ended")]  # Ray ends with the job


def test_other_nodes_join_the_first_and_only_with_its_token(folder):
    job = Submission(folder, "sweep=demo", hosts="localhost b c")
    code, out = job.end()
    assert code == 0, out
    rays = job.rays()
    assert set(rays) == {"localhost", "b", "c"}
    address = f"localhost:{option(rays['localhost'], 'port')}"
    for name in "bc":
        assert rays[name][:3] == ["start", "--block", f"--address={address}"]
        assert "--head" not in rays[name]
    tokens = {call["token"] for call in job.calls if "token" in call}
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64
    assert {call["mode"] for call in job.calls if "mode" in call} == {"token"}
    other = Submission(folder, "sweep=demo", job=4322)
    other.end()
    assert len({call["token"] for each in (job, other) for call in each.calls if "token" in call}) == 2  # one a job
    assert not any("token" in argument.lower() for call in job.calls for argument in call["arguments"])


@pytest.mark.parametrize(
    "asked",
    [
        {"SLURM_GPUS_PER_NODE": "8"},
        {"SLURM_GPUS": "16"},
        {"SLURM_GPUS_PER_TASK": "1", "SLURM_NTASKS_PER_NODE": "8", "SLURM_TRES_PER_TASK": "cpu:8,gres/gpu:1"},
    ],
    ids=["gpus-per-node", "gpus", "gpus-per-task"],
)
def test_ray_has_every_gpu_and_cpu_of_every_node(folder, asked):
    """Also where sbatch was told of 8 CPUs per task, and the nodes, taken whole, have 64."""
    job = Submission(folder, "sweep=paper", hosts="localhost b", cpus="64", gpus="8", **asked)
    code, out = job.end()
    assert code == 0, out
    for arguments in job.rays().values():
        assert {"--num-cpus=64", "--num-gpus=8"} <= set(arguments)
    assert len(job.rays()) == 2


def test_nodes_of_different_size_each_count_themselves(folder):
    job = Submission(folder, "sweep=paper", hosts="localhost b c", cpus="64 32 16", gpus="8 4 0", SLURM_GPUS="12")
    code, out = job.end()
    assert code == 0, out
    had = {name: (option(ray, "num-cpus"), option(ray, "num-gpus")) for name, ray in job.rays().items()}
    assert had == {"localhost": ("64", "8"), "b": ("32", "4"), "c": ("16", "0")}


def test_steps_share_the_jobs_memory_and_do_not_wait_for_one_another(folder):
    job = Submission(folder, "sweep=demo", hosts="localhost b")
    job.end()
    steps = job.called("srun")
    assert len(steps) == 2  # Ray on the other node, and what removes its folders
    for step in steps:
        assert {"--overlap", "--mem=0", "--export=ALL", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(step)
        assert not any(argument.startswith("--cpus-per-task") for argument in step)  # which would imply --exact
    assert all(int(option(ray, "object-store-memory")) <= 2 * 10**9 for ray in job.called("ray"))


def test_sbatch_that_exports_nothing_still_brings_the_token_to_every_node(folder):
    job = Submission(folder, "sweep=demo", hosts="localhost b", SLURM_EXPORT_ENV="NONE")
    assert job.end()[0] == 0
    assert len({call["token"] for call in job.calls if "mode" in call}) == 1


def test_two_jobs_on_a_node_have_ports_and_folders_of_their_own(folder):
    """Two tasks of an array, say."""
    jobs = [Submission(folder, "sweep=demo", job=number, SECONDS_LONG="1") for number in (50, 10050)]
    assert [job.end()[0] for job in jobs] == [0, 0]
    rays = [job.rays()["localhost"] for job in jobs]
    assert option(rays[0], "port") != option(rays[1], "port")
    assert [Path(option(ray, "temp-dir")).name for ray in rays] == ["posweep-job-50", "posweep-job-10050"]
    for ray in rays:  # no other port is Ray's usual one
        assert {"--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"} <= set(ray)


@pytest.mark.parametrize("trouble", ["NO_RAY_AT_FIRST", "SLOW_AT_FIRST"])
def test_a_port_that_was_taken_meanwhile_or_a_slow_node_is_not_the_end(folder, trouble):
    job = Submission(folder, "sweep=demo", **{trouble: "1"})
    code, out = job.end()
    assert code == 0, out
    first, second = job.called("ray")
    assert option(first, "port") != option(second, "port")
    assert job.called("posweep")[0][-1] == f"executor.address=localhost:{option(second, 'port')}"


# --- folders


def test_a_long_tmpdir_is_for_trials_and_not_for_rays_sockets(folder, tmp_path):
    long = tmp_path / ("scratch" * 12)
    long.mkdir()
    number = int.from_bytes(str(tmp_path).encode()[-6:], "big")  # a folder in /tmp that no other test has
    job = Submission(folder, "sweep=demo", job=number, TMPDIR=str(long))
    assert job.end()[0] == 0
    (ray,) = (call for call in job.calls if "mode" in call)
    sockets = Path(option(ray["arguments"], "temp-dir"))
    assert sockets == Path("/tmp") / f"posweep-job-{number}"
    assert ray["scratch"] == str(long / f"posweep-job-{number}")
    assert not sockets.exists()
    assert not list(long.iterdir())


@pytest.mark.parametrize("how", ["end", "signal", "killed"])
def test_nothing_temporary_stays_on_any_node(folder, how):
    job = Submission(
        folder, "sweep=demo", hosts="localhost b c", SECONDS_LONG="60" if how == "signal" else "0",
        **({"KILLED": "1"} if how == "killed" else {}),
    )  # fmt: skip
    job.wait_for("posweep")
    job.wait_for("ray", times=3)
    if how == "signal":
        job.terminate()
    code, out = job.end()  # looks at the folders of all nodes
    assert code == {"signal": 130}.get(how, 0), out
    folders = {call["node"]: call["scratch"] for call in job.calls if "mode" in call}
    assert folders == {
        "localhost": f"{job.nodes}/posweep-job-4321", "b": f"{job.nodes}/b/posweep-job-4321",
        "c": f"{job.nodes}/c/posweep-job-4321",
    }  # fmt: skip
    assert next(call["scratch"] for call in job.calls if call["name"] == "posweep") == folders["localhost"]


# --- environment and secrets


def test_the_environment_may_lie_anywhere(tmp_path):
    programs(tmp_path, "elsewhere/my env")
    job = Submission(tmp_path, "sweep=demo", hosts="localhost b", POSWEEP_ENV=str(tmp_path / "elsewhere" / "my env"))
    code, out = job.end()
    assert code == 0, out
    assert set(job.rays()) == {"localhost", "b"}


def test_an_active_environment_is_found_on_the_path(tmp_path):
    programs(tmp_path, "conda")
    path = f"{tmp_path}/slurm:{tmp_path}/conda/bin:/usr/bin:/bin"
    job = Submission(tmp_path, "sweep=demo", PATH=path)
    code, out = job.end()
    assert code == 0, out
    assert len(job.called("posweep")) == 1


def test_an_environment_without_posweep_is_said_before_anything_starts(folder):
    job = Submission(folder, "sweep=demo", POSWEEP_ENV="/no/such/place")
    code, out = job.end()
    assert code == 2
    assert out == (
        "POSWEEP_ENV: no posweep in /no/such/place/bin; set it to the environment's folder (the one with bin/posweep), or "
        "activate that environment before sbatch.\n"
    )
    assert job.calls == []


@pytest.mark.parametrize("place", ["named", "usual"])
def test_secrets_reach_every_node_from_a_file_and_stand_on_no_command_line(folder, place):
    secrets = folder / ("mine" if place == "named" else ".config/posweep/secrets")
    secrets.parent.mkdir(parents=True, exist_ok=True)
    secrets.write_text("# for the hub\nHF_TOKEN=hf_secret\n")
    secrets.chmod(0o600)
    named = {"POSWEEP_SECRETS": str(secrets)} if place == "named" else {}
    job = Submission(folder, "sweep=demo", hosts="localhost b", **named)
    code, out = job.end()
    assert code == 0, out
    assert {call["secret"] for call in job.calls if call["name"] in ("ray", "posweep")} == {"hf_secret"}
    assert "hf_secret" not in out
    assert not any("hf_secret" in argument for call in job.calls for argument in call["arguments"])


def test_secrets_that_others_may_read_are_refused(folder):
    (folder / "mine").write_text("HF_TOKEN=hf_secret\n")
    (folder / "mine").chmod(0o640)
    job = Submission(folder, "sweep=demo", POSWEEP_SECRETS=str(folder / "mine"))
    assert job.end() == (2, f"POSWEEP_SECRETS: others may read {folder}/mine; chmod 600 {folder}/mine\n")
    missing = Submission(folder, "sweep=demo", POSWEEP_SECRETS=str(folder / "none"))
    assert missing.end() == (
        2,
        f"POSWEEP_SECRETS: {folder}/none cannot be read; name a file with lines like HF_TOKEN=…, or unset it.\n",
    )
    assert job.calls == missing.calls == []


# --- signals


def test_slurms_signal_reaches_the_sweep_and_the_job_is_queued_again(folder):
    job = Submission(folder, "sweep=demo", hosts="localhost b", SECONDS_LONG="60")
    job.wait_for("posweep")
    job.terminate()
    code, out = job.end()
    assert code == 130, out
    assert [call for call in job.calls if call.get("got") == "TERM"]
    assert job.calls[-1]["arguments"] == ["requeue", "4321"]  # which ends the job: everything else is done by then
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


# --- the file itself


def test_what_slurm_is_told(folder):
    text = SCRIPT.read_text()
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert directives["signal"] == "B:TERM@90"
    assert directives["requeue"] == ""
    assert directives["open-mode"] == "append"
    assert re.fullmatch(r"\d+G", directives["mem"])  # of a node; a cluster's default is a few GB per CPU
    known = {
        "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "output", "signal", "requeue", "open-mode",
    }  # fmt: skip
    assert set(directives) == known
    first = text.split("set -euo pipefail")[0]
    assert all(line.startswith("#") or not line for line in first.splitlines())  # later directives would be ignored
