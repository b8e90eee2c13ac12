"""The sweep as posweep runs it: the command itself, and what it says its trials took.

python benchmarks/race/ours.py COURSE FOLDER [SETTING …]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from course import SWEEP, WORKERS, Course


def main(course: Course, folder: Path, settings: Sequence[str] = ()) -> None:
    """Run `posweep sweep=…` in this process, and write `result.json`."""
    from posweep import cli
    from posweep import launch as stage
    from posweep.artifacts import shared
    from posweep.config import configure
    from posweep.plan import make_plan

    course.put_artifact(folder / "outputs")
    once: list[float] = []
    report: list[float] = []
    shared.prepare = timed(shared.prepare, once)
    stage.refresh = timed(stage.refresh, report)
    asked = [*course.facts["overrides"], *settings]
    cli.run(
        [
            *asked, f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"executor.workers={WORKERS}",
        ]
    )  # fmt: skip
    trials = [recorded(spec, folder / "outputs" / SWEEP) for spec in make_plan(configure(asked))]
    found = {"once": sum(once), "report": sum(report), "trials": trials}
    (folder / "result.json").write_text(json.dumps(found))


def timed(work: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The same, which notes its seconds."""

    def run(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*arguments, **named)
        finally:
            spent.append(time.perf_counter() - began)

    return run


def recorded(spec: Any, folder: Path) -> dict[str, Any]:
    """What a trial's result says, in the words of the race."""
    from posweep.ledger import Ledger

    result = Ledger(folder).result(spec.key)
    if result is None:
        raise RuntimeError(f"trial {spec.key} has no result")
    return {
        "key": spec.key, "method": spec.method, "seconds": dict(result.seconds), "measures": dict(result.measures),
        "losses": [value for _, value in result.curves.get("loss", [])],
    }  # fmt: skip


if __name__ == "__main__":
    main(Course(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:])
