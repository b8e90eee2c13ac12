"""Things with a name: a model or a data set on the hub, in the hub's cache, or in a folder on this machine. The door to
huggingface_hub.

A thing on the hub is identified by its name and its revision as written, so that a plan needs no network; launch resolves
the commit, records it, and refuses one that moved. A folder is identified by its content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from posweep.errors import PreflightError, first_line
from posweep.fields import scoped
from posweep.proxies import proxy_problems

Kind = Literal["model", "dataset"]
TIMEOUT = 5.0
"""Seconds the hub may take to say which commit a revision is."""
LARGE = 64 * 2**20
"""Bytes of a file whose hash is remembered by its path, size and time: weights are gigabytes, and a plan is quick."""


def is_here(name: str) -> bool:
    """Whether a name is a file or a folder on this machine, or is written as one."""
    written = name.startswith(("/", "./", "../", "~")) or name.endswith((".jsonl", ".json", ".parquet", ".gz"))
    return written or (bool(name) and Path(name).exists())


def local(name: str) -> Path:
    """The file or folder that a name means."""
    return Path(name).expanduser().resolve()


def identity(settings: Any) -> dict[str, Any]:
    """What determines a thing: its settings, and in place of the name of a folder the hash of its content."""
    content = scoped(settings, "train", "response")
    if not hasattr(settings, "name") or not is_here(settings.name):
        return content
    rest = {name: value for name, value in content.items() if name not in ("name", "revision")}
    return {**rest, "content": content_hash(local(settings.name))}


def missing(settings: Any, place: str) -> list[str]:
    """What is wrong with a name as far as this machine can tell; a sentence each."""
    if not settings.name:
        return [f"{place}.name: names nothing; set {place}.name to a name on the hub or a folder on this machine."]
    if is_here(settings.name) and not local(settings.name).exists():
        return [f"{place}.name: {settings.name} is not there; name a folder on this machine, or OWNER/NAME on the hub."]
    return []


def commit(settings: Any, kind: Kind, place: str) -> str:
    """The commit that name and revision mean now; empty for a folder.

    The hub is asked (at most 5 seconds); where it does not answer, or HF_HUB_OFFLINE is set, its cache is.

    Raises:
        PreflightError: neither knows it.
    """
    if is_here(settings.name):
        return ""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        found = HfApi().repo_info(settings.name, repo_type=kind, revision=settings.revision, timeout=TIMEOUT).sha
        return found or ""
    except HFValidationError as error:
        raise PreflightError(f"{place}.name: {settings.name!r} is no name on the hub ({first_line(error)}).") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404):
            raise PreflightError(_not_found(settings, kind, place, f"the hub answers {status}")) from None
        reason = first_line(error)
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except Exception as error:  # whatever the transport raises where there is no network
        reason = f"the hub does not answer: {first_line(error)}"
    cached = _cached_commit(settings.name, settings.revision, kind)
    if cached is None:
        raise PreflightError(
            _proxy_problems() or _not_found(settings, kind, place, f"{reason}, and its cache does not hold it")
        )
    return cached


def fetch(settings: Any, kind: Kind, place: str, patterns: list[str] | None = None) -> Path:
    """The folder of a named thing at its commit, downloaded where it is not in the cache.

    Args:
        patterns: of the files that are wanted, such as SMALL; None wants all.
    """
    if is_here(settings.name):
        return local(settings.name)
    try:
        folder = _snapshot(settings, kind, allow_patterns=patterns, ignore_patterns=UNREAD)
        if kind == "model" and patterns is None and not any(folder.glob("*.safetensors")):
            _snapshot(settings, kind, allow_patterns=PICKLED)
        return folder
    except Exception as error:
        answered = getattr(error, "response", None) is not None
        in_between = [] if answered else _proxy_problems()
        raise PreflightError(in_between or _not_found(settings, kind, place, first_line(error))) from None


def weight_problems(settings: Any, folder: Path, place: str) -> list[str]:
    """Weights must be there, and all of them; a sentence if they are not."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        return [f"{place}.name: {settings.name} has no weights ({' or '.join(WEIGHTS[::2])}); name another model."]
    indices = [folder / name for name in WEIGHTS[1::2] if (folder / name).is_file()]
    parts = {
        part for index in indices[:1] for part in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    }
    missing = [part for part in sorted(parts) if not (folder / part).is_file()]
    return [f"{place}.name: {settings.name} lacks {', '.join(missing)}; fetch it again."] if missing else []


UNREAD = ["*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "original/*"]
"""Files that are not read, so not fetched: weights for other programs, and pickled ones beside safe ones."""
PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
"""Weights of models that have no others; they are read as tensors alone (`weights_only`), which runs no code."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
"""Everything about a model but its weights."""


def folder(settings: Any, kind: Kind, place: str) -> Path:
    """The folder of a named thing without asking the network, if it is here."""
    if is_here(settings.name):
        return local(settings.name)
    try:
        found = _snapshot(settings, kind, local_files_only=True)
    except Exception:
        return fetch(settings, kind, place)
    return fetch(settings, kind, place) if kind == "model" and weight_problems(settings, found, place) else found


def _proxy_problems() -> list[str]:
    """What of the environment's proxies keeps the hub from being asked; nothing where it is not asked."""
    from huggingface_hub import constants

    return [] if constants.HF_HUB_OFFLINE else proxy_problems(constants.ENDPOINT, "httpx")


def _snapshot(settings: Any, kind: Kind, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    revision = settings.commit or settings.revision
    return Path(snapshot_download(settings.name, repo_type=kind, revision=revision, **options))


def file_at_hand(settings: Any, name: str, kind: Kind = "model") -> Path | None:
    """One file of a named thing, if this machine has it: for planning, which asks no network."""
    if is_here(settings.name):
        found = local(settings.name) / name
        return found if found.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    revision = settings.commit or settings.revision
    try:
        cached = try_to_load_from_cache(settings.name, name, revision=revision, repo_type=kind)
    except ValueError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def content_hash(path: Path) -> str:
    """A hash of a file, or of all files of a folder with their names, hidden ones left out."""
    files = [path] if path.is_file() else sorted(_visible(path))
    digests = {str(file.relative_to(path)) if file != path else "": _file_hash(file) for file in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _file_hash(file: Path) -> str:
    """SHA-256 of a file; that of a large one is remembered while its size and time stay."""
    state = file.stat()
    if state.st_size < LARGE:
        return _digest(file)
    notes, key = _notes(), f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    known = _read(notes)
    if key not in known:
        known[key] = _digest(file)
        _write(notes, known)
    return known[key]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _notes() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "posweep" / "hashes.json"


def _read(notes: Path) -> dict[str, str]:
    try:
        return dict(json.loads(notes.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(notes: Path, known: Mapping[str, str]) -> None:
    """Losing this note costs time only."""
    temporary = notes.with_name(f".{notes.name}-{os.getpid()}")
    try:
        notes.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(notes)
    except OSError:
        return


def _cached_commit(name: str, revision: str, kind: Kind) -> str | None:
    """The commit that the hub's cache holds for a revision."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    if (home / "snapshots" / revision).is_dir():
        return revision
    try:
        return (home / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _not_found(settings: Any, kind: Kind, place: str, reason: str) -> str:
    thing = "model" if kind == "model" else "data set"
    return (
        f"{place}.name: no {thing} {settings.name!r} at revision {settings.revision!r} ({reason}); name another, or a "
        "folder on this machine. One that asks for a licence needs HF_TOKEN in the environment."
    )
