"""Whether trials fit into the memory of a GPU or of this machine, and how many: what cannot is said before anything runs."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from posweep.memory import GB, GPU_OVERHEAD, Memory, estimate, frozen_bytes, gigabytes, known_sizes, moments_of, unknown
from posweep.settings import Configuration, HubModel, TrialResources

MARGIN = 0.1
"""Share of the memory that stays free where several trials are put into it: for gaps between tensors."""


# --- how many fit


def fused_fit(configuration: Configuration, batch_size: int, trials: int | None = None) -> int:
    """How many trials fit into one pass, at least 1; 1 where a size or the memory is not known.

    Each has trained weights, gradients, optimizer, activations, logits and cache of its own. The reference, the frozen
    weights under adapters, judges and what a process takes are there once.

    Args:
        configuration: of the sweep.
        batch_size: pairs a step, of each of the trials.
        trials: how many processes there are at most, where fewer than run at the same time.
    """
    known, room = known_sizes(configuration), _room(configuration, trials)
    if known is None or room is None:
        return 1
    frozen = frozen_bytes(configuration.model, known[0])

    def fit(moment: Memory) -> int:
        once = frozen + moment.reference + moment.judges + moment.overhead
        return int(((1 - MARGIN) * room - once) // (moment.total - once))

    return max(1, min(map(fit, moments_of(configuration, batch_size, *known))))


def sharing(configuration: Configuration, batch_size: int, trials: int, measured: int = 0) -> str:
    """What to ask for so that trials share a GPU, where each asks for a whole one and two or more fit; else nothing.

    Args:
        configuration: of the sweep.
        batch_size: pairs a step, the most that any trial takes.
        trials: how many there are.
        measured: bytes that a probe's tensors took at their peak; 0 where none was run on a GPU.
    """
    asked, found = configuration.executor.trial_resources, estimate(configuration, batch_size)
    room = _gpu_bytes(configuration, asked)
    need = measured + GPU_OVERHEAD if measured else found.total if found else 0
    if asked.gpu < 1 or not room or not need:
        return ""
    fit = int(min((1 - MARGIN) * room // need, _beside_one_gpu(configuration), trials))
    share = math.floor(1e4 / max(fit, 1)) / 1e4  # Ray tells apart what is 0.0001 of a GPU
    said = f"a trial needs {gigabytes(need)} of {gigabytes(room)} GB{' (measured)' if measured else ''}"
    return f"{said}: {fit} fit on a GPU; executor.trial_resources.gpu={share:g}" if fit > 1 else ""


def _beside_one_gpu(configuration: Configuration) -> float:
    """Trials that have processor cores, for each GPU of this machine; of others no limit is known."""
    gpus = len(memory_of_gpus()) if configuration.executor.address is None else 0
    return int((os.cpu_count() or 1) // configuration.executor.trial_resources.cpu) // gpus if gpus else math.inf


# --- whether it fits


def summary(configuration: Configuration, batch_size: int, trials: int | None = None) -> str:
    """What a trial needs and what it has, in a line: `14.2 GB while training (optimizer 6.2, …) of 24 GB`."""
    found, room = estimate(configuration, batch_size), _room(configuration, trials)
    if found is None:
        return f"unknown ({unknown(configuration)})"
    return f"{found} of {gigabytes(room)} GB" if room else str(found)


def problems(configuration: Configuration, batch_size: int, trials: int | None = None) -> list[str]:
    """A sentence where trials cannot fit into the memory of their GPU or, without one, of this machine.

    Args:
        configuration: of the sweep; nothing is known of the machines of a cluster, unless `gpu_memory` says it.
        batch_size: pairs a step, the most that any trial takes.
        trials: how many there are, where fewer than run at the same time.
    """
    found, room = estimate(configuration, batch_size), _room(configuration, trials)
    if found is None or room is None:
        return []
    if found.total <= room:
        return _fused_problems(configuration, batch_size, trials)
    ways = _ways_out(configuration, batch_size, room)
    if configuration.executor.trial_resources.gpu:
        return [_gpu_sentence(configuration, found, room, ways)]
    return [_host_sentence(found, trials_at_once(configuration, trials), ways)]


def _fused_problems(configuration: Configuration, batch_size: int, trials: int | None) -> list[str]:
    """A sentence where too many are to share a pass on a machine that kills who takes too much; on a GPU half are tried."""
    fused = configuration.executor.fused or 1
    if fused == 1 or configuration.executor.trial_resources.gpu:
        return []
    fit = fused_fit(configuration, batch_size, trials)
    if fit >= fused:
        return []
    place, machine = "executor.fused", gigabytes(memory_here() or 0.0)
    return [f"{place}: {fused} trials in one pass do not fit into the {machine} GB of this machine; set {place}={fit}."]


def _gpu_sentence(configuration: Configuration, found: Memory, room: float, ways: str) -> str:
    place, share = _smallest(configuration)
    has = f"{gigabytes(room)} GB" + (f" ({share.gpu:g} of a GPU)" if share.gpu < 1 else "")
    more = "take a larger GPU" if share.gpu >= 1 else "ask for more of a GPU"
    return f"{place}.gpu: a trial needs {found}, and has {has}; {ways}{more}."


def _smallest(configuration: Configuration) -> tuple[str, TrialResources]:
    """The request for the least memory of a GPU, and the setting it stands in."""

    def memory(request: tuple[str, TrialResources]) -> float:
        return (request[1].gpu_memory or math.inf) * min(request[1].gpu, 1)

    requests = configuration.executor.requests.items()
    return min(requests, key=lambda request: (memory(request), min(request[1].gpu, 1)))


def _host_sentence(found: Memory, together: int, ways: str) -> str:
    machine = memory_here() or 0.0
    has = f"and this machine has {gigabytes(machine)} GB"
    if together == 1:
        return f"model: a trial needs {found}, {has}; {ways}take a larger machine."
    fit = int(machine // found.total)
    fewer = f"set executor.workers={fit}, or " if fit else ""
    need = f"{together} trials at a time need {gigabytes(together * found.total)} GB, each {found}"
    return f"executor.workers: {need}, {has}; {fewer}{ways}take a larger machine."


Change = tuple[str, Callable[[Configuration], Configuration]]
"""A setting as it is written on the command line, and what it makes of a configuration."""


def _ways_out(configuration: Configuration, batch_size: int, room: float) -> str:
    """`set A or B, or ` where one setting is enough, `set A and B, or ` where it takes several; empty where nothing is."""
    known = known_sizes(configuration)
    assert known is not None

    def over(changed: Configuration) -> float:
        return sum(max(moment.total - room, 0.0) for moment in moments_of(changed, batch_size, *known))

    def mildest(changes: list[Change], start: Configuration) -> Change:
        return next((one for one in changes if not over(one[1](start))), changes[-1])

    settings = [changes for changes in _changes(configuration, batch_size) if changes]
    tried = [mildest(changes, configuration) for changes in settings]
    if enough := [text for text, change in tried if not over(change(configuration))]:
        return f"set {_listed(enough, 'or')}, or "
    changed, chosen = configuration, list[str]()
    for changes in sorted(settings, key=lambda changes: over(changes[-1][1](configuration))):
        text, change = mildest(changes, changed)
        if over(change(changed)) < over(changed):
            changed, chosen = change(changed), [*chosen, text]
        if not over(changed):
            return f"set {_listed(chosen, 'and')}, or "
    return ""


def _changes(configuration: Configuration, batch_size: int) -> Iterator[list[Change]]:
    """Settings that cost time or precision in place of memory; the values of each from the mildest to the strongest."""
    train, model = configuration.train, configuration.model
    micro = min(train.micro_batch_size or batch_size, batch_size)
    yield [(f"train.micro_batch_size={n}", _setter("train", micro_batch_size=n)) for n in _halves(micro)]
    if isinstance(model, HubModel):
        yield [("model.gradient_checkpointing=true", _setter("model", gradient_checkpointing=True))]
        lora = replace(model.lora, rank=model.lora.rank or 16)
        yield [("model.lora.rank=16", _setter("model", lora=lora))]
        yield [("model.attention=sdpa", _setter("model", attention="sdpa"))]
        yield [("model.dtype=bfloat16", _setter("model", dtype="bfloat16"))]
    drawn = configuration.sample.batch_size
    yield [(f"sample.batch_size={n}", _setter("sample", batch_size=n)) for n in _halves(drawn)]


def _setter(section: str, **values: Any) -> Callable[[Configuration], Configuration]:
    def set_values(configuration: Configuration) -> Configuration:
        changed: Any = {section: replace(getattr(configuration, section), **values)}
        return replace(configuration, **changed)

    return set_values


def _halves(number: int) -> list[int]:
    """A number's half, the half of that and so on, down to 1."""
    return [number >> i for i in range(1, number.bit_length())]


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def trials_at_once(configuration: Configuration, trials: int | None = None) -> int:
    """The most trials that run at the same time, as far as this machine can tell: those that ask for the least."""
    settings, requests = configuration.executor, configuration.executor.requests.values()
    most = settings.workers or max(1, int((os.cpu_count() or 1) // min(asked.cpu for asked in requests)))
    share = min(asked.gpu for asked in requests)
    if share and settings.workers is None and settings.address is None and (gpus := memory_of_gpus()):
        most = max(1, min(most, int(len(gpus) / share)))
    most = 1 if settings.kind == "local" else most
    return min(most, trials) if trials else most


def _room(configuration: Configuration, trials: int | None) -> float | None:
    """Bytes that one trial may take: of its GPU or its share of one, or an even share of this machine; None if unknown."""
    _, asked = _smallest(configuration)
    if asked.gpu:
        whole = _gpu_bytes(configuration, asked)
        return whole and whole * min(asked.gpu, 1)
    machine = memory_here() if configuration.executor.address is None else None
    return machine and machine / trials_at_once(configuration, trials)


def _gpu_bytes(configuration: Configuration, asked: TrialResources) -> float | None:
    """Bytes of one whole GPU, as the request says it or this machine's driver; None if unknown."""
    if asked.gpu_memory:
        return asked.gpu_memory * GB
    return min(memory_of_gpus(), default=None) if configuration.executor.address is None else None


def memory_here() -> float | None:
    """Bytes of memory this machine has; None where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def memory_of_gpus() -> list[float]:
    """Bytes of each GPU of this machine, as its driver's own tool says: that takes no torch. Empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(
            query, capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=True
        ).stdout
        return [float(line) * 2**20 for line in asked.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
