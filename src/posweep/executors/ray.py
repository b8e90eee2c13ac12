"""The door to Ray: Tune dispatches keys to workers that stay warm. It gets nothing else to interpret.

A unit is a trial, or a cohort of trials that share their passes.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from posweep import data
from posweep.errors import PreflightError, TrialsFailed, first_line
from posweep.executors import nodes
from posweep.executors.address import address_problems, refused
from posweep.executors.base import ArtifactSummary, Event, Listener, Work, core_problem, gpu_problem, gpus_here
from posweep.executors.cohorts import cohorts
from posweep.executors.nodes import Errand, Inspection, idle_gpu_problems, request_problems, unsatisfiable
from posweep.executors.summary import record_summary, recorded_summary
from posweep.folder import asked_to_stop
from posweep.mirror import driver_mirror
from posweep.settings import Configuration, ExecutorSettings

CHUNK = 1000
"""Units per fit: the driver's memory grows with the trials of one."""
LOOK = 0.25
"""Seconds between looks for the request to stop."""
SOCKETS = 36
"""Bytes that the name of a temporary folder may have: Ray makes sockets in it, whose names may have 107."""
VISIT = 60
"""Seconds that its nodes may take to say what they have and reach: each starts a process for it."""


class RayExecutor:
    """Runs trials on Ray: started here, or a cluster by its address."""

    def __init__(self, settings: ExecutorSettings):
        self.settings = settings
        self._opened = False
        self._sockets: str | None = None

    def preflight(self) -> list[str]:
        """The cluster must answer and hold what a trial asks for."""
        if self.settings.address is None:
            return self._too_much()
        here: list[str] = []
        if self.settings.address == "auto":
            from ray._private.services import find_gcs_addresses

            here = sorted(find_gcs_addresses())
        return address_problems(self.settings.address, here)

    def _too_much(self) -> list[str]:
        """What single trials ask for and this machine has not."""
        cores, requests = os.cpu_count() or 1, self.settings.requests
        gpus = gpus_here() if any(asked.gpu for asked in requests.values()) else 0
        return [
            problem
            for place, asked in requests.items()
            for problem in [
                *gpu_problem(asked.gpu, gpus, "this machine", place),
                *core_problem(asked.cpu, cores, place),
            ]
        ]

    def open(self, configuration: Configuration, folder: Path, say: Callable[[str], None]) -> None:
        """Start Ray or join the cluster, and ask its nodes."""
        self._opened = True
        try:
            self._start()
            self._wait_for_nodes(say)
            resources = _resources()
            problems = request_problems(unsatisfiable(self.settings, resources), resources)
            if self.settings.address:
                problems += idle_gpu_problems(self.settings, resources)
            if self.settings.address or self.settings.storage:
                problems += Inspection(configuration, folder).problems(_visited)
            if problems:
                raise PreflightError(problems)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, or end what was started here."""
        if not self._opened:
            return
        import ray

        self._opened = False
        ray.shutdown()
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def make_artifacts(self, work: Work, say: Callable[[str], None]) -> ArtifactSummary:
        """On a worker that asks for what a trial asks for, unless an earlier launch left everything; one that is lost is
        tried again as a trial is.

        Raises:
            TrialsFailed: it was lost more often than `executor.retries`.
        """
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

        from posweep.executors.artifacts import offer_copies, take_copies

        mirror, retries = driver_mirror(work.configuration, work.folder), self.settings.retries
        offer_copies(mirror)
        if recorded := recorded_summary(work, work.folder):
            return recorded  # a worker would import torch and load everything, only to say the same
        if not self._opened:  # no trial is left to run: only what is damaged is made again
            self.open(work.configuration, work.folder, say)
        for attempt in range(1, retries + 2):
            try:
                summary = self._artifacts_once(work, say)
            except (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError) as error:
                story = "the worker that makes what trials share was lost"
                if attempt > retries:
                    causes = "killed, out of the machine's memory, or its node went away"
                    raise TrialsFailed(f"{story} {f'{attempt} times' if retries else 'once'} ({causes}).") from error
                seconds = min(2.0 ** (attempt - 1), 60.0)
                say(f"{story}; it starts again in {seconds:.0f} s (retry {attempt} of {retries})")
                time.sleep(seconds)
            else:
                take_copies(mirror, summary.artifacts)
                record_summary(work, work.folder, summary)
                return summary
        raise AssertionError("the last attempt returns or raises")

    def _artifacts_once(self, work: Work, say: Callable[[str], None]) -> ArtifactSummary:
        """One task that says what it makes and ends with the summary; its process ends with it, and frees the GPU."""
        import ray

        from posweep.executors.artifacts import Failed, artifact_stream

        configuration = work.configuration
        # nodes elsewhere need not have the files, which only the driver has read so far
        preferences = data.load(configuration.data, configuration.evaluation.sources) if self.settings.address else None
        asked = max(map(self.settings.request, configuration.methods), key=lambda request: (request.gpu, request.cpu))
        task = ray.remote(num_cpus=asked.cpu, num_gpus=asked.gpu, max_retries=0, max_calls=1)(artifact_stream)
        stream = task.options(num_returns="streaming").remote(work, preferences)
        try:
            while True:
                if not ray.wait([stream], timeout=LOOK)[0]:
                    continue
                item = ray.get(next(stream))
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, ArtifactSummary):
                    return item
                say(item)
        except KeyboardInterrupt:
            with suppress(Exception):
                ray.cancel(stream, force=True)
            raise

    def run(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        """Run the trials, at most `executor.workers` at a time, or as many cohorts of those that share their passes."""
        units = cohorts(work, keys)
        for start in range(0, len(units), CHUNK):
            if not asked_to_stop(work.folder):
                self._fit(work, units[start : start + CHUNK], listen)

    def _start(self) -> None:
        import ray

        os.environ.update(
            RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
            TUNE_DISABLE_SIGINT_HANDLER="1", TUNE_MAX_PENDING_TRIALS_PG="8", RAY_AIR_NEW_OUTPUT="0",
            TUNE_GLOBAL_CHECKPOINT_S="1e9", TUNE_PRINT_ALL_TRIAL_ERRORS="0",
            RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        )  # fmt: skip
        for name in ("ray", "ray.tune", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is in the ledger, with its log
        ray._private.worker.print_to_stdstream = lambda *_, **__: None  # of workers that died, which we say ourselves
        here: dict[str, Any] = {}
        if self.settings.address is None:
            here["include_dashboard"] = False
            self._sockets = _socket_folder()
            if self._sockets:
                here["_temp_dir"] = self._sockets
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self.settings.address or "local", log_to_driver=False, logging_level=logging.CRITICAL,
                configure_logging=True, **here,
            )  # fmt: skip
        except Exception as error:
            if self.settings.address is None:
                raise
            raise PreflightError(refused(self.settings.address, _reason(error))) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own handler would print a stack and abort

    def _wait_for_nodes(self, say: Callable[[str], None]) -> None:
        """Nodes may be on their way; where somebody adds nodes on demand, this is the demand."""
        until, minutes = time.monotonic() + 60 * self.settings.wait_minutes, self.settings.wait_minutes
        lacking = unsatisfiable(self.settings, _resources())
        if not lacking or not minutes:
            return
        say(f"waiting up to {minutes:g} minutes for nodes that satisfy {', '.join(lacking)} …")
        _demand([{"CPU": asked.cpu, "GPU": asked.gpu} for asked in lacking.values()])
        try:
            while unsatisfiable(self.settings, _resources()) and time.monotonic() < until:
                time.sleep(1)
        finally:
            _demand([])  # a demand outlives us, and what it brings costs money

    def _fit(self, work: Work, units: Sequence[tuple[str, ...]], listen: Listener) -> None:
        from ray import tune
        from ray.tune.execution import class_cache
        from ray.tune.search.basic_variant import BasicVariantGenerator

        class_cache.DEFAULT_ENV_VARS.clear()  # with variables of their own, actors pass by the processes that are up
        search = BasicVariantGenerator(max_concurrent=self.settings.workers or 0)
        storage, listening = tempfile.mkdtemp(prefix="posweep-ray-"), _listening(listen, work.folder, search)
        trainable = tune.with_resources(tune.with_parameters(_trainable(), work=work), self._placement(work, units))
        try:
            tuner = tune.Tuner(
                trainable,
                param_space={"keys": tune.grid_search([",".join(unit) for unit in units])},
                tune_config=tune.TuneConfig(reuse_actors=True, search_alg=search),
                run_config=tune.RunConfig(
                    name=work.configuration.sweep.name, storage_path=storage, verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # other nodes lack that folder
                    callbacks=[listening],
                ),
            )  # fmt: skip
            with _looked_up_once():
                tuner.fit()
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        if listening.error:
            raise listening.error

    def _placement(self, work: Work, units: Sequence[tuple[str, ...]]) -> Callable[[dict[str, Any]], Any]:
        """What the trials of a unit ask for, all of them the same, as Tune wants to hear it."""
        from ray import tune

        requests = {unit[0]: self.settings.request(work.specs[unit[0]].method) for unit in units}
        bundles = {
            key: {"CPU": asked.cpu, **({"GPU": asked.gpu} if asked.gpu else {})} for key, asked in requests.items()
        }
        return lambda config: tune.PlacementGroupFactory([bundles[_keys(config)[0]]])


def _keys(config: dict[str, Any]) -> tuple[str, ...]:
    """The trials of a unit: Tune's one flat axis has their keys with commas between them."""
    return tuple(config["keys"].split(","))


def _trainable() -> type:
    """A Tune trainable that runs one unit per configuration and keeps its worker when it is reused."""
    from ray import tune

    class Trial(tune.Trainable):
        """One actor of Tune: a worker, and the trials it is at."""

        def setup(self, config: dict[str, Any], work: Any = None) -> None:
            self.work, self.keys = work, _keys(config)
            self.worker: Any = (
                None  # an actor that is up late loses its trial to one that is reused, and torch takes seconds
            )

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.keys = _keys(new_config)
            return True

        def step(self) -> dict[str, Any]:
            if self.worker is None:
                from posweep.executors.worker import Worker

                self.worker = Worker(self.work)
            ends = self.worker.run_all(self.keys)
            if "failed" in ends.values():
                raise RuntimeError("a trial failed; its log says why")  # so that the next one gets a fresh process
            return {"ends": ends, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: the ledger is the way to resume."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: the ledger is the way to resume."""

    return Trial


def _listening(listen: Listener, folder: Path, search: Any) -> Any:
    from ray import tune

    class Listening(tune.Callback):
        """Hands Tune's events on, and the request to stop to Tune: it gets no more keys, and waits for trials that run."""

        def __init__(self) -> None:
            self.looked = 0.0
            self.error: Exception | None = None

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.looked > LOOK:
                self.looked = time.monotonic()
                if asked_to_stop(folder):
                    search.set_finished()

        def __reduce__(self) -> tuple[type, tuple[()]]:
            """Tune pickles its callbacks to resume from; ours listens to this process and is not resumed."""
            return tune.Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._tell("started", trial)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._tell("finished", trial, (trial.last_result or {}).get("ends", {}))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._tell("failed", trial)

        def _tell(self, kind: Any, trial: Any, ends: Mapping[str, Any] = MappingProxyType({})) -> None:
            """Tune takes an error of its callbacks for the trial's; it is raised when the trials that run have returned."""
            try:
                for place, key in enumerate(_keys(trial.config)):
                    listen(Event(ends.get(key, kind), key, beside=place > 0))
            except Exception as error:
                self.error = self.error or error
                search.set_finished()

    return Listening()


@contextmanager
def _looked_up_once() -> Iterator[None]:
    """Tune asks the cluster five times a trial for the class that it was given; inside, an answer stays."""
    from ray.tune.registry import _global_registry

    registry: Any = _global_registry
    ask, known = registry.contains, set[tuple[str, ...]]()

    def contains(*name: str) -> bool:
        if name not in known and ask(*name):
            known.add(name)
        return name in known

    registry.get, registry.contains = functools.cache(registry.get), contains
    try:
        yield
    finally:
        del registry.get, registry.contains


def _reason(error: Exception) -> str:
    """What Ray says of a cluster that it cannot join; of two versions it says which in the lines that follow."""
    said = " ".join(str(error).split())
    return said[:300].rstrip(".") if said.startswith("Version mismatch") else first_line(error)


def _socket_folder() -> str | None:
    """A folder with a short name for Ray's sockets, ours alone; None where Ray's own choice will do.

    Raises:
        PreflightError: there is no folder that takes it.
    """
    chosen = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    usable = Path(chosen).is_dir() and os.access(chosen, os.W_OK | os.X_OK)
    if usable and re.fullmatch(rf"/[A-Za-z0-9_./-]{{1,{SOCKETS - 1}}}", chosen):
        return None
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        with suppress(OSError):
            return tempfile.mkdtemp(prefix="posweep-", dir=folder)
    raise PreflightError(
        f"TMPDIR: Ray needs a folder with a name of at most {SOCKETS} letters for its sockets, and neither {chosen} nor "
        "/tmp, /var/tmp and /dev/shm is one that can be written; set TMPDIR to such a folder, or executor=local."
    )


def _nodes() -> dict[str, dict[str, Any]]:
    """The nodes that are there by the names of their hosts, with a part of the node's id where several share one."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = [node["NodeManagerHostname"] for node in alive]
    return {
        host if hosts.count(host) == 1 else f"{host} ({node['NodeID'][:6]})": node
        for host, node in zip(hosts, alive, strict=True)
    }


def _resources() -> list[dict[str, float]]:
    return [node["Resources"] for node in _nodes().values()]


def _demand(bundles: list[dict[str, float]]) -> None:
    """Tell an autoscaler, if there is one, what is wanted; an empty list takes it back."""
    from ray.autoscaler.sdk import request_resources

    with suppress(Exception):  # without an autoscaler nobody listens
        request_resources(bundles=bundles)


def _visited(errand: Errand) -> dict[str, Any]:
    """What every node answers, all asked at once; a text for one that does not."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(nodes)  # a node may have another posweep, or none
    ask = ray.remote(num_cpus=0, max_retries=0)(nodes.visit)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            errand, nodes.mark(name)
        ): name
        for name, node in _nodes().items()
    }
    heard, _ = ray.wait(list(asked), num_returns=len(asked), timeout=VISIT)
    return {name: _answer(ref) if ref in heard else f"no answer in {VISIT} s" for ref, name in asked.items()}


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except Exception as error:
        return first_line(getattr(error, "cause", None) or error)
