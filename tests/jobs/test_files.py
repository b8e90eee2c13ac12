"""The submissions that no test can run here: checked against schemas, and every command in them composes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from posweep.cli import VERBS
from posweep.config import configure

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "jobs"
POD = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "terminationGracePeriodSeconds": {"type": "integer", "minimum": 0},
                "securityContext": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "runAsNonRoot": {"type": "boolean"}, "runAsUser": {"type": "integer"},
                        "fsGroup": {"type": "integer"}, "fsGroupChangePolicy": {"enum": ["Always", "OnRootMismatch"]},
                    },
                },
                "runtimeClassName": {"type": "string"},
                "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
                "tolerations": {
                    "type": "array",
                    "items": {
                        "type": "object", "additionalProperties": False,
                        "properties": {
                            "key": {"type": "string"}, "operator": {"enum": ["Exists", "Equal"]},
                            "value": {"type": "string"},
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        },
                    },
                },
                "volumes": {
                    "type": "array",
                    "items": {
                        "type": "object", "required": ["name"], "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "persistentVolumeClaim": {"type": "object", "required": ["claimName"]},
                            "emptyDir": {
                                "type": "object", "additionalProperties": False,
                                "properties": {"medium": {"enum": ["", "Memory"]}, "sizeLimit": {"type": "string"}},
                            },
                        },
                    },
                },
                "containers": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/container"}},
            },
        },
    },
}  # fmt: skip
QUANTITIES = {
    "type": "object",
    "additionalProperties": {"type": ["string", "integer"], "pattern": r"^[0-9.]+(m|Ki|Mi|Gi)?$"},
}
STARTS = {"type": "object", "additionalProperties": {"type": "string"}}
RAYJOB = {
    "$defs": {
        "container": {
            "type": "object",
            "required": ["name", "image"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z0-9-]+$"}, "image": {"type": "string"},
                "envFrom": {
                    "type": "array",
                    "items": {
                        "type": "object", "additionalProperties": False,
                        "properties": {"secretRef": {"type": "object", "required": ["name"]}},
                    },
                },
                "env": {
                    "type": "array",
                    "items": {
                        "type": "object", "required": ["name", "value"], "additionalProperties": False,
                        "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                    },
                },
                "volumeMounts": {
                    "type": "array",
                    "items": {
                        "type": "object", "required": ["name", "mountPath"], "additionalProperties": False,
                        "properties": {"name": {"type": "string"}, "mountPath": {"type": "string", "pattern": "^/"}},
                    },
                },
                "resources": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"requests": QUANTITIES, "limits": QUANTITIES},
                },
            },
        },
    },
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "backoffLimit": {"type": "integer", "minimum": 0},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "authOptions": {
                            "type": "object", "additionalProperties": False,
                            "properties": {"mode": {"enum": ["disabled", "token"]}},
                        },
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "type": "object", "required": ["rayStartParams", "template"], "additionalProperties": False,
                            "properties": {"rayStartParams": STARTS, "template": POD},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": {"type": "string"}, "rayStartParams": STARTS, "template": POD,
                                    **{n: {"type": "integer"} for n in ("replicas", "minReplicas", "maxReplicas")},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip
"""The fields that we use of KubeRay's RayJob, after the CRD reference of KubeRay 1.6 (`ray.io/v1`): no other is allowed."""


def read(name: str, kind: str | None = None) -> dict[str, Any]:
    """A file's one document, or its only one of a kind."""
    (document,) = (
        each for each in yaml.safe_load_all((JOBS / name).read_text()) if kind is None or each["kind"] == kind
    )
    return document


def pods() -> list[dict[str, Any]]:
    """The specs of the head and of each kind of worker."""
    groups = read("rayjob.yaml", "RayJob")["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"])]


def test_the_cluster_keeps_to_rays_own_schema():
    cluster = read("ray_cluster.yaml")
    validate_config(prepare_config(cluster))
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    assert all(each.get("max_workers", 0) <= cluster["max_workers"] for each in types.values())


def test_the_job_keeps_to_what_kuberay_takes():
    job = read("rayjob.yaml", "RayJob")
    jsonschema.Draft202012Validator(RAYJOB).validate(job)
    groups = job["spec"]["rayClusterSpec"]
    assert f"ray=={groups['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert groups["authOptions"] == {"mode": "token"}
    for spec in pods():
        assert spec["terminationGracePeriodSeconds"] >= 30  # a trial may take 25 s to write a checkpoint
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 1000  # as in the image


def test_images_are_those_that_the_dockerfile_says_how_to_build():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    dockerfile = (JOBS / "Dockerfile").read_text()
    built = dict(re.findall(r"^#   docker build .*-t (\S+)(.*)$", dockerfile, re.MULTILINE))
    gpu = f"REGISTRY/posweep:{version}-gpu"
    assert set(built) == {f"REGISTRY/posweep:{version}", gpu}
    assert [tag for tag, rest in built.items() if "DEVICE=gpu" in rest] == [gpu]
    assert f"org.opencontainers.image.version={version} " in dockerfile
    assert {container["image"] for spec in pods() for container in spec["containers"]} == {gpu}
    assert read("ray_cluster.yaml")["docker"]["image"] == gpu
    for file in JOBS.iterdir():
        assert set(re.findall(r"REGISTRY/[\w:.-]+\w", file.read_text())) <= set(built)


def test_workers_have_the_gpu_that_trials_ask_for_and_the_head_none(monkeypatch):
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda _: object)  # s3fs is in the image, not here
    head, *workers = pods()
    entry = shlex.split(read("rayjob.yaml", "RayJob")["spec"]["entrypoint"])
    asked = configure(entry[1:]).executor.trial_resources
    assert "executor.trial_resources.gpu=1" in entry
    assert "nvidia.com/gpu" not in json.dumps(head)
    for spec in workers:
        resources = spec["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"]["nvidia.com/gpu"] == asked.gpu
        assert int(resources["limits"]["cpu"]) >= asked.cpu
    types = read("ray_cluster.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["gpu"]["resources"]["GPU"] == asked.gpu
    assert types["gpu"]["resources"]["CPU"] >= asked.cpu


def test_weights_are_fetched_once_for_all_pods_and_shared_memory_is_large_enough():
    claim = read("rayjob.yaml", "PersistentVolumeClaim")
    assert claim["apiVersion"] == "v1"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for spec in pods():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        home = next(each["value"] for each in spec["containers"][0]["env"] if each["name"] == "HF_HOME")
        assert mounts[home]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert ("ENV", f"HF_HOME={home}") in instructions()
    options = read("ray_cluster.yaml")["docker"]["run_options"]
    assert any(option.startswith("--volume ") and option.endswith(f":{home}") for option in options)


def test_secrets_have_a_place_in_each_submission():
    """None has to be there."""
    for spec in pods():
        assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "posweep-secrets", "optional": True}}]
    cluster = read("ray_cluster.yaml")
    assert "~/.config/posweep/secrets" in cluster["file_mounts"]
    for command in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        assert command == "ray stop" or command.startswith("set -a; . ~/.config/posweep/secrets; ray start ")
    for file in ("rayjob.yaml", "ray_cluster.yaml", "slurm.sh", "Dockerfile"):
        text = (JOBS / file).read_text()
        assert ".config/posweep/secrets" in text
        assert "HF_TOKEN" in text
        assert not re.search(r"--from-literal|--env \w*(TOKEN|KEY|PASSWORD)=", text)  # a command line is read by others


def commands() -> list[str]:
    """Every posweep command that a submission or its header shows; a line that ends in a backslash goes on."""
    found = [" ".join(read("rayjob.yaml", "RayJob")["spec"]["entrypoint"].split())]
    for file in sorted(JOBS.iterdir()):
        head = re.sub(r"\\\n#\s*", "", "".join(line for line in file.open() if line.startswith("#")))
        for line in head.splitlines():
            if example := re.match(
                r"#   (?:sbatch .*jobs/slurm.sh|.*?'posweep|.*?[ /]posweep(?::\S+)?) ((?:\w+ )?sweep=[^']*)", line
            ):
                found.append(f"posweep {example[1]}")
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_composes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda _: object)  # s3fs is in the image, not here
    arguments = shlex.split(command)[1:]
    verb = arguments.pop(0) if arguments[0] in VERBS else "launch"
    assert verb in VERBS
    known = [argument.replace("sweep=mine", "sweep=paper") for argument in arguments]
    configuration = configure(known)
    assert configuration.sweep.name
    if any("executor.address=auto" in argument for argument in known):
        assert configuration.executor.storage.startswith("s3://")  # machines that share nothing else


def test_there_are_commands_in_every_header():
    assert len(commands()) >= 5


# --- the image

INSTRUCTION = re.compile(r"^(ARG|CMD|COPY|ENTRYPOINT|ENV|FROM|LABEL|RUN|USER|WORKDIR)\s+(.+)$")


def instructions() -> list[tuple[str, str]]:
    """Name and argument of each, with continued lines joined."""
    lines = [
        line for line in (JOBS / "Dockerfile").read_text().splitlines() if line.strip() and not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    found = [INSTRUCTION.match(line) for line in joined]
    assert all(found), joined
    return [(match[1], match[2]) for match in found if match]


def test_what_the_image_copies_is_there():
    copied = [name for kind, what in instructions() if kind == "COPY" for name in what.split()[:-1]]
    assert {"src", "conf", "sweeps", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert not {"outputs", ".", ".venv"} & set(copied)


def test_nothing_else_gets_into_the_build():
    """Outputs and databases hold data, environments gigabytes; a folder may hold secrets."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    said = [line for line in lines if line and not line.startswith("#")]
    copied = {name for kind, what in instructions() if kind == "COPY" for name in what.split()[:-1]}
    assert said[0] == "*"
    assert {line[1:] for line in said if line.startswith("!")} == copied


def test_the_image_installs_what_is_declared_and_runs_as_nobody_special():
    said = instructions()
    text = "\n".join(f"{kind} {what}" for kind, what in said)
    assert [kind for kind, _ in said].index("USER") > max(i for i, (kind, _) in enumerate(said) if kind == "RUN")
    assert [what for kind, what in said if kind == "USER"] == ["posweep"]
    assert json.loads(next(what for kind, what in said if kind == "ENTRYPOINT")) == [
        "tini", "--", "posweep",
    ]  # fmt: skip
    assert " tini " in text
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.search(r"'\.\[(.+?)\]'", text)[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    assert next(what for kind, what in said if kind == "ARG" and what.startswith("DEVICE")) == "DEVICE=cpu"
    minor = next(what for kind, what in said if kind == "ARG" and what.startswith("PYTHON")).partition("=")[2]
    assert f'requires-python = ">={minor}"' in project


@pytest.mark.parametrize("file", sorted(path.name for path in JOBS.iterdir()))
def test_each_says_how_to_use_it_and_holds_no_secret(file):
    text = (JOBS / file).read_text()
    head = text.removeprefix("#!/usr/bin/env bash\n")
    assert head.startswith("# ")
    assert re.search(r"^#   (sbatch|ray|kubectl|docker) ", head, re.MULTILINE)
    assert not re.search(r"(?i)(password|secret_access_key|token)\s*[=:]\s*['\"]?[A-Za-z0-9/+]{16,}", text)
