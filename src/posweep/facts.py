"""What a reader of the report should know besides the plan: data, model, judges, decoding, versions of what was read."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from posweep import hub
from posweep.preflight import commits
from posweep.settings import Configuration


def sweep_facts(configuration: Configuration, parameters: int) -> dict[str, Any]:
    """The facts of a sweep by name; `parameters`: of its policy."""
    sample = configuration.sample
    facts: dict[str, Any] = {
        "data": _called(configuration.data),
        "model": f"{_called(configuration.model)}, {parameters / 1e6:.2g}M parameters",
        "judges": ", ".join(configuration.judges),
        "decoding": f"temperature {sample.temperature:g}, top-p {sample.top_p:g}, at most {sample.max_new_tokens} tokens",
        "gpus a trial": configuration.executor.trial_resources.gpu,
        "learning rate by default": configuration.train.learning_rate,
        "created": time.strftime("%Y-%m-%d"),
    }
    facts |= {f"set/{name}/distribution": configuration.distribution(name) for name in configuration.sets}
    facts |= {f"judge/{name}/model": called for name, j in configuration.judges.items() if (called := _judge_model(j))}
    facts |= {f"commit of {place}": commit for place, commit in commits(configuration).items()}
    if commit := _commit():
        facts["commit"] = commit
    if configuration.data.kind == "demo":
        facts["note"] = (
            "The demo world was tuned so that methods can go right and wrong in it: "
            "how it ranks methods is no evidence about methods."
        )
    return facts


def _called(settings: Any) -> str:
    """What a model or a data set is known by: the last part of a folder's name, for a path is nobody's business."""
    name = getattr(settings, "name", "")
    return (Path(name).name if hub.is_here(name) else name) if name else str(settings.kind)


def _judge_model(settings: Any) -> str:
    """The model behind a judge; empty for one that is a rule, or is trained for the sweep."""
    return settings.model if hasattr(settings, "model") else _called(settings) if hasattr(settings, "name") else ""


def _commit() -> str:
    """The commit of the working folder; empty where it is no checkout."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=5,
            check=False,
        )
        return asked.stdout.strip() if asked.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
