"""The door to MLflow: one experiment per sweep, a parent run for the sweep, one child run per trial.

Child runs carry hyperparameters and training settings as params, every measure and (stepped) training curve as metrics,
`result.json` and the per-prompt table as artifacts, and the tags `sweep method key seed status`. A child is complete when
its run is FINISHED; a half-written one is written again.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posweep.errors import PreflightError
from posweep.records import Opponents, Outcome, SweepHeader, SweepRecord, TrialResult, TrialSpec

SQLITE = "sqlite:///"
TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""The UI otherwise takes an experiment with logged tables for one of prompts and agents, and hides its charts."""
BATCH = 900
"""Metrics per request; MLflow takes 1,000."""
AT_ONCE = 8
"""Trials read side by side: a server's answers take longer than reading them."""
TIMEOUT = 5
"""Seconds a server may take to answer before anything is started."""
PLAN, HEADER, OPPONENTS = "plan.jsonl", "sweep.json", "opponents.json"
RESULT, ROWS, TABLE = "result.json", "rows.json", "per_prompt.json"


class MlflowTracker:
    """One sweep in an MLflow store or server."""

    def __init__(self, uri: str):
        os.environ.update(
            MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_HTTP_REQUEST_TIMEOUT="20", MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", MLFLOW_LOGGING_LEVEL="ERROR",
        )  # fmt: skip
        # MLflow keeps stores by their URI: a relative one would mean the folder of its first use
        self.uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri
        self._experiment = self._parent = ""
        self._name = ""

    def preflight(self) -> list[str]:
        """A server must answer, a store's folder must be there."""
        parts = urlsplit(self.uri)
        if parts.password is not None or parts.username is not None:
            return [
                "tracking.uri: must hold no user or password, which would be recorded with the sweep; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
            ]
        if parts.scheme in ("http", "https"):
            return _unreachable(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), self.uri)
        if parts.scheme != "sqlite":
            return [f"tracking.uri: must be sqlite:///FILE or http(s)://HOST:PORT, got {self.uri!r}."]
        folder = self._database().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return [f"tracking.uri: {folder} is no folder that can be written; name another file in tracking.uri."]
        return _unreadable(self._database())

    def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
        """Make the store, the experiment and the parent run where they are missing."""
        if urlsplit(self.uri).scheme == "sqlite":
            with sqlite3.connect(self._database()) as store:
                store.execute("PRAGMA journal_mode=WAL")
        client = self.client
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise PreflightError(
                f"sweep.name: the MLflow experiment {name!r} was deleted; restore it or take another name."
            )
        self._name = name
        self._experiment = (
            found.experiment_id if found else client.create_experiment(name, self._artifacts(name), TRAINING)
        )
        parent = self._find_parent()
        tags = {"sweep": name, "kind": "sweep"}
        self._parent = parent or client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        client.update_run(self._parent, status="RUNNING")
        client.log_text(self._parent, "".join(json.dumps(spec.to_json(), sort_keys=True) + "\n" for spec in plan), PLAN)

    def held(self) -> dict[str, str]:
        """Completely recorded trials: key → score key."""
        return {run.data.tags["key"]: run.data.tags.get("score_key", "") for run in self._children() if _complete(run)}

    def write(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Record one trial in the run of its key."""
        client, run_id = self.client, self._child(spec)
        result = outcome.result
        client.log_batch(run_id, params=_params(spec))
        for part in _in_batches([*_curves(result), *_measures(result)]):
            client.log_batch(run_id, metrics=part)
        written = outcome.to_json()
        client.log_text(run_id, json.dumps(written.pop("result")), RESULT)
        client.log_text(run_id, json.dumps(written), ROWS)
        if outcome.responses:
            client.log_table(run_id, _table(outcome), TABLE)
        for name, value in {"status": result.status, "score_key": result.score_key, "message": result.message}.items():
            client.set_tag(run_id, name, value)
        client.set_terminated(run_id, "FINISHED", end_time=int((result.started_at + result.seconds["total"]) * 1000))

    def fetch(self, key: str) -> Outcome | None:
        """A recorded trial with its rows."""
        for run in self._children(f"tags.key = '{key}'"):
            if _complete(run):
                return self._outcome(run)
        return None

    def describe(self, header: SweepHeader, files: Sequence[Path]) -> None:
        """The SFT model's own measures as metrics of the parent run; the header and the files as its artifacts."""
        client, now = self.client, int(time.time() * 1000)
        client.log_dict(self._parent, header.to_json(), HEADER)
        for part in _in_batches([_metric(f"sft/{n}", v, now) for n, v in header.baseline.items() if v == v]):
            client.log_batch(self._parent, metrics=part)
        if header.facts.get("commit"):
            client.set_tag(self._parent, "mlflow.source.git.commit", str(header.facts["commit"]))
        for file in files:
            client.log_artifact(self._parent, str(file))

    def attach(self, folder: Path) -> None:
        """The report on the parent run."""
        if self._parent:
            self.client.log_artifacts(self._parent, str(folder), "report")

    def close(self, status: str) -> None:
        """End the parent run."""
        self.client.set_terminated(self._parent, {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))

    def read(self, name: str) -> SweepRecord | None:
        """The plan and header of the parent run, and every complete child that the plan names."""
        self._name = name
        if urlsplit(self.uri).scheme == "sqlite" and not self._database().is_file():
            return None  # reading makes no store
        experiment = self.client.get_experiment_by_name(name)
        self._experiment = experiment.experiment_id if experiment else ""
        self._parent = self._find_parent() if experiment else ""
        if not self._parent:
            return None
        parent, files = self.client.get_run(self._parent), self._files()
        lines = self._artifact(parent, PLAN).splitlines()
        plan = tuple(TrialSpec.from_json(json.loads(line)) for line in lines)
        if HEADER not in files:
            return None  # it has only just begun
        header = SweepHeader.from_json(json.loads(self._artifact(parent, HEADER)))
        opponents = json.loads(self._artifact(parent, OPPONENTS)) if OPPONENTS in files else []
        wanted = {spec.key: spec.score_key for spec in plan}
        runs = {run.data.tags["key"]: run for run in self._children() if _complete(run)}
        mine = {key: run for key, run in runs.items() if wanted.get(key) == run.data.tags.get("score_key")}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = dict(zip(mine, pool.map(self._outcome, mine.values()), strict=True))
        return SweepRecord(
            **vars(header),
            plan=plan,
            results={key: outcome.result for key, outcome in outcomes.items()},
            responses={key: outcome.responses for key, outcome in outcomes.items()},
            opponents=tuple(map(Opponents.from_json, opponents)),
            others=len(runs.keys() - wanted.keys()),
            run_urls={key: self._url(run.info.run_id) for key, run in runs.items()},
        )

    # --- runs

    @cached_property
    def client(self) -> Any:
        """MLflow's client, imported when it is first needed."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def _database(self) -> Path:
        return Path(self.uri.removeprefix(SQLITE))

    def _artifacts(self, name: str) -> str | None:
        """Beside the store, wherever the command is run; a server decides for itself."""
        return (self._database().parent / "mlruns" / name).as_uri() if self.uri.startswith(SQLITE) else None

    def _find_parent(self) -> str:
        filters = f"tags.kind = 'sweep' and tags.sweep = '{self._name}'"
        found = self.client.search_runs([self._experiment], filters, max_results=1)
        return found[0].info.run_id if found else ""

    def _children(self, extra: str = "") -> Iterator[Any]:
        """Child runs that were not deleted, page by page."""
        filters = " and ".join(filter(None, ["tags.kind = 'trial'", extra]))
        token = None
        while True:
            page = self.client.search_runs([self._experiment], filters, max_results=500, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _child(self, spec: TrialSpec) -> str:
        """The run of a key: the one that is there, or a new one under the parent."""
        for run in self._children(f"tags.key = '{spec.key}'"):
            if run.data.tags.get("score_key", spec.score_key) == spec.score_key:
                return str(run.info.run_id)
            self.client.delete_run(run.info.run_id)  # other judges: its metrics must not stay among the new ones
        short = ", ".join(f"{name}={value:g}" for name, value in spec.point.items() if isinstance(value, int | float))
        tags = {
            "mlflow.parentRunId": self._parent, "kind": "trial", "sweep": self._name, "method": spec.method,
            "key": spec.key, "seed": str(spec.seed), "configuration": spec.configuration, "prior": spec.prior,
        }  # fmt: skip
        run = self.client.create_run(self._experiment, run_name=f"{spec.method} {short}", tags=tags)
        return str(run.info.run_id)

    def _outcome(self, run: Any) -> Outcome:
        rows, result = json.loads(self._artifact(run, ROWS)), json.loads(self._artifact(run, RESULT))
        return Outcome.from_json({"result": result, **rows})

    def _files(self) -> set[str]:
        """What lies beside the sweep's own run."""
        return {file.path for file in self.client.list_artifacts(self._parent)}

    def _artifact(self, run: Any, name: str) -> str:
        """A text beside a run, by the address that the run carries: by its id, MLflow would ask the store for it again."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        files = get_artifact_repository(run.info.artifact_uri, self.uri)
        if run.info.artifact_uri.startswith("file:"):
            return Path(files.download_artifacts(name)).read_text()
        with tempfile.TemporaryDirectory() as folder:
            return Path(files.download_artifacts(name, folder)).read_text()

    def _url(self, run_id: str) -> str:
        base = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{self._experiment}/runs/{run_id}"


def serve(uri: str, port: int) -> None:
    """The MLflow UI on a store, on 127.0.0.1 only; for a server, its address."""
    if not uri.startswith(SQLITE):
        print(f"This store has a server of its own: {uri}")
        return
    database = Path(uri.removeprefix(SQLITE))
    if not database.is_file():
        raise PreflightError(f"tracking.uri: {database} is not there; run a sweep first, or set tracking.uri.")
    print(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)")
    hosts = f"127.0.0.1:{port},localhost:{port},127.0.0.1,localhost"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    subprocess.run([*command, "--port", str(port), "--allowed-hosts", hosts], check=False)


def _unreadable(database: Path) -> list[str]:
    """A file that is there must be a database."""
    try:
        if database.exists():
            with sqlite3.connect(database) as store:
                store.execute("PRAGMA schema_version")
        return []
    except sqlite3.Error as error:
        return [f"tracking.uri: {database} cannot be read ({error}); name another file in tracking.uri."]


def _unreachable(host: str, port: int, uri: str) -> list[str]:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            f"tracking.uri: {uri} does not answer ({reason}); start the server, or set tracking.uri=sqlite:///mlflow.db."
        ]
    return []


def _complete(run: Any) -> bool:
    return bool(run.info.status == "FINISHED" and "key" in run.data.tags)


def _params(spec: TrialSpec) -> list[Any]:
    from mlflow.entities import Param

    values: Mapping[str, Any] = {**spec.train, **spec.hyperparameters, "method": spec.method, "seed": spec.seed}
    return [Param(name, str(value)) for name, value in values.items()]


def _metric(name: str, value: float, timestamp: int, step: int = 0) -> Any:
    from mlflow.entities import Metric

    return Metric(name, value, timestamp, step)


def _curves(result: TrialResult) -> list[Any]:
    began = int(result.started_at * 1000)
    return [
        _metric(f"train/{name}", value, began, int(step))
        for name, points in result.curves.items()
        for step, value in points
    ]


def _measures(result: TrialResult) -> list[Any]:
    """Measures, those taken along the way at their own steps (percent of training), and seconds by stage."""
    ended = int((result.started_at + result.seconds["total"]) * 1000)
    last = 100 if result.along else 0  # the UI shows a metric without steps as a bar to compare, not as a lone point
    metrics = [_metric(name, value, ended, last) for name, value in result.measures.items() if value == value]
    for moment in result.along:
        step = round(100 * moment["at"])
        metrics += [_metric(name, value, ended, step) for name, value in moment["measures"].items() if value == value]
    return metrics + [_metric(f"seconds/{name}", value, ended) for name, value in result.seconds.items()]


def _in_batches(metrics: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(metrics), BATCH):
        yield metrics[start : start + BATCH]


def _table(outcome: Outcome) -> dict[str, list[Any]]:
    """One row per prompt: what was asked, what came, how it was scored."""
    rows = outcome.responses
    table = {
        name: [getattr(row, name) for row in rows] for name in ("set", "prompt", "text", "length", "truncated", "kl")
    }
    scores = {f"score {name}": [row.scores[name] for row in rows] for name in rows[0].scores}
    return {**table, **scores, **{f"wins {name}": [row.wins[name] for row in rows] for name in rows[0].wins}}
