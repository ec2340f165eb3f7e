"""Memory of a TPU chip: pools of equal tensors, and what the runtime tells."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch

from kernel_pytorch.backends.base_exceptions import ConfigurationError
from kernel_pytorch.backends.base_memory_manager import (
    BaseMemoryStats,
    CPUMemoryManager,
    MemoryAllocationInfo,
)
from kernel_pytorch.backends.tpu import runtime as tpu
from kernel_pytorch.backends.tpu.tpu_exceptions import TPUMemoryPoolError, TPUOutOfMemoryError
from kernel_pytorch.core.config import TPUConfig
from kernel_pytorch.core.enums import TPUVersion
from kernel_pytorch.core.hardware_detector import tables

__all__ = ["TPUMemoryManager", "TPUMemoryStats"]


@dataclass
class TPUMemoryStats:
    """Bytes of a chip's memory; of main memory where there is no TPU."""

    allocated_memory: int
    cached_memory: int
    """In pools."""
    reserved_memory: int
    available_memory: int
    memory_fraction: float
    """Of the memory, what may be used."""
    active_tensors: int
    """Living tensors that this manager made."""
    peak_memory: int


class TPUMemoryManager(CPUMemoryManager):
    """Without a TPU, tensors are made in main memory."""

    layout_multiple = 8

    def __init__(self, config: TPUConfig | None = None) -> None:
        super().__init__(TPUConfig() if config is None else config)
        self._absent = tpu.absent()
        self.device = torch.device("cpu") if self._absent else tpu.runtime().device(0)
        self._numbers = itertools.count()
        self._sizes: dict[str, tuple[tuple[int, ...], torch.dtype, int]] = {}

    def _get_tpu_memory_gb(self) -> float:
        """Of one chip of the configuration's version (2^30 bytes): what the configuration says of
        v6e and v7, else the table; 0 for an unknown version."""
        version = self.config.version
        if version is TPUVersion.V6E and self.config.v6e_memory_gb is not None:
            return float(self.config.v6e_memory_gb)
        if version is TPUVersion.V7 and self.config.v7_memory_gb is not None:
            return float(self.config.v7_memory_gb)
        traits = tables.tpu_traits(version.value)
        return traits.memory_bytes / 2**30 if traits else 0.0

    def _told(self) -> tuple[int, int]:
        """(used, total) bytes of the chip."""
        found: tuple[int, int] | None = tpu.runtime().memory(0)
        return found or (self._own_bytes, int(self._get_tpu_memory_gb() * 2**30))

    def available_bytes(self) -> int:
        if self._absent:
            return super().available_bytes()
        used, total = self._told()
        return max(0, int(total * self.config.memory_fraction) - used)

    def base_stats(self) -> BaseMemoryStats:
        if self._absent:
            return super().base_stats()
        used, total = self._told()
        return BaseMemoryStats(
            allocated_bytes=used,
            reserved_bytes=used,
            total_bytes=total,
            free_bytes=total - used,
            peak_allocated_bytes=max(self._own_peak, used),
            num_allocations=self._num_allocations,
            pool_count=len(self._pools),
        )

    def _out_of_memory(self, required: float) -> TPUOutOfMemoryError:
        return TPUOutOfMemoryError(int(required), self.available_bytes())

    def _note(self, tensor: torch.Tensor, info: MemoryAllocationInfo) -> None:
        super()._note(tensor, info)
        oldest = time.time() - self.config.allocation_history_retention_seconds
        with self._lock:
            self._allocation_history[:] = [
                a for a in self._allocation_history if a.timestamp >= oldest
            ]

    def synchronize(self) -> None:
        if not self._absent:
            tpu.runtime().sync()

    def create_memory_pool(
        self,
        pool_size: int,
        tensor_size: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ) -> str:
        """A pool of ``pool_size`` tensors of one shape, made now; returns its name."""
        if pool_size < 1:
            raise ConfigurationError("pool_size", pool_size, "expected at least 1 tensor")
        name = f"pool_{next(self._numbers)}"
        made = [self.allocate_tensor(tensor_size, dtype, purpose=name) for _ in range(pool_size)]
        self._sizes[name] = tuple(tensor_size), dtype, pool_size
        for tensor in made:
            self.return_to_pool(tensor, name)
        return name

    def get_tensor_from_pool(self, pool_id: str) -> torch.Tensor | None:
        """A tensor of zeros that is nobody else's; None when all are lent.

        TPUMemoryPoolError for an unknown pool.
        """
        shape, dtype, _ = self._known(pool_id, "get")
        return self._from_pool(pool_id, shape, dtype)

    def return_tensor_to_pool(self, pool_id: str, tensor: torch.Tensor) -> bool:
        """Give a tensor back; False when the pool is full or unknown, or the tensor is not of its
        shape and dtype."""
        if pool_id not in self._sizes:
            return False
        shape, dtype, size = self._sizes[pool_id]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            return False
        if self.get_pool_stats(pool_id)["tensor_count"] >= size:
            return False
        self.return_to_pool(tensor, pool_id)
        return True

    def _known(self, pool_id: str, operation: str) -> tuple[tuple[int, ...], torch.dtype, int]:
        if pool_id not in self._sizes:
            known = ", ".join(self._sizes) or "none"
            raise TPUMemoryPoolError(pool_id, operation, f"no such pool; there are: {known}")
        return self._sizes[pool_id]

    def get_memory_stats(self) -> TPUMemoryStats:
        return self.get_tpu_memory_stats()

    def get_tpu_memory_stats(self) -> TPUMemoryStats:
        """The memory now."""
        stats = self.base_stats()
        return TPUMemoryStats(
            allocated_memory=stats.allocated_bytes,
            cached_memory=self.get_pool_stats()["total_bytes"],
            reserved_memory=stats.reserved_bytes,
            available_memory=self.available_bytes(),
            memory_fraction=self.config.memory_fraction,
            active_tensors=self._num_allocations - self._num_frees,
            peak_memory=stats.peak_allocated_bytes,
        )

    def optimize_memory_usage(self) -> None:
        """Drop what waits in the pools, and run what was recorded so that its inputs go."""
        self.clear_memory_pools()
        self.synchronize()

    def clear_memory_pools(self) -> None:
        """Remove all pools."""
        self.clear_pool()
        self._sizes.clear()

    def monitor_memory(
        self, interval: float | None = None, duration: float | None = None
    ) -> list[TPUMemoryStats]:
        """One sample every ``interval`` seconds for ``duration`` (the configuration's when None);
        the caller waits."""
        step = self.config.monitoring_interval_seconds if interval is None else interval
        length = self.config.monitoring_duration_seconds if duration is None else duration
        if not step > 0 or not length >= 0:
            raise ConfigurationError("interval", step, "expected more than 0 seconds")
        samples = [self.get_tpu_memory_stats()]
        end = time.monotonic() + length
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(step, left))
            samples.append(self.get_tpu_memory_stats())
        return samples

    def cleanup(self) -> None:
        super().cleanup()
        self._sizes.clear()
