"""Read by every Python that starts with this folder on PYTHONPATH: puts the stubs of stub.py in place of real trials.

Workers of Ray unpickle `posweep.executors.worker` by its name, so what a driver patched in itself would not reach them.
"""

import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import sys
import time
from types import SimpleNamespace

STUB = json.loads(os.environ.get("POSWEEP_STUB", "{}"))


def run_trial(spec, *_, **__):
    """What `posweep.trial.run_trial` returns, of numbers that follow from the key."""
    from posweep.records import Outcome, TrialResult

    began = time.time()
    _note_start(spec.key, began)
    time.sleep(STUB["seconds"] / 2)
    if random.random() < STUB["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if random.random() < STUB["fail"]:
        raise OSError("disk on fire")
    if random.random() < STUB["oom"]:
        import torch

        raise torch.OutOfMemoryError("injected")
    time.sleep(STUB["seconds"] / 2)
    drawn = random.Random(spec.key)
    measures = {f"ood/measure_{i}": drawn.random() for i in range(STUB["metrics"] - 1)}
    measures["ood/win_rate_vs_sft"] = drawn.random()
    return Outcome(
        TrialResult(
            spec.key, spec.response_key, spec.score_key, "finished", measures,
            seconds={"train": STUB["seconds"], "total": STUB["seconds"]}, started_at=began,
        )
    )  # fmt: skip


def _note_start(key, at):
    """One write of one line: processes that append do not mix."""
    if STUB["starts"]:
        started = {"key": key, "pid": os.getpid(), "at": at, "node": os.environ.get("POSWEEP_NODE", "")}
        file = os.open(STUB["starts"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (json.dumps(started) + "\n").encode())
        os.close(file)


def _worker(module):
    shared = SimpleNamespace(policy=SimpleNamespace(adapted=False))
    module.run_trial, module.prepare = run_trial, lambda *_: shared
    if os.environ.get("POSWEEP_STUB_LEDGER") == "none":  # what workers come to is written nowhere
        module.Ledger.write = lambda *_: None


def _launch(module):
    def make_artifacts(configuration, mirror, *_):
        folder = mirror.folder
        header = module.SweepHeader(configuration.sweep.name, configuration.sweep.primary_metric)
        module.write_atomically(folder / module.OPPONENTS, [])
        module.write_atomically(folder / module.HEADER, header.to_json())

    module._make_artifacts = make_artifacts


def _write(module):
    module.chapters = lambda _: []


def _checkpoint(module):
    """A trial is doomed to kill its process after some step, or not, whenever it begins."""

    class Doomed(module.Checkpoints):
        def due(self, step, looks):
            if not hasattr(self, "doomed"):
                self.doomed = step + random.randrange(60) if random.random() < STUB["die"] else -1
            if step == self.doomed:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().due(step, looks)

    module.Checkpoints = Doomed


STUBS = {"posweep.executors.worker": _worker, "posweep.launch": _launch, "posweep.report.write": _write}
REAL = {"posweep.policy.checkpoint": _checkpoint, "posweep.report.write": _write}
PATCHES = REAL if STUB.get("real") else STUBS


class Patching(importlib.abc.MetaPathFinder):
    """Patches a module as soon as it was imported."""

    def find_spec(self, name, path, target=None):
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        real = spec.loader.exec_module

        def exec_module(module):
            real(module)
            PATCHES[name](module)

        spec.loader.exec_module = exec_module
        return spec


if STUB:
    sys.meta_path.insert(0, Patching())
