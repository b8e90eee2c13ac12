"""The door to MLflow: one experiment per sweep, a parent run for the sweep, one child run per trial.

Child runs carry hyperparameters and training settings as params, every measure and (stepped) training curve as metrics,
`result.json` and the per-prompt table as artifacts, and the tags `sweep method key seed status`. A child is complete when
its run is FINISHED. A half-written one is written again, a failed one too when its trial has finished: a key has one run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from posweep import __version__
from posweep.errors import ConfigError, PreflightError, TrackerUnavailable, first_line
from posweep.records import Opponents, Outcome, SweepHeader, SweepRecord, TrialFailure, TrialSpec
from posweep.trackers.address import absolute, address_problems, database, is_file
from posweep.trackers.entities import curves, in_batches, measures, metric, params, table, tags_of
from posweep.trackers.schema import is_missing, make_store, schema_problems
from posweep.trackers.store import ready_for_many, store_notes, store_problems

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""The UI otherwise takes an experiment with logged tables for one of prompts and agents, and hides its charts."""
PAGE = 500
"""Runs per request, when all of a sweep are listed."""
AT_ONCE = 8
"""Trials read side by side: a server's answers take longer than reading them."""
REFUSED = (401, 403, 404)
"""Answers that no waiting changes: not allowed, or no MLflow there."""
BUSY = "TEMPORARILY_UNAVAILABLE"
"""How MLflow passes on what SQLite says of the moment: locked, full."""
THEIRS = ("mlflow", "sqlalchemy", "sqlite3")
"""Whose errors say that the tracker did not do what it was asked to; requests' are OSErrors."""
PLAN, HEADER, OPPONENTS = "plan.jsonl", "sweep.json", "opponents.json"
RESULT, ROWS, TABLE, LOG = "result.json", "rows.json", "per_prompt.json", "trial.log"


class Child(NamedTuple):
    """What is remembered of a trial's run: ten thousand of them must not be asked for again at every write."""

    id: str
    artifacts: str
    score_key: str
    complete: bool = False
    error: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, run: Any) -> Child:
        """The same of MLflow's run."""
        tags = run.data.tags
        error = tags.get("error", "") if run.info.status == "FAILED" else ""
        return cls(run.info.run_id, run.info.artifact_uri, tags.get("score_key", ""), _complete(run), error)


@contextmanager
def _answering() -> Iterator[None]:
    """What MLflow, its store or the network says instead of answering, as an error of ours with the innermost reason.

    Raises:
        TrackerUnavailable: it did not do what it was asked to.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in THEIRS:
            raise  # a mistake of ours
        raise TrackerUnavailable(_reason(error)) from error


class MlflowTracker:
    """One sweep in an MLflow store or server."""

    def __init__(self, uri: str):
        # A request is sent once: what came of one that failed is looked up before the next (MLflow repeats it blindly,
        # and a run could be there twice). A server may take its time: no trial waits for it.
        os.environ.update(
            MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_HTTP_REQUEST_TIMEOUT="60", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", MLFLOW_LOGGING_LEVEL="CRITICAL",
            MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
        )  # fmt: skip
        self.given, self.uri = uri, uri if address_problems(uri) else absolute(uri)
        self._experiment = self._parent = ""
        self._name = ""
        self._planned = "", 0
        self._known: dict[str, Child] | None = None
        self._unsure: set[str] = set()

    def preflight(self) -> list[str]:
        """A server must answer, a store's folder must be there, and the store be whole and of this MLflow."""
        return store_problems(self.given)

    def notes(self) -> list[str]:
        """A store on a network disk is for one machine at a time."""
        return store_notes(self.uri)

    @_answering()
    def open(self, name: str, plan: Sequence[TrialSpec]) -> None:
        """Make the store, the experiment and the parent run where they are missing."""
        if is_file(self.uri):
            self._open_file(database(self.uri))
        found, client = self._experiment_of(name), self.client
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
        parent = parent or client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        if parent != self._parent:
            self._known = None  # of another store, or of one that was emptied
        self._parent = parent
        client.update_run(self._parent, status="RUNNING")
        if (parent, len(plan)) != self._planned:  # a server that was away for a moment has it still
            lines = (json.dumps(spec.to_json(), sort_keys=True) + "\n" for spec in plan)
            client.log_text(self._parent, "".join(lines), PLAN)
            self._planned = parent, len(plan)

    @_answering()
    def held(self) -> dict[str, str]:
        """Completely recorded trials: key → score key."""
        self._known = None
        return {key: child.score_key for key, child in self._children_known().items() if child.complete}

    @_answering()
    def failed(self) -> dict[str, str]:
        """Trials recorded as failed: key → what is said of it."""
        return {key: child.error for key, child in self._children_known().items() if child.error}

    @_answering()
    def write(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Record one trial in the run of its key."""
        result, written = outcome.result, outcome.to_json()
        with self._looked_up_if_this_fails(spec.key):
            child = self._child(spec, tags_of(result), result.started_at)
            self._log(child, params(spec), [*curves(result), *measures(result)])
            self._put(child, {RESULT: json.dumps(written.pop("result")), ROWS: json.dumps(written)})
            if outcome.judged:
                self.client.log_table(child.id, table(outcome), TABLE)
            if child.error:
                self._forget_failure(child)
            ended = int((result.started_at + result.seconds["total"]) * 1000)
            self.client.set_terminated(child.id, "FINISHED", end_time=ended)
            self._remember(spec.key, Child(child.id, child.artifacts, result.score_key, complete=True))

    @_answering()
    def fail(self, spec: TrialSpec, failure: TrialFailure, story: str) -> None:
        """Record that a trial failed, unless a result of it is there."""
        tags = {"status": "failed", "error": failure.said, "failure": failure.kind}
        with self._looked_up_if_this_fails(spec.key):
            if (there := self._children_known().get(spec.key)) and there.complete:
                return
            child = self._child(spec, tags)
            self._log(child, params(spec), [])
            self._put(child, {LOG: story})
            self.client.set_terminated(child.id, "FAILED")
            self._remember(spec.key, Child(child.id, child.artifacts, "", error=failure.said))

    @_answering()
    def fetch(self, key: str) -> Outcome | None:
        """A recorded trial with its rows; None also where its artifacts are gone or damaged."""
        child = self._children_known().get(key)
        try:
            return self._outcome(child.artifacts) if child and child.complete else None
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            return None

    @_answering()
    def describe(self, header: SweepHeader, files: Sequence[Path]) -> None:
        """The SFT model's own measures as metrics of the parent run; the header and the files as its artifacts."""
        client, now = self.client, int(time.time() * 1000)
        client.log_dict(self._parent, header.to_json(), HEADER)
        for part in in_batches([metric(f"sft/{n}", v, now) for n, v in header.baseline.items() if v == v]):
            client.log_batch(self._parent, metrics=part)
        if header.facts.get("commit"):
            client.set_tag(self._parent, "mlflow.source.git.commit", str(header.facts["commit"]))
        for file in files:
            client.log_artifact(self._parent, str(file))

    @_answering()
    def attach(self, folder: Path) -> None:
        """The report on the parent run."""
        if self._parent:
            self.client.log_artifacts(self._parent, str(folder), "report")

    @_answering()
    def close(self, status: str) -> None:
        """End the parent run."""
        self.client.set_terminated(self._parent, {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))

    @_answering()
    def read(self, name: str) -> SweepRecord | None:
        """The plan and header of the parent run, and every complete child that the plan names."""
        self._name = name
        if is_file(self.uri) and is_missing(database(self.uri)):
            return None  # reading makes no store
        experiment = self.client.get_experiment_by_name(name)
        self._experiment = experiment.experiment_id if experiment else ""
        self._parent = self._find_parent() if experiment else ""
        if not self._parent:
            return None
        parent, files = self.client.get_run(self._parent).info.artifact_uri, self._files()
        plan = _plan(name, self._artifact(parent, PLAN))
        if HEADER not in files:
            return None  # it has only just begun
        header = SweepHeader.from_json(json.loads(self._artifact(parent, HEADER)))
        opponents = json.loads(self._artifact(parent, OPPONENTS)) if OPPONENTS in files else []
        self._known = None
        wanted = {spec.key: spec.score_key for spec in plan}
        runs = {key: child for key, child in self._children_known().items() if child.complete}
        mine = {key: child.artifacts for key, child in runs.items() if wanted.get(key) == child.score_key}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = dict(zip(mine, pool.map(self._outcome, mine.values()), strict=True))
        return SweepRecord(
            **vars(header),
            plan=plan,
            results={key: outcome.result for key, outcome in outcomes.items()},
            responses={key: outcome.judged for key, outcome in outcomes.items()},
            opponents=tuple(map(Opponents.from_json, opponents)),
            others=len(runs.keys() - wanted.keys()),
            run_urls={key: self._url(child.id) for key, child in runs.items()},
        )

    # --- runs

    @cached_property
    def client(self) -> Any:
        """MLflow's client, imported when it is first needed."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def _open_file(self, file: Path) -> None:
        """Make a store where there is none; one that came since the preflight is looked at as that does.

        Raises:
            PreflightError: MLflow would not open it.
        """
        make_store(file)
        if problems := schema_problems(file):
            raise PreflightError(problems)
        ready_for_many(file)

    def _experiment_of(self, name: str) -> Any:
        """The experiment, or None; the first question to a store or server, whose refusal no waiting changes.

        Raises:
            PreflightError: it refuses us, or is no MLflow.
        """
        try:
            return self.client.get_experiment_by_name(name)
        except Exception as error:
            code, status = getattr(error, "error_code", ""), getattr(error, "get_http_status_code", lambda: 0)()
            if is_file(self.uri) and code and code != BUSY:
                raise PreflightError(
                    f"tracking.uri: MLflow does not open {database(self.uri)} ({first_line(error)}); name another file."
                ) from error
            if is_file(self.uri) or status not in REFUSED:
                raise
            raise PreflightError(
                f"tracking.uri: {self.uri} answers with {status} ({first_line(error)}); name an MLflow server, or set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment if it asks for them."
            ) from error

    def _artifacts(self, name: str) -> str | None:
        """Beside the store, wherever the command is run; a server decides for itself."""
        return (database(self.uri).parent / "mlruns" / name).as_uri() if is_file(self.uri) else None

    def _find_parent(self) -> str:
        filters = f"tags.kind = 'sweep' and tags.sweep = '{self._name}'"
        found = self.client.search_runs([self._experiment], filters, max_results=1)
        return found[0].info.run_id if found else ""

    def _children(self, extra: str = "") -> Iterator[Any]:
        """Child runs that were not deleted, page by page."""
        filters = " and ".join(filter(None, ["tags.kind = 'trial'", extra]))
        token = None
        while True:
            page = self.client.search_runs([self._experiment], filters, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _children_known(self) -> dict[str, Child]:
        """The children by key, asked for once; what this tracker writes it remembers."""
        if self._known is None:
            self._known = _by_key(self._children())
        return self._known

    def _remember(self, key: str, child: Child) -> None:
        self._children_known()[key] = child

    @contextmanager
    def _looked_up_if_this_fails(self, key: str) -> Iterator[None]:
        """After a request that failed nobody knows what arrived: the key's run is looked for before the next."""
        if key in self._unsure:
            known = self._children_known()
            known.pop(key, None)
            known.update(_by_key(self._children(f"tags.key = '{key}'")))
        self._unsure.add(key)
        yield
        self._unsure.discard(key)

    def _child(self, spec: TrialSpec, tags: Mapping[str, str] | None = None, began: float = 0.0) -> Child:
        """The run of a key: the one that is there, or a new one under the parent."""
        there = self._children_known().get(spec.key)
        if there and there.score_key in ("", spec.score_key):
            return there._replace(tags=tuple((tags or {}).items()))
        if there:
            self.client.delete_run(there.id)  # other judges: its metrics must not stay among the new ones
        short = ", ".join(f"{name}={value:g}" for name, value in spec.point.items() if isinstance(value, int | float))
        own = {
            "mlflow.parentRunId": self._parent, "kind": "trial", "sweep": self._name, "method": spec.method,
            "key": spec.key, "seed": str(spec.seed), "configuration": spec.configuration, "prior": spec.prior,
        }  # fmt: skip
        run = self.client.create_run(
            self._experiment, int(began * 1000) or None, {**own, **(tags or {})}, f"{spec.method} {short}"
        )
        child = Child(run.info.run_id, run.info.artifact_uri, "")
        self._remember(spec.key, child)
        return child

    def _log(self, child: Child, params: list[Any], metrics: list[Any]) -> None:
        """Everything in one request, if it is not too much; a run that was there gets its tags too."""
        from mlflow.entities import RunTag

        first, *rest = in_batches(metrics) if metrics else [[]]
        self.client.log_batch(child.id, first, params, [RunTag(*tag) for tag in child.tags])
        for part in rest:
            self.client.log_batch(child.id, metrics=part)

    def _put(self, child: Child, files: Mapping[str, str]) -> None:
        """Texts beside a run, by the address that the run carries: by its id, MLflow would ask the store for it again."""
        here, place = _local(child.artifacts), _artifacts_at(child.artifacts, self.uri)
        with nullcontext(here) if here else tempfile.TemporaryDirectory() as folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
                if not here:
                    place.log_artifact(str(Path(folder, name)))

    def _forget_failure(self, child: Child) -> None:
        """The trial has finished after all."""
        for name in ("error", "failure"):
            self.client.delete_tag(child.id, name)
        with suppress(Exception):  # some stores delete nothing; the log of an earlier attempt does no harm
            _artifacts_at(child.artifacts, self.uri).delete_artifacts(LOG)

    def _outcome(self, artifacts: str) -> Outcome:
        rows, result = json.loads(self._artifact(artifacts, ROWS)), json.loads(self._artifact(artifacts, RESULT))
        return Outcome.from_json({"result": result, **rows})

    def _files(self) -> set[str]:
        """What lies beside the sweep's own run."""
        return {file.path for file in self.client.list_artifacts(self._parent)}

    def _artifact(self, artifacts: str, name: str) -> str:
        """A text beside a run, by the address that the run carries."""
        if here := _local(artifacts):
            return Path(here, name).read_text(encoding="utf-8")
        place = _artifacts_at(artifacts, self.uri)
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(place.download_artifacts(name, folder)).read_text(encoding="utf-8")
            except Exception:
                if name not in {Path(file.path).name for file in place.list_artifacts()}:
                    raise FileNotFoundError(name) from None  # the server answers: the file is gone, and not the server
                raise

    def _url(self, run_id: str) -> str:
        base = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{self._experiment}/runs/{run_id}"


def _by_key(runs: Iterable[Any]) -> dict[str, Child]:
    """Runs by their key; where another machine wrote one at the same time, the complete one."""
    found: dict[str, Child] = {}
    for run in runs:
        key, child = run.data.tags.get("key"), Child.of(run)
        if key and (key not in found or child.complete):
            found[key] = child
    return found


def _artifacts_at(address: str, uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(address, uri)


def _local(address: str) -> str:
    """The folder that an address of artifacts means on this machine; empty where it is elsewhere."""
    return url2pathname(urlsplit(address).path) if address.startswith("file:") else ""


def _reason(error: BaseException) -> str:
    """What the network said, if it did: around it MLflow and what it uses wrap addresses, objects and advice."""
    said, inner = first_line(error), error
    while inner:
        said = getattr(inner, "strerror", None) or ("no answer in time" if isinstance(inner, TimeoutError) else said)
        inner = inner.__cause__ or inner.__context__  # type: ignore[assignment]
    return said


def _complete(run: Any) -> bool:
    return bool(run.info.status == "FINISHED" and "key" in run.data.tags)


def _plan(name: str, text: str) -> tuple[TrialSpec, ...]:
    """The trials of plan.jsonl; ConfigError where a newer posweep wrote it."""
    try:
        return tuple(TrialSpec.from_json(json.loads(line)) for line in text.splitlines())
    except TypeError as error:
        raise ConfigError(
            f"sweep={name}: MLflow holds a plan of a newer posweep, which this {__version__} cannot read "
            f"({first_line(error)}); update posweep, or give this sweep another name."
        ) from None
