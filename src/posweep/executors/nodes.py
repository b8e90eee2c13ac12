"""What every node of a cluster must fulfil before anything starts: the same programs, the storage, files of its own.

Each node is visited (`visit`, which needs nothing of posweep but Python, for it may meet another version); what the
visits came to becomes sentences here, those of several nodes in one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.errors import without_password
from posweep.settings import Configuration, ExecutorSettings, TrialResources
from posweep.storage import Storage, reason

LISTED = 4
"""Nodes that a sentence names before it only counts them."""
PROBES = ".preflight"
"""Where driver and nodes write to one another, in the sweep's folder."""

Answer = Mapping[str, Any]
"""What a visit came to: `versions`, and if they are the driver's also `storage` (what is wrong) and `missing` (places)."""


@dataclass(frozen=True)
class Errand:
    """What a visit brings to a node: where the storage is, what the driver wrote there, and files a trial will read."""

    url: str
    sweep: str
    token: str
    versions: Mapping[str, str]
    files: Mapping[str, str]


def versions() -> dict[str, str]:
    """What must be the same everywhere: posweep and its very files, Python's minor version, torch."""
    import hashlib
    import importlib.util
    import pathlib
    import sys
    from importlib.metadata import version

    import posweep

    found = importlib.util.find_spec("posweep")
    root = pathlib.Path(next(iter((found and found.submodule_search_locations) or [""])))
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return {
        "posweep": posweep.__version__,
        "files": digest.hexdigest()[:12],
        "Python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "torch": version("torch").partition("+")[0],
    }


def visit(errand: Errand, node: str) -> dict[str, Any]:
    """Runs on a node; `node` is its mark in the storage."""
    found = versions()
    if found != errand.versions:
        return {"versions": found}
    missing = [place for place, file in errand.files.items() if not Path(file).exists()]
    return {"versions": found, "storage": _try_storage(errand, node), "missing": missing}


def _try_storage(errand: Errand, node: str) -> str:
    """Read what the driver wrote and answer it; what went wrong, empty if nothing."""
    from posweep.storage import Storage, reason  # here, for another version may not have them

    storage = Storage(errand.url, errand.sweep, attempts=2)
    try:
        if storage.read(f"{PROBES}/{errand.token}") != errand.token.encode():
            return "what the driver wrote is not there"
        storage.write(f"{PROBES}/{errand.token}-{node}", node.encode())
    except Exception as error:  # a filesystem's own errors
        return reason(error)
    return ""


class Inspection:
    """One look at all nodes: what the driver writes for them, and what their answers mean."""

    def __init__(self, configuration: Configuration, folder: Path):
        url = configuration.executor.storage
        self.named = url is not None
        self.storage = Storage(url or str(folder), configuration.sweep.name if url else "", attempts=2)
        files = _files(configuration)
        self.errand = Errand(self.storage.url, self.storage.sweep, uuid.uuid4().hex, versions(), files)

    def problems(self, visit_all: Callable[[Errand], Mapping[str, Answer | str]]) -> list[str]:
        """Sentences for everything that is wrong.

        Args:
            visit_all: brings the errand to every node; the answers by node, or a text that says why there is none.
        """
        found: list[str] = []
        with self._word_left(found):
            return found or self._meaning(visit_all(self.errand))

    @contextmanager
    def _word_left(self, problems: list[str]) -> Iterator[None]:
        """The driver's own word lies in the storage while nodes are visited; where it cannot, `problems` get a sentence."""
        try:
            self.storage.write(f"{PROBES}/{self.errand.token}", self.errand.token.encode())
        except Exception as error:  # a filesystem's own errors
            problems.append(self._storage_sentence("on this machine", reason(error)))
        try:
            yield
        finally:
            if not problems:
                self.storage.remove(PROBES)

    def _meaning(self, answers: Mapping[str, Answer | str]) -> list[str]:
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
        there = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
        same = {name: answer for name, answer in there.items() if answer["versions"] == self.errand.versions}
        return [
            *_grouped(silent, lambda where, why: f"executor.address: posweep does not run {where} ({why}); {INSTALL}"),
            *_grouped(_differences(there, self.errand.versions), _version_sentence),
            *_grouped(self._unheard(same), self._storage_sentence),
            *_grouped(_missing(same, self.errand.files), _file_sentence),
        ]

    def _unheard(self, answers: Mapping[str, Answer]) -> dict[str, str]:
        """What is wrong with the storage by node: its own word, or that what it wrote does not arrive here."""
        heard = self.storage.names(PROBES)
        return {
            name: why
            for name, answer in answers.items()
            if (why := answer["storage"])
            or (f"{self.errand.token}-{mark(name)}" not in heard and (why := "what it writes does not arrive here"))
        }

    def _storage_sentence(self, where: str, why: str) -> str:
        shown = without_password("/".join(filter(None, (self.storage.url.rstrip("/"), self.storage.sweep))))
        if self.named:
            return (
                f"executor.storage: {shown} cannot be used {where} ({why}); give every node access to it, or name a folder "
                "or URL that all of them reach."
            )
        return (
            f"output_dir: {shown} cannot be used {where} ({why}); nodes share nothing by themselves: set executor.storage "
            "to a folder or URL that all of them reach (s3://BUCKET/FOLDER), or output_dir to such a folder."
        )


INSTALL = "install the same on every node (jobs/Dockerfile makes an image of it)."


def mark(name: str) -> str:
    """A node's name as a file's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _files(configuration: Configuration) -> dict[str, str]:
    """Models that lie in a folder: every worker opens them there."""
    places = {"model": configuration.model, **{f"judge.{name}": one for name, one in configuration.judges.items()}}
    named = {f"{place}.name": str(getattr(one, "name", "")) for place, one in places.items()}
    return {place: name for place, name in named.items() if name and hub.is_here(name)}


def _differences(answers: Mapping[str, Answer], here: Mapping[str, str]) -> dict[str, str]:
    """`posweep 0.2.0 (here 0.1.0)` and so on, by node."""
    found = {}
    for name, answer in answers.items():
        different = [what for what in here if answer["versions"].get(what) != here[what]]
        if "posweep" in different and "files" in different:
            different.remove("files")
        said = {what: f"{what} {answer['versions'].get(what)} (here {here[what]})" for what in different}
        if "files" in said:
            said["files"] = f"posweep {here['posweep']} with other source files than here"
        if said:
            found[name] = " and ".join(said.values())
    return found


def _version_sentence(where: str, what: str) -> str:
    return f"executor.address: {what} {where}; numbers would mix: {INSTALL}"


def _missing(answers: Mapping[str, Answer], files: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{place}: {files[place]}" for name, answer in answers.items() for place in answer["missing"]}


def _file_sentence(where: str, what: str) -> str:
    return f"{what} is not there {where}; copy it to every node, or give a name on a hub."


def _grouped(by_node: Mapping[str, str], sentence: Any) -> list[str]:
    """One sentence for all nodes that have the same problem."""
    nodes: dict[str, list[str]] = {}
    for name, what in by_node.items():
        nodes.setdefault(what, []).append(name)
    return [sentence(f"on {_listed(names)}", what) for what, names in nodes.items()]


def _listed(names: Sequence[str]) -> str:
    """`node a`, `nodes a and b`, `nodes a, b, c, d and 12 more`."""
    shown = list(names[:LISTED]) + ([f"{len(names) - LISTED} more"] if len(names) > LISTED else [])
    return f"node {shown[0]}" if len(shown) == 1 else f"nodes {', '.join(shown[:-1])} and {shown[-1]}"


# --- requests


def unsatisfiable(settings: ExecutorSettings, nodes: Iterable[Mapping[str, float]]) -> dict[str, TrialResources]:
    """Requests that no node could ever satisfy, by the setting they stand in.

    Args:
        settings: with the requests.
        nodes: what each node that is there has in all, as Ray calls it (`CPU`, `GPU`).
    """
    there = list(nodes)
    return {
        place: asked
        for place, asked in settings.requests.items()
        if not any(node.get("CPU", 0) >= asked.cpu and node.get("GPU", 0) >= asked.gpu for node in there)
    }


def request_problems(requests: Mapping[str, TrialResources], nodes: Iterable[Mapping[str, float]]) -> list[str]:
    """The sentences for requests that no node satisfies."""
    there = list(nodes)
    most = {what: max((node.get(what, 0) for node in there), default=0) for what in ("CPU", "GPU")}
    return [
        f"{place}: a trial asks for {asked.cpu:g} cores and {asked.gpu:g} GPU, and no node has them (the most that one has: "
        f"{most['CPU']:g} cores, {most['GPU']:g} GPU); trials would wait for ever. Ask for less, add such a node, or set "
        "executor.wait_minutes for one that is still to join."
        for place, asked in requests.items()
    ]


def idle_gpu_problems(settings: ExecutorSettings, nodes: Iterable[Mapping[str, float]]) -> list[str]:
    """The sentence for GPUs that no trial could ever use, for lack of cores beside them; `executor.workers` accepts it.

    Args:
        settings: with the request of a trial, and how many are wanted at the same time.
        nodes: what each node has in all, as Ray calls it; one without cores is not meant for trials.
    """
    asked = settings.trial_resources
    if not asked.gpu or not asked.cpu:
        return []
    gpu_nodes = [node for node in nodes if node.get("GPU", 0) and node.get("CPU", 0)]
    by_gpus = [int(node["GPU"] / asked.gpu + 1e-9) for node in gpu_nodes]
    by_cores = [int(node["CPU"] / asked.cpu + 1e-9) for node in gpu_nodes]
    wanted, fit = sum(by_gpus), sum(map(min, by_gpus, by_cores))
    if fit in (0, wanted) or (settings.workers and settings.workers <= fit):
        return []
    return [
        f"executor.trial_resources.cpu: a trial asks for {asked.cpu:g} cores and {asked.gpu:g} GPU; the GPUs of the cluster "
        f"are enough for {wanted} trials at a time, the cores of the same nodes for {fit}. Ask for fewer cores, give the "
        f"nodes more (sbatch --cpus-per-task), or set executor.workers={fit} to leave GPUs idle."
    ]
