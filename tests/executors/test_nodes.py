import dataclasses
import os
import subprocess
import sys

import pytest

from posweep.config import configure
from posweep.errors import ConfigError, PreflightError
from posweep.executors import nodes, open_executor
from posweep.executors.nodes import (
    Inspection,
    idle_gpu_problems,
    mark,
    request_problems,
    unsatisfiable,
    versions,
    visit,
)
from posweep.settings import ExecutorSettings, TrialResources


@pytest.fixture
def inspection(smoke, tmp_path):
    """Of the smoke sweep on a cluster that shares the output folder."""
    (tmp_path / "smoke").mkdir()
    return Inspection(smoke, tmp_path / "smoke")


@pytest.fixture
def stored(smoke, tmp_path):
    """Likewise, on one that shares a storage."""
    executor = dataclasses.replace(smoke.executor, storage=str(tmp_path / "store"))
    return Inspection(dataclasses.replace(smoke, executor=executor), tmp_path / "smoke")


def answers(*names: str, **changes):
    """A visit to each node, after which its answer is changed; `versions` are changed one by one."""

    def visit_all(errand):
        found = {}
        for name in names:
            answer = visit(errand, mark(name))
            answer["versions"] = {**answer["versions"], **changes.get("versions", {})}
            found[name] = {**answer, **{what: value for what, value in changes.items() if what != "versions"}}
        return found

    return visit_all


def test_nodes_that_are_as_they_should_be(inspection, stored, tmp_path):
    for looked in (inspection, stored):
        assert looked.problems(answers("a", "b (1f2e3d)")) == []
    assert list((tmp_path / "smoke").iterdir()) == []
    assert list((tmp_path / "store" / "smoke").iterdir()) == []


def test_another_posweep_and_another_torch_are_said_at_once(inspection):
    assert inspection.problems(answers("a", "b", versions={"posweep": "0.0.9", "torch": "2.0.0", "files": "x"})) == [
        f"executor.address: posweep 0.0.9 (here {versions()['posweep']}) and torch 2.0.0 (here {versions()['torch']}) on "
        "nodes a and b; numbers would mix: install the same on every node (jobs/Dockerfile makes an image of it)."
    ]


def test_the_same_version_with_other_source_files(inspection):
    (sentence,) = inspection.problems(answers("a", versions={"files": "x"}))
    assert f"posweep {versions()['posweep']} with other source files than here on node a; numbers would mix" in sentence


def test_a_node_of_another_version_is_asked_no_more(inspection):
    other = dataclasses.replace(inspection.errand, versions={"posweep": "0.0.9"})
    assert visit(other, "a") == {"versions": versions()}


def test_nodes_that_do_not_answer(inspection):
    why = {**{f"n{i}": "no answer in 60 s" for i in range(7)}, "m": "No module named 'posweep'"}
    assert inspection.problems(lambda _: why) == [
        "executor.address: posweep does not run on nodes n0, n1, n2, n3 and 3 more (no answer in 60 s); install the same on "
        "every node (jobs/Dockerfile makes an image of it).",
        "executor.address: posweep does not run on node m (No module named 'posweep'); install the same on every node "
        "(jobs/Dockerfile makes an image of it).",
    ]


def test_a_folder_that_is_another_one_on_a_node(inspection, tmp_path):
    """Its output folder has the same name, and not what the driver wrote: nothing is written there."""
    (tmp_path / "elsewhere").mkdir()
    elsewhere = dataclasses.replace(inspection.errand, url=str(tmp_path / "elsewhere"))
    (sentence,) = inspection.problems(lambda _: {"a": visit(elsewhere, "a")})
    assert sentence == (
        f"output_dir: {tmp_path}/smoke cannot be used on node a (what the driver wrote is not there); nodes share nothing "
        "by themselves: set executor.storage to a folder or URL that all of them reach (s3://BUCKET/FOLDER), or output_dir "
        "to such a folder."
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_storage_that_one_node_cannot_write(stored, tmp_path):
    (sentence,) = stored.problems(answers("a", storage="Permission denied"))
    assert sentence == (
        f"executor.storage: {tmp_path}/store/smoke cannot be used on node a (Permission denied); give every node access to "
        "it, or name a folder or URL that all of them reach."
    )


def test_what_a_node_writes_must_arrive_here(stored):
    def lost(errand):
        found = answers("a", "b")(errand)
        stored.storage.remove(f"{nodes.PROBES}/{errand.token}-b")
        return found

    (sentence,) = stored.problems(lost)
    assert "cannot be used on node b (what it writes does not arrive here)" in sentence


def test_a_storage_that_this_machine_cannot_write_asks_nobody(smoke, tmp_path):
    (tmp_path / "store").write_text("a file, where a folder should be")
    executor = dataclasses.replace(smoke.executor, storage=str(tmp_path / "store"))
    (sentence,) = Inspection(dataclasses.replace(smoke, executor=executor), tmp_path).problems(pytest.fail)
    assert sentence.startswith(f"executor.storage: {tmp_path}/store/smoke cannot be used on this machine (")


def test_a_model_in_a_folder_must_be_on_every_node(stored, tmp_path):
    errand = dataclasses.replace(stored.errand, files={"model.name": str(tmp_path / "model")})
    stored.errand = errand
    (sentence,) = stored.problems(answers("a"))
    assert sentence == (
        f"model.name: {tmp_path}/model is not there on node a; copy it to every node, or give a name on a hub."
    )


def test_the_local_executor_tries_its_storage(smoke, tmp_path):
    (tmp_path / "store").write_text("a file")
    executor = ExecutorSettings(kind="local", storage=str(tmp_path / "store"))
    configuration = dataclasses.replace(smoke, executor=executor)
    with pytest.raises(PreflightError, match="cannot be used on this machine"):
        open_executor(executor).open(configuration, tmp_path, pytest.fail)


# --- requests


def test_requests_that_no_node_satisfies_are_all_said_with_what_there_is():
    own = {"kto": TrialResources(cpu=1, gpu=2), "dpo": TrialResources(cpu=2, gpu=0.5)}
    settings = ExecutorSettings(trial_resources=TrialResources(cpu=16, gpu=1), method_resources=own)
    there = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0}]
    lacking = unsatisfiable(settings, there)
    assert set(lacking) == {"executor.trial_resources", "executor.method_resources.kto"}
    assert request_problems(lacking, there)[1] == (
        "executor.method_resources.kto: a trial asks for 1 cores and 2 GPU, and no node has them (the most that one has: 8 "
        "cores, 1 GPU); trials would wait for ever. Ask for less, add such a node, or set executor.wait_minutes for one "
        "that is still to join."
    )
    assert unsatisfiable(settings, [*there, {"CPU": 16.0, "GPU": 2.0}]) == {}


def test_a_core_here_and_a_gpu_there_make_no_node():
    settings = ExecutorSettings(trial_resources=TrialResources(cpu=4, gpu=1))
    assert unsatisfiable(settings, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}])


def test_gpus_that_would_be_idle_for_lack_of_cores_are_said():
    """Two nodes of eight GPUs and the eight cores that Slurm's job had by default ran two trials each."""
    settings = ExecutorSettings(trial_resources=TrialResources(cpu=4, gpu=1))
    assert idle_gpu_problems(settings, [{"CPU": 8.0, "GPU": 8.0}] * 2) == [
        "executor.trial_resources.cpu: a trial asks for 4 cores and 1 GPU; the GPUs of the cluster are enough for 16 trials "
        "at a time, the cores of the same nodes for 4. Ask for fewer cores, give the nodes more (sbatch --cpus-per-task), "
        "or set executor.workers=4 to leave GPUs idle."
    ]


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ({}, [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 2.0}]),
        ({"workers": 2}, [{"CPU": 8.0, "GPU": 8.0}]),
        ({}, [{"CPU": 0.0, "GPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}]),  # a head that is not meant for trials
        ({"trial_resources": TrialResources(cpu=4, gpu=0)}, [{"CPU": 8.0, "GPU": 8.0}]),
        ({"trial_resources": TrialResources(cpu=1, gpu=0.1)}, [{"CPU": 10.0, "GPU": 1.0}]),
    ],
    ids=["enough", "as wanted", "head", "no gpu", "fractions"],
)
def test_gpus_that_work_or_are_left_idle_on_purpose_are_no_problem(settings, there):
    asked = {"trial_resources": TrialResources(cpu=4, gpu=1), **settings}
    assert idle_gpu_problems(ExecutorSettings(**asked), there) == []


@pytest.mark.parametrize("kind", ["ray", "local"])
def test_every_method_is_looked_at_before_anything_starts(kind, monkeypatch):
    for module in ("ray", "local"):
        monkeypatch.setattr(f"posweep.executors.{module}.gpus_here", lambda: 1)
    own = {"kto": TrialResources(gpu=2)}
    (sentence,) = open_executor(
        ExecutorSettings(kind=kind, trial_resources=TrialResources(gpu=1), method_resources=own)
    ).preflight()
    assert sentence == (
        "executor.method_resources.kto.gpu: each trial asks for 2 GPU and this machine has 1. Set "
        "executor.method_resources.kto.gpu=0, or executor.address=<a cluster with GPUs>."
    )


def test_no_trial_may_ask_for_a_gpu_that_would_idle():
    """Neither by the sweep's request nor by a method's; a share, and a whole one, are fine."""
    own = [
        "executor.trial_resources.gpu=4",
        "+executor.method_resources.dpo.gpu=1.5",
        "+executor.method_resources.simpo.gpu=1",
    ]
    with pytest.raises(ConfigError) as caught:
        configure(["sweep=smoke", *own])
    assert list(caught.value.problems) == [
        f"executor.{request}.gpu: a trial computes on one GPU, so that the others would idle; set it to 1 or less, "
        f"got {gpu}."
        for request, gpu in (("trial_resources", "4"), ("method_resources.dpo", "1.5"))
    ]


def test_methods_must_agree_on_the_device_and_be_methods():
    own = ["+executor.method_resources.dpo.gpu=1", "+executor.method_resources.dpoo.cpu=1"]
    with pytest.raises(ConfigError) as caught:
        configure(["sweep=smoke", "executor.storage=here", *own])
    unknown, device, storage = caught.value.problems
    assert unknown.startswith("executor.method_resources.dpoo: no such method; there are ")
    assert unknown.endswith("Did you mean dpo?")
    assert device == (
        "executor.method_resources.dpo.gpu: asks for 1 GPU, and executor.trial_resources.gpu for 0; trials of one sweep "
        "compute all on a GPU or all without, for that changes rounding: set both > 0, or both to 0."
    )
    assert storage.startswith("executor.storage: must be a folder by its absolute name or a URL")


def test_requests_of_methods_that_the_sweep_has_not_stand_aside():
    own = ["+executor.method_resources.kto.gpu=1", "+executor.method_resources.dpo.cpu=2"]
    executor = configure(["sweep=smoke", *own]).executor
    assert executor.method_resources == {"dpo": TrialResources(cpu=2)}
    assert executor.request("dpo").cpu == 2
    assert executor.request("simpo").cpu == 1


# --- Ray, without a cluster


def test_a_trial_asks_for_what_its_method_does(smoke, plan, tmp_path):
    from posweep.executors.base import Work
    from posweep.executors.ray import RayExecutor

    settings = ExecutorSettings(method_resources={plan[0].method: TrialResources(cpu=2, gpu=0.25)})
    work = Work(smoke, tmp_path, {spec.key: spec for spec in plan})
    placed = RayExecutor(settings)._placement(work, [(spec.key,) for spec in plan])
    asked = {spec.method: placed({"keys": spec.key}).bundles for spec in plan}
    assert asked.pop(plan[0].method) == [{"CPU": 2.0, "GPU": 0.25}]
    assert all(bundles == [{"CPU": 1.0}] for bundles in asked.values())


def test_waiting_for_nodes_says_so_and_ends_when_they_are_there(monkeypatch):
    from posweep.executors import ray as module

    there, demands, said = [{"CPU": 1.0}], [], []
    settings = ExecutorSettings(trial_resources=TrialResources(cpu=4), wait_minutes=5)
    monkeypatch.setattr(module, "_resources", lambda: there)
    monkeypatch.setattr(module, "_demand", demands.append)
    monkeypatch.setattr(module.time, "sleep", lambda _: there.append({"CPU": 8.0}))
    module.RayExecutor(settings)._wait_for_nodes(said.append)
    assert said == ["waiting up to 5 minutes for nodes that satisfy executor.trial_resources …"]
    assert demands == [[{"CPU": 4, "GPU": 0.0}], []]


def test_nodes_have_the_names_of_their_hosts(monkeypatch):
    import ray

    from posweep.executors.ray import _nodes

    def node(host: str, number: str, alive: bool = True) -> dict:
        return {"Alive": alive, "NodeManagerHostname": host, "NodeID": number * 28}

    listed = [node("a", "01"), node("b", "02"), node("b", "03"), node("c", "04", alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    assert list(_nodes()) == ["a", "b (020202)", "b (030303)"]


def test_a_node_with_another_posweep_can_say_so(inspection, tmp_path):
    """What travels there must come to life without our modules, which another version may lack."""
    import ray

    ray.cloudpickle.register_pickle_by_value(nodes)
    try:
        (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps((visit, inspection.errand)))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(nodes)
    (tmp_path / "posweep").mkdir()
    (tmp_path / "posweep" / "__init__.py").write_text("__version__ = '0.0.9'")
    code = "import pickle; visit, errand = pickle.load(open('sent', 'rb')); print(visit(errand, 'a'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "'posweep': '0.0.9'" in ran.stdout, ran.stderr
