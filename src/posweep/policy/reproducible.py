"""The conditions under which numbers repeat: a fixed number of threads, and random draws that touch no global state."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with exactly `count` threads inside the block: sums are split by thread, so their rounding depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Library code that draws from torch's global generator draws from `seed` inside the block; afterwards nothing moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def stream(*names: int | str) -> np.random.Generator:
    """A stream of random numbers of its own for each sequence of names, the same in every process."""
    return np.random.default_rng([zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names])
