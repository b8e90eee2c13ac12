"""Out of memory: do less at once, until it fits. The batch of a step stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from posweep.artifacts.shared import release
from posweep.errors import OutOfMemory
from posweep.settings import Configuration, HubModel

T = TypeVar("T")

SAYINGS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""How torch, its libraries and the system say it where they have no exception of their own for it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in SAYINGS)


def training_sentence(configuration: Configuration) -> str:
    """What to set where one pair at a time does not fit."""
    model, ways = configuration.model, list[str]()
    if isinstance(model, HubModel) and not model.gradient_checkpointing:
        ways.append("model.gradient_checkpointing=true")
    if isinstance(model, HubModel) and model.lora.rank == 0:
        ways.append("model.lora.rank=16")
    ways = [*ways, "a smaller model", "fewer executor.workers"]
    return f"train.micro_batch_size: not even one pair at a time fits into memory; {_set(ways, configuration)}"


def sampling_sentence(configuration: Configuration) -> str:
    """What to set where one response at a time does not fit."""
    ways = _set(["a smaller sample.max_new_tokens", "fewer executor.workers"], configuration)
    return f"sample.batch_size: not even one response at a time fits into memory; {ways}"


def judging_sentence(name: str, configuration: Configuration) -> str:
    """What to set where a judge does not fit beside the policy."""
    batch = hasattr(configuration.judges[name], "batch_size")
    ways = [*([f"a smaller judge.{name}.batch_size"] if batch else []), "fewer executor.workers"]
    return f"judge.{name}: judging does not fit into memory; {_set(ways, configuration)}"


def _set(ways: list[str], configuration: Configuration) -> str:
    machine = "GPU" if configuration.executor.trial_resources.gpu else "machine"
    return (
        f"set {', or '.join([', '.join(ways[:-1]), ways[-1]] if len(ways) > 1 else ways)}, or take a larger {machine}."
    )


def halving(work: Callable[[int], T], size: int, again: Callable[[int], None], sentence: str) -> T:
    """What `work` comes to with the first of size, size // 2, …, 1 that fits into memory.

    Args:
        again: told each smaller size before it is tried.

    Raises:
        OutOfMemory: 1 does not fit; it says `sentence`.
    """
    while True:
        try:
            return work(size)
        except OutOfMemory:
            raise  # of something that was halved already
        except Exception as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(sentence) from error
        # the error is gone, and with it the frames that held what filled the memory
        release()
        size //= 2
        again(size)
