"""Measures, as a program of its own, what fresh memory costs: prints [fresh s, reused s, faults].

It allocates as torch does (``posix_memalign`` at 64 bytes, then ``free``) and writes every byte.
Only the standard library is imported: the process must start quickly.
"""

import ctypes
import json
import resource
import statistics
import time

SIZE = 64 << 20
_WARM_UP = 16  # a heap that may keep its memory settles within some rounds
_ROUNDS = 15


def main() -> None:
    libc = ctypes.CDLL(None)
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.posix_memalign.argtypes = [
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_size_t,
        ctypes.c_size_t,
    ]

    def allocate() -> ctypes.c_void_p:
        block = ctypes.c_void_p()
        if libc.posix_memalign(ctypes.byref(block), 64, SIZE):
            raise MemoryError(f"no {SIZE >> 20} MB")
        return block

    kept = allocate()

    def reused() -> float:
        start = time.perf_counter()
        libc.memset(kept, 1, SIZE)
        return time.perf_counter() - start

    def fresh() -> float:
        start = time.perf_counter()
        block = allocate()
        libc.memset(block, 1, SIZE)
        libc.free(block)
        return time.perf_counter() - start

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    reused()
    for _ in range(_WARM_UP):
        fresh()
    fresh_times, reused_times, counts = [], [], []
    for _ in range(_ROUNDS):
        before = faults()
        fresh_times.append(fresh())
        counts.append(faults() - before)
        reused_times.append(reused())
    medians = [statistics.median(values) for values in (fresh_times, reused_times, counts)]
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
