"""Memory without page faults for both sides of a row.

A row with ``out=`` is about the kernel, not about the system's work for new memory. Most functions
of PyTorch have no ``out=``; their outputs get memory that the process has used before instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Callable, Iterator

__all__ = ["kept_memory", "settles"]

# Of glibc's malloc.h; values are C ints.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALL = 2**31 - 1
# What glibc's dynamic thresholds reach in a process that frees large blocks.
_USUAL_MMAP, _USUAL_TRIM = 32 << 20, 64 << 20

_FEW_FAULTS = 8
_MOST_CALLS = 48


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Within the block, freed memory stays with the process and is handed out again.

    Without effect where the C library has no ``mallopt``; at the end all free memory goes back to
    the system.
    """
    libc = ctypes.CDLL(None)
    mallopt, trim = getattr(libc, "mallopt", None), getattr(libc, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _ALL)
    mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        trim(ctypes.c_size_t(0))


def settles(call: Callable[[], object]) -> bool:
    """Repeats ``call`` until it gets no new memory from the system; False if it always does."""
    quiet = 0
    for _ in range(_MOST_CALLS):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        quiet = quiet + 1 if faults < _FEW_FAULTS else 0
        if quiet == 3:
            return True
    return False
