"""What all trials share, made where a trial would run, and what the driver wants to know of it as plain data."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from posweep.artifacts.store import MADE, Store
from posweep.data import Preferences
from posweep.errors import NoRoom, PosweepError, no_room
from posweep.executors.base import ArtifactSummary, Work
from posweep.mirror import MANIFEST, Mirror, NoMirror, worker_mirror


@dataclass(frozen=True)
class Failed:
    """An error that stands for itself, on its way to the driver: Ray would wrap it in one of its own."""

    error: Exception


def make_artifacts(
    work: Work, mirror: NoMirror, say: Callable[[str], None], preferences: Preferences | None = None
) -> ArtifactSummary:
    """Make what is missing, and sum up what is there; the GPU's memory is given back.

    Args:
        work: of the sweep.
        mirror: whose folder the artifacts lie in.
        say: takes a line for each kind of artifact that has to be made.
        preferences: the data, where this machine may lack its files; None reads it when something is made of it.
    """
    # here, for a driver that only hands the work on needs no torch
    from posweep.artifacts.shared import prepare, release
    from posweep.policy.stack import obstacle
    from posweep.trial import baseline_measures, opponents

    configuration, seen, used = work.configuration, set[str](), list[str]()

    def say_once(kind: str) -> None:
        if kind not in seen:
            seen.add(kind)
            say(f"making {MADE[kind]} …")

    store = Store(mirror.folder / "artifacts", say_once, mirror, used.append)
    shared = prepare(configuration, store, configuration.device, True, work.fingerprints, preferences)
    summary = ArtifactSummary(
        parameters=sum(p.numel() for p in shared.policy.model.parameters()),
        baseline=baseline_measures(shared),
        opponents=opponents(shared),
        facts=shared.facts,
        obstacle=obstacle(shared.policy) if configuration.executor.fused != 1 else "",
        artifacts=tuple(dict.fromkeys(used)),
    )
    del shared
    release()  # trials need the GPU that this process used
    return summary


def artifact_stream(work: Work, preferences: Preferences | None) -> Iterator[str | ArtifactSummary | Failed]:
    """Runs on a worker: the lines to say while artifacts are made there, then the summary or what went wrong.

    They are made in a thread, for a line has to reach the driver when the work on it begins.
    """
    lines: queue.SimpleQueue[str | ArtifactSummary | Failed] = queue.SimpleQueue()

    def make() -> None:
        try:
            lines.put(make_artifacts(work, worker_mirror(work.configuration, work.folder), lines.put, preferences))
        except Exception as error:
            lines.put(Failed(_as_told(error, work)))

    threading.Thread(target=make, name="posweep-artifacts", daemon=True).start()
    item: str | ArtifactSummary | Failed = ""
    while isinstance(item, str):
        item = lines.get()
        if isinstance(item, Failed) and not isinstance(item.error, PosweepError):
            raise item.error  # a bug: Ray brings its traceback along
        yield item


def _as_told(error: Exception, work: Work) -> Exception:
    """A disk that is full is a sentence about the folder that is on it."""
    if isinstance(error, PosweepError) or not (reason := no_room(error)):
        return error
    elsewhere = work.configuration.executor.storage
    return NoRoom("TMPDIR: the folder of a worker" if elsewhere else f"output_dir: {work.folder}", reason)


def offer_copies(mirror: NoMirror) -> None:
    """Copy what the sweep's folder has of earlier launches to the storage, where workers look for it."""
    if isinstance(mirror, Mirror):
        for manifest in sorted(mirror.folder.glob(f"artifacts/*/[!.]*/{MANIFEST}")):
            mirror.offer(str(manifest.parent.relative_to(mirror.folder)))


def take_copies(mirror: NoMirror, names: Sequence[str]) -> None:
    """Copy what workers made elsewhere into the sweep's folder: `posweep trial` and `export` look for it there."""
    store = Store(mirror.folder / "artifacts", mirror=mirror)
    for name in names if isinstance(mirror, Mirror) else ():
        store.pull(name)
