"""The machine's limits, measured in the process and the minute of what is held against them."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch

from kernel_pytorch.backends import cpu, cpu_probe
from kernel_pytorch.core.stats import median
from kernel_pytorch.ops.spec import Cost

__all__ = ["COMPUTE", "Floor", "Limits"]

COMPUTE = ("fp32", "bf16", "int8")

_PEAK_SECONDS = 2e-3
_CANARY_SECONDS = 2e-4
_HOT_SECONDS = 1e-3
_REPEATS = 5
_MIN_BYTES = 1 << 20


class Floor(NamedTuple):
    """The least time the measured limits allow for some work, and which limit it is."""

    seconds: float
    bound: str
    """ "fp32", "bf16", "int8", "read" or "copy"."""


class Limits:
    """Probes of one machine. Rates are per second over all threads; every reading is kept.

    A reading is the best of some runs: what else goes on can make a probe slower, never faster.
    """

    def __init__(self, buffer_bytes: int) -> None:
        """``buffer_bytes``: what cold bandwidth is measured over; should exceed the caches."""
        self._iterations = {c: self._calibrate(c, _PEAK_SECONDS) for c in COMPUTE}
        self._canary = self._calibrate("fp32", _CANARY_SECONDS)
        self._buffer = torch.ones(max(buffer_bytes, 4 * _MIN_BYTES), dtype=torch.uint8)
        self.readings: dict[str, list[float]] = defaultdict(list)
        self.variants: dict[str, str] = {}

    @staticmethod
    def _calibrate(compute: str, seconds: float) -> int:
        iterations = 64
        while (probe := cpu_probe.peak(compute, iterations)).seconds < seconds / 4:
            iterations *= 4
        return max(1, int(iterations * seconds / probe.seconds))

    def canary(self) -> float:
        """Seconds of a fixed piece of arithmetic on all threads: it jumps when a core is lost."""
        return cpu_probe.peak("fp32", self._canary).seconds

    def peak(self, compute: str) -> float:
        """Operations per second. A format is never held against less than a wider one's rate:
        where dot products of bf16 are slower than fp32 arithmetic, a kernel may convert."""
        best = 0.0
        for kind in COMPUTE[: COMPUTE.index(compute) + 1]:
            probes = [cpu_probe.peak(kind, self._iterations[kind]) for _ in range(_REPEATS)]
            rate = max(p.rate for p in probes)
            if rate > best:
                best, self.variants[compute] = rate, probes[0].variant
        self.readings[compute].append(best)
        return best

    def read(self, working_set: int | None = None) -> float:
        """Bytes read per second from memory, or from whatever cache holds ``working_set``."""
        source = self._part(working_set)
        repeats = self._repeats(source, working_set)
        rate = max(
            cpu_probe.memory(source, repeats=repeats).rate for _ in range(self._times(source))
        )
        if working_set is None:
            self.readings["read"].append(rate)
        return rate

    def copy(self, working_set: int | None = None) -> float:
        """Bytes per second, read plus written, of the faster of plain and streaming stores."""
        both = self._part(working_set)
        half = both.numel() // 128 * 64
        source, target = both[:half], both[half : 2 * half]
        repeats = self._repeats(both, working_set)
        rate = max(
            cpu_probe.memory(source, target, streaming=streaming, repeats=repeats).rate
            for streaming in (False, True)
            for _ in range(self._times(both))
        )
        if working_set is None:
            self.readings["copy"].append(rate)
        return rate

    def floor(self, cost: Cost, working_set: int | None = None) -> Floor:
        """The least time for ``cost`` with inputs in memory, or in the caches if ``working_set``
        (its size in bytes) is given. Memory and arithmetic overlap: the slower one counts."""
        compute = cost.flops / self.peak(cost.compute) if cost.flops else 0.0
        # What is both read and written goes at the rate of a copy; what is left over of the reads
        # at the rate of reading. There is no faster way to write than the copy's stores.
        surplus = max(0.0, cost.read_bytes - cost.write_bytes)
        copied = cost.read_bytes + cost.write_bytes - surplus
        memory = surplus / self.read(working_set) if surplus else 0.0
        if copied:
            memory += copied / self.copy(working_set)
        if compute > memory:
            return Floor(compute, cost.compute)
        return Floor(memory, "read" if surplus > copied else "copy")

    def summary(self) -> dict[str, float]:
        """The median of the readings of each limit, measuring those that have none."""
        for compute in COMPUTE:
            if not self.readings[compute]:
                self.peak(compute)
        if not self.readings["read"]:
            self.read()
        if not self.readings["copy"]:
            self.copy()
        return {name: median(self.readings[name]) for name in (*COMPUTE, "read", "copy")}

    def _part(self, working_set: int | None) -> torch.Tensor:
        if working_set is None:
            return self._buffer
        least = max(_MIN_BYTES, 4 * 65536 * cpu.max_threads())
        return self._buffer[: min(max(working_set, least), self._buffer.numel()) // 128 * 128]

    @staticmethod
    def _repeats(part: torch.Tensor, working_set: int | None) -> int:
        if working_set is None:
            return 1
        cpu_probe.memory(part)
        return max(1, int(_HOT_SECONDS / cpu_probe.memory(part).seconds))

    @staticmethod
    def _times(part: torch.Tensor) -> int:
        return 3 if part.numel() > 64 << 20 else _REPEATS
