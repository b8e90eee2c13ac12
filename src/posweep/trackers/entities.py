"""A trial in the words of MLflow: params, metrics, tags, and a table of what it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posweep.records import Outcome, TrialResult, TrialSpec

BATCH = 900
"""Metrics per request; MLflow takes 1,000."""


def tags_of(result: TrialResult) -> dict[str, str]:
    """What became of it, under which judges, and what happened on the way."""
    tags = {"status": result.status, "score_key": result.score_key, "message": result.message, **result.notes}
    return {name: str(value)[:5000] for name, value in tags.items() if value != ""}


def params(spec: TrialSpec) -> list[Any]:
    """Hyperparameters and training settings."""
    from mlflow.entities import Param

    values: Mapping[str, Any] = {**spec.train, **spec.hyperparameters, "method": spec.method, "seed": spec.seed}
    return [Param(name, str(value)) for name, value in values.items()]


def metric(name: str, value: float, timestamp: int, step: int = 0) -> Any:
    """One value."""
    from mlflow.entities import Metric

    return Metric(name, value, timestamp, step)


def curves(result: TrialResult) -> list[Any]:
    """Training curves, by step."""
    began = int(result.started_at * 1000)
    return [
        metric(f"train/{name}", value, began, int(step))
        for name, points in result.curves.items()
        for step, value in points
    ]


def measures(result: TrialResult) -> list[Any]:
    """Measures, those taken along the way at their own steps (percent of training), and seconds by stage."""
    ended = int((result.started_at + result.seconds["total"]) * 1000)
    last = 100 if result.along else 0  # the UI shows a metric without steps as a bar to compare, not as a lone point
    metrics = [metric(name, value, ended, last) for name, value in result.measures.items() if value == value]
    for moment in result.along:
        step = round(100 * moment["at"])
        metrics += [metric(name, value, ended, step) for name, value in moment["measures"].items() if value == value]
    return metrics + [metric(f"seconds/{name}", value, ended) for name, value in result.seconds.items()]


def in_batches(metrics: list[Any]) -> Iterator[list[Any]]:
    """As many as a request takes."""
    for start in range(0, len(metrics), BATCH):
        yield metrics[start : start + BATCH]


def table(outcome: Outcome) -> dict[str, list[Any]]:
    """One row per prompt: what was asked, what came, how it was scored."""
    rows = outcome.responses
    table = {
        name: [getattr(row, name) for row in rows] for name in ("set", "prompt", "text", "length", "truncated", "kl")
    }
    scores = {f"score {name}": [row.scores[name] for row in rows] for name in rows[0].scores}
    return {**table, **scores, **{f"wins {name}": [row.wins[name] for row in rows] for name in rows[0].wins}}
