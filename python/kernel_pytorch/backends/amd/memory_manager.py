"""Memory of an AMD GPU, with what each tensor was made for."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.backends.accelerator import AcceleratorMemoryManager
from kernel_pytorch.backends.amd.amd_exceptions import ROCmMemoryError
from kernel_pytorch.backends.amd.levels import find_gpus
from kernel_pytorch.backends.base_exceptions import MemoryAllocationError
from kernel_pytorch.core.config import AMDConfig

__all__ = ["AMDMemoryManager", "AMDMemoryStats"]


@dataclass
class AMDMemoryStats:
    """Memory in MB (2^20 bytes)."""

    total_mb: float
    allocated_mb: float
    reserved_mb: float
    free_mb: float
    peak_allocated_mb: float
    num_allocations: int
    num_frees: int
    fragmentation_percent: float = 0.0
    """Of what torch's allocator holds, the share that is in no tensor; 0 in main memory."""


class AMDMemoryManager(AcceleratorMemoryManager):
    """Without a GPU, tensors are made in main memory."""

    def __init__(self, config: AMDConfig | None = None, device_id: int = 0) -> None:
        super().__init__(AMDConfig() if config is None else config, find_gpus().device(device_id))
        self.device_id = device_id
        self.safety_margin = 1.0 / self.config.max_memory_fraction
        self._defragmentations = 0
        self._live: Counter[str] = Counter()
        self._purposes: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}

    def _get_device(self) -> torch.device:
        return self.device

    def allocate_tensor(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        requires_grad: bool = False,
        pool_id: str | None = None,
        purpose: str = "unknown",
        check_oom: bool = True,
    ) -> torch.Tensor:
        """As of the base class; with ``check_oom`` ROCmMemoryError before anything is touched when
        more than ``config.max_memory_fraction`` of what is free would be needed."""
        size = self.estimate_tensor_size(shape, dtype)
        if check_oom and self.config.enable_oom_protection:
            needed = size * self.safety_margin
            if not self.check_memory_available(needed):
                self.clear_pool()
                self.empty_cache()
                if not self.check_memory_available(needed):
                    raise self._out_of_memory(needed)
        found = super().allocate_tensor(shape, dtype, requires_grad, pool_id, purpose)
        with self._lock:
            self._live[purpose] += size
            self._purposes[id(found)] = weakref.ref(found), purpose
        weakref.finalize(found.untyped_storage(), self._forget, id(found), purpose, size)
        return found

    def _forget(self, key: int, purpose: str, size: int) -> None:
        with self._lock:
            self._purposes.pop(key, None)
            self._live[purpose] -= size

    def _out_of_memory(self, required: float) -> ROCmMemoryError:
        return ROCmMemoryError("allocation", required / 2**20, self.available_bytes() / 2**20)

    def free_tensor(self, tensor: torch.Tensor) -> None:
        """Give the memory of a tensor of this manager back at once, whoever still holds it (it then
        has no elements). MemoryAllocationError for a tensor of somebody else's."""
        known = self._purposes.get(id(tensor))
        mine = known is not None and known[0]() is tensor
        if not mine:
            raise MemoryAllocationError("free", "the tensor was not allocated by this manager")
        tensor.detach_().resize_(0)
        tensor.untyped_storage().resize_(0)

    def get_memory_stats(self) -> dict[str, Any]:
        stats = self.get_amd_memory_stats()
        return {
            **self.base_stats().to_dict(),
            "device": str(self.device),
            "num_frees": stats.num_frees,
            "fragmentation_percent": stats.fragmentation_percent,
            "defrag_count": self._defragmentations,
        }

    def get_amd_memory_stats(self) -> AMDMemoryStats:
        """The memory now."""
        stats = self.base_stats()
        unused = 0.0
        if self.device.type != "cpu" and stats.reserved_bytes:
            unused = 100.0 * (1.0 - stats.allocated_bytes / stats.reserved_bytes)
        return AMDMemoryStats(
            total_mb=stats.total_mb,
            allocated_mb=stats.allocated_mb,
            reserved_mb=stats.reserved_mb,
            free_mb=stats.free_mb,
            peak_allocated_mb=stats.peak_allocated_mb,
            num_allocations=self._num_allocations,
            num_frees=self._num_frees,
            fragmentation_percent=unused,
        )

    def get_allocated_memory_mb(self) -> float:
        return self.base_stats().allocated_mb

    def get_free_memory_mb(self) -> float:
        return self.base_stats().free_mb

    def get_total_memory_mb(self) -> float:
        return self.base_stats().total_mb

    def get_allocation_summary(self) -> dict[str, int]:
        """Bytes of the living tensors of this manager by their purpose."""
        with self._lock:
            return {purpose: size for purpose, size in self._live.items() if size}

    def defragment(self) -> None:
        """Drop the pools, wait for the device, and give back the allocator's unused segments."""
        self.clear_pool()
        self.synchronize()
        self.empty_cache()
        self._defragmentations += 1

    def reset_peak_stats(self) -> None:
        """Count the peak from now on."""
        self.reset_peak_memory()
