"""The submissions that no test can run here: checked against schemas, and every command in them composes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

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
                        "fsGroup": {"type": "integer"},
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


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((JOBS / name).read_text())


def test_the_cluster_keeps_to_rays_own_schema():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = read("ray_cluster.yaml")
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    assert all(each.get("max_workers", 0) <= cluster["max_workers"] for each in types.values())


def test_the_job_keeps_to_what_kuberay_takes():
    job = read("rayjob.yaml")
    jsonschema.Draft202012Validator(RAYJOB).validate(job)
    groups = job["spec"]["rayClusterSpec"]
    pods = [groups["headGroupSpec"], *groups["workerGroupSpecs"]]
    assert groups["rayVersion"] == ray.__version__
    assert groups["authOptions"] == {"mode": "token"}
    images = {container["image"] for pod in pods for container in pod["template"]["spec"]["containers"]}
    assert len(images) == 1  # the same posweep everywhere
    for pod in pods:
        spec = pod["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] >= 30  # a trial may take 25 s to write a checkpoint
        assert spec["securityContext"]["runAsNonRoot"]


def commands() -> list[str]:
    """Every posweep command that a submission or its header shows; a line that ends in a backslash goes on."""
    found = [" ".join(read("rayjob.yaml")["spec"]["entrypoint"].split())]
    for file in sorted(JOBS.iterdir()):
        head = re.sub(r"\\\n#\s*", "", "".join(line for line in file.open() if line.startswith("#")))
        for line in head.splitlines():
            if example := re.match(
                r"#   (?:sbatch .*jobs/slurm.sh|.*?'posweep|.*? posweep) ((?:\w+ )?sweep=[^']*)", line
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

INSTRUCTION = re.compile(r"^(ARG|CMD|COPY|ENTRYPOINT|FROM|RUN|USER|WORKDIR|ENV)\s+(.+)$")


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


def test_the_image_installs_what_is_declared_and_runs_as_nobody_special():
    said = instructions()
    text = "\n".join(f"{kind} {what}" for kind, what in said)
    assert [kind for kind, _ in said].index("USER") > max(i for i, (kind, _) in enumerate(said) if kind == "RUN")
    assert [what for kind, what in said if kind == "USER"] == ["posweep"]
    assert json.loads(next(what for kind, what in said if kind == "ENTRYPOINT")) == ["posweep"]
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
