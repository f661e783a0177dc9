"""How a serving process's memory is managed: by the collector of cycles, and by the C library."""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD = -3  # mallopt(3)
LARGE_BYTES = 131_072
# A job makes dozens of short-lived objects, few of them in cycles; those of jobs under way outlive some thousand
# allocations, and should not be walked through for it.
_GENERATIONS = (50_000, 20, 50)


def tune() -> None:
    """For the whole process, at its start.

    Blocks of LARGE_BYTES and more are mapped one by one, so that what a large answer took goes back to the system
    with it. Left alone, glibc takes the first large block that is freed as a sign to keep such blocks for good.
    """
    gc.set_threshold(*_GENERATIONS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not every C library has it
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """After a large answer: what its small pieces took lies between others, and is free in whole pages only by and by.

    It takes some milliseconds.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def freeze() -> None:
    """Once everything is loaded: price tables and vocabularies stay, and need no walking through again."""
    gc.freeze()
