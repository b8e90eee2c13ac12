"""The summary of what all trials share, recorded beside it: a launch that finds all of it there starts no worker to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posweep import __version__
from posweep.artifacts.store import Store
from posweep.executors.base import ArtifactSummary, Work
from posweep.fields import fingerprint
from posweep.judges import limits
from posweep.ledger import write_atomically
from posweep.objectives import OBJECTIVES, needs
from posweep.plan import shared_fingerprints
from posweep.records import Opponents

FILE = "summary.json"


def record_summary(work: Work, folder: Path, summary: ArtifactSummary) -> None:
    """Write a summary into the sweep's folder, with a fingerprint of everything that determines it."""
    content = {**vars(summary), "opponents": [row.to_json() for row in summary.opponents]}
    write_atomically(folder / "artifacts" / FILE, {"fingerprint": _fingerprint(work), "summary": content})


def recorded_summary(work: Work, folder: Path) -> ArtifactSummary | None:
    """Return the summary of an earlier launch, if this one asks for the same and every artifact that it names is whole."""
    store = Store(folder / "artifacts")
    try:
        recorded = json.loads((folder / "artifacts" / FILE).read_text(encoding="utf-8"))
        content = recorded["summary"]
        summary = ArtifactSummary(**{**content, "opponents": tuple(map(Opponents.from_json, content["opponents"]))})
        if recorded["fingerprint"] == _fingerprint(work) and all(map(store.holds, summary.artifacts)):
            return summary
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # none, or one of another version: it is made again
    return None


def _fingerprint(work: Work) -> str:
    """Hash what determines the artifacts of a sweep and what is said of them."""
    configuration = work.configuration
    determined_by: dict[str, Any] = {
        "posweep": __version__,
        "shared": work.fingerprints or shared_fingerprints(configuration),
        "limits": limits(configuration),
        "sets": configuration.sets,
        "needs": sorted({need for method in configuration.methods for need in needs(OBJECTIVES[method])}),
        "fused": configuration.executor.fused != 1,
    }
    return fingerprint(determined_by)
