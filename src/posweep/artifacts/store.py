"""A folder of artifacts, each under the fingerprint of exactly what determines it; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from posweep.fields import fingerprint
from posweep.mirror import MANIFEST, NoMirror

MADE = {
    "sft": "the SFT policy",
    "pairs": "tokens and reference log-probs",
    "mismatched": "mismatched pairs for KTO",
    "token_logps": "reference log-probs token by token",
    "judge": "a judge",
    "baselines": "SFT responses",
    "scores": "scores of SFT responses",
}
"""What each kind of artifact is, to say what is being made."""


@dataclass(frozen=True)
class Store:
    """Artifacts under `root/<kind>/<fingerprint>/`, with a manifest that says what is complete.

    With a mirror, what is missing is looked for in the storage first, and what was made goes there. `used` takes the name
    of each artifact that was asked for.
    """

    root: Path
    say: Callable[[str], None] = lambda _: None
    mirror: NoMirror = field(default_factory=lambda: NoMirror(Path()))
    used: Callable[[str], None] = lambda _: None

    def get(self, kind: str, content: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of an artifact; `make` fills it where it is missing or incomplete, under a lock of its own."""
        folder = self.root / kind / fingerprint(content)
        name = f"artifacts/{kind}/{folder.name}"
        if not _complete(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _complete(folder) and not _filled(folder, partial(self.mirror.fetch, name)):
                    self.say(kind)
                    _filled(folder, lambda temporary: _made(temporary, content, make))
        self.mirror.offer(name)
        self.used(name)
        return folder

    def holds(self, name: str) -> bool:
        """Whether an artifact lies here, whole; `name` is `artifacts/<kind>/<fingerprint>`."""
        return _complete(self.root.parent / name)

    def pull(self, name: str) -> None:
        """Copy an artifact from the storage, if it is missing here and there it is."""
        folder = self.root.parent / name
        if not _complete(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _complete(folder):
                    _filled(folder, partial(self.mirror.fetch, name))


def _filled(folder: Path, fill: Callable[[Path], bool]) -> bool:
    """Fill a temporary folder beside it, then give it its name: half an artifact is never found."""
    for stale in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)  # of a process that was killed; we hold the lock
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        if not fill(temporary) or not _complete(temporary):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _made(folder: Path, content: Mapping[str, Any], make: Callable[[Path], None]) -> bool:
    """Make an artifact and say what it consists of."""
    make(folder)
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    (folder / MANIFEST).write_text(
        json.dumps({"content": content, "files": sizes}, indent=1, sort_keys=True), encoding="utf-8"
    )
    return True


def _complete(folder: Path) -> bool:
    """Whether every file the manifest lists is there in its full size."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False
