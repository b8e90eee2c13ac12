"""The memory of this process, kept between two steps: what one frees, the next takes again."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""What glibc calls these settings of its allocator (`mallopt(3)`)."""
PAD = 2**26
"""Bytes that are taken from the system at once."""


def keep_memory() -> bool:
    """Have glibc give no memory back to the system; whether there is a glibc.

    As it comes it returns large blocks as soon as they are free. The system hands them out again page by page, each of
    them zeroed first: at hidden size 128 that were 38,000 pages a step, and are 2,000 (benchmarks/RESULTS.md). No
    number changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(*setting) for setting in ((TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, PAD), (MMAP_MAX, 0)))
