"""The door to Ray: Tune dispatches keys to workers that stay warm. It gets nothing else to interpret."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from posweep.errors import PreflightError
from posweep.executors.base import Event, Listener, Work, gpu_problem, gpus_here
from posweep.settings import ExecutorSettings

CHUNK = 1000
"""Keys per fit: the driver's memory grows with the trials of one."""
TIMEOUT = 5
"""Seconds a cluster may take to answer before anything is started."""


class RayExecutor:
    """Runs trials on Ray: started here, or a cluster by its address."""

    def __init__(self, settings: ExecutorSettings):
        self.settings = settings

    def preflight(self) -> list[str]:
        """The cluster must answer and hold what a trial asks for."""
        address, resources = self.settings.address, self.settings.trial_resources
        if address is None:
            cores = os.cpu_count() or 1
            problems = gpu_problem(resources.gpu, gpus_here(), "this machine") if resources.gpu else []
            if resources.cpu > cores:
                problems.append(
                    f"executor.trial_resources.cpu: each trial asks for {resources.cpu:g} cores and this machine has "
                    f"{cores}. Set executor.trial_resources.cpu={cores} or less."
                )
            return problems
        return _unreachable(address)

    def run(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        """Run the trials, at most `executor.workers` at a time."""
        import ray

        self._start()
        try:
            for start in range(0, len(keys), CHUNK):
                self._fit(work, keys[start : start + CHUNK], listen)
        finally:
            ray.shutdown()

    def _start(self) -> None:
        import ray

        os.environ.update(
            RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
            TUNE_DISABLE_SIGINT_HANDLER="1", TUNE_MAX_PENDING_TRIALS_PG="8", RAY_AIR_NEW_OUTPUT="0",
            RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        )  # fmt: skip
        for name in ("ray", "ray.tune", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is in the ledger, with its log
        here: dict[str, Any] = {"include_dashboard": False} if self.settings.address is None else {}
        before = signal.getsignal(signal.SIGTERM)
        ray.init(
            address=self.settings.address or "local", log_to_driver=False, logging_level=logging.CRITICAL,
            configure_logging=True, **here,
        )  # fmt: skip
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own handler would print a stack and abort
        if not any(self._fits(node) for node in ray.nodes()):
            ray.shutdown()
            asked = self.settings.trial_resources
            raise PreflightError(
                f"executor.trial_resources: each trial asks for {asked.cpu:g} cores and {asked.gpu:g} GPU and no node has "
                "them; trials would wait for ever. Ask for less, or set executor.address=<a cluster with more>."
            )

    def _fits(self, node: dict[str, Any]) -> bool:
        """Whether a node could ever run a trial."""
        has, asked = node["Resources"], self.settings.trial_resources
        return bool(node["Alive"] and has.get("CPU", 0) >= asked.cpu and has.get("GPU", 0) >= asked.gpu)

    def _fit(self, work: Work, keys: Sequence[str], listen: Listener) -> None:
        from ray import tune

        resources = self.settings.trial_resources
        storage = tempfile.mkdtemp(prefix="posweep-ray-")
        trainable = tune.with_resources(
            tune.with_parameters(_trainable(), work=work), {"cpu": resources.cpu, "gpu": resources.gpu}
        )
        try:
            tune.Tuner(
                trainable,
                param_space={"key": tune.grid_search(list(keys))},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=self.settings.workers),
                run_config=tune.RunConfig(
                    name=work.configuration.sweep.name, storage_path=storage, verbose=0, callbacks=[_listening(listen)],
                ),
            ).fit()  # fmt: skip
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _trainable() -> type:
    """A Tune trainable that runs one key per configuration and keeps its worker when it is reused."""
    from ray import tune

    from posweep.executors.worker import Worker

    class Trial(tune.Trainable):
        """One actor of Tune: a worker, and the key it is at."""

        def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
            assert work is not None
            self.worker, self.key = Worker(work), config["key"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.key = new_config["key"]
            return True

        def step(self) -> dict[str, Any]:
            end = self.worker.run(self.key)
            if end == "failed":
                raise RuntimeError("the trial failed; its log says why")  # so that the next one gets a fresh process
            return {"end": end, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: the ledger is the way to resume."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: the ledger is the way to resume."""

    return Trial


def _listening(listen: Listener) -> Any:
    from ray import tune

    class Listening(tune.Callback):
        """Hands Tune's events on."""

        def __reduce__(self) -> tuple[type, tuple[()]]:
            """Tune pickles its callbacks to resume from; ours listens to this process and is not resumed."""
            return tune.Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listen(Event("started", trial.config["key"]))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listen(Event((trial.last_result or {}).get("end", "finished"), trial.config["key"]))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listen(Event("failed", trial.config["key"]))

    return Listening()


def _unreachable(address: str) -> list[str]:
    """`auto` needs a cluster on this machine; HOST:PORT must answer."""
    if address == "auto":
        from ray._private.services import find_gcs_addresses

        return (
            []
            if find_gcs_addresses()
            else ["executor.address: auto finds no Ray cluster here; run ray start --head, or leave the address out."]
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return [f"executor.address: must be auto or HOST:PORT, got {address!r}."]
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            f"executor.address: no Ray cluster answers at {address} ({reason}); start one, or leave the address out."
        ]
    return []
