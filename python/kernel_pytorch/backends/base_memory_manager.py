"""Memory of a device: allocation with protection, pools of tensors, statistics, layout advice."""

from __future__ import annotations

import math
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_exceptions import (
    ConfigurationError,
    MemoryAllocationError,
    MemoryPoolError,
    OutOfMemoryError,
)
from kernel_pytorch.backends.system_memory import available_memory, total_memory

__all__ = [
    "BaseMemoryManager",
    "BaseMemoryStats",
    "CPUMemoryManager",
    "MemoryAllocationInfo",
    "is_out_of_memory",
]

_KEPT_ALLOCATIONS = 10_000


@dataclass
class MemoryAllocationInfo:
    """One allocation that a memory manager made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    size_bytes: int
    timestamp: float = field(default_factory=time.time)
    """Seconds since 1970."""
    pool_id: str | None = None
    purpose: str = "unknown"


@dataclass
class BaseMemoryStats:
    """Bytes of a device's memory at one moment."""

    allocated_bytes: int
    """In tensors."""
    reserved_bytes: int
    """Taken from the system: tensors and what the allocator keeps."""
    total_bytes: int
    free_bytes: int
    """What the system could still give."""
    peak_allocated_bytes: int
    num_allocations: int
    pool_count: int

    @property
    def allocated_mb(self) -> float:
        return self.allocated_bytes / 2**20

    @property
    def reserved_mb(self) -> float:
        return self.reserved_bytes / 2**20

    @property
    def total_mb(self) -> float:
        return self.total_bytes / 2**20

    @property
    def free_mb(self) -> float:
        return self.free_bytes / 2**20

    @property
    def peak_allocated_mb(self) -> float:
        return self.peak_allocated_bytes / 2**20

    @property
    def utilization(self) -> float:
        """Share of the total that is allocated, from 0 to 1."""
        return self.allocated_bytes / self.total_bytes if self.total_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Bytes, the same in units of 2^20, and the utilization."""
        names = ("allocated", "reserved", "total", "free", "peak_allocated")
        return {
            **{f"{n}_bytes": getattr(self, f"{n}_bytes") for n in names},
            **{f"{n}_mb": getattr(self, f"{n}_mb") for n in names},
            "num_allocations": self.num_allocations,
            "pool_count": self.pool_count,
            "utilization": self.utilization,
        }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised ``error`` for a lack of memory (the CPU's allocator has no type of its
    own for that)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "out of memory" in text or "can't allocate memory" in text
    )


class BaseMemoryManager(ABC):
    """What the memory managers of all backends share.

    Tensors that it made are counted for as long as they live (a finalizer of the storage takes them
    off). A pool holds tensors that were given back, by shape and dtype, for the next
    ``allocate_tensor`` of that pool.
    """

    layout_multiple = 8
    """Elements that the last dimension of a matrix should be a multiple of."""
    safety_margin = 1.2
    """What a check for free memory multiplies the need by."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self._lock = threading.RLock()
        self._pools: dict[str, dict[Any, list[torch.Tensor]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._allocation_history: list[MemoryAllocationInfo] = []
        self._num_allocations = self._num_frees = 0
        self._own_bytes = self._own_peak = 0

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it allocates."""

    @abstractmethod
    def base_stats(self) -> BaseMemoryStats:
        """The device's memory now."""

    def get_memory_stats(self) -> Any:
        """:meth:`base_stats`; some backends give it in an older form."""
        return self.base_stats()

    @abstractmethod
    def available_bytes(self) -> int:
        """What an allocation could take now."""

    def check_memory_available(self, required_bytes: float) -> bool:
        """Whether that much could be allocated now, by what the system says."""
        return required_bytes <= self.available_bytes()

    def estimate_tensor_size(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes of a dense tensor."""
        self._check_shape(shape)
        return math.prod(shape) * dtype.itemsize

    @staticmethod
    def _check_shape(shape: Any) -> None:
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise ConfigurationError("shape", tuple(shape), "sizes must be whole and not negative")

    def allocate_tensor(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        requires_grad: bool = False,
        pool_id: str | None = None,
        purpose: str = "unknown",
    ) -> torch.Tensor:
        """A tensor of zeros, from the pool when that has one of this shape and dtype.

        Raises OutOfMemoryError when it does not fit after the pools and caches were emptied.
        """
        size = self.estimate_tensor_size(shape, dtype)
        found = self._from_pool(pool_id, tuple(shape), dtype)
        if found is None:
            found = self._allocate(tuple(shape), dtype, size)
            self._note(
                found,
                MemoryAllocationInfo(tuple(shape), dtype, size, pool_id=pool_id, purpose=purpose),
            )
        return found.requires_grad_(requires_grad) if requires_grad else found

    def _from_pool(
        self, pool_id: str | None, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor | None:
        if pool_id is None:
            return None
        with self._lock:
            waiting = self._pools[pool_id][shape, dtype]
            return waiting.pop().zero_() if waiting else None

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, size: int) -> torch.Tensor:
        for last in (False, True):
            try:
                return torch.zeros(shape, dtype=dtype, device=self.device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise MemoryAllocationError(f"allocate {list(shape)}", str(error)) from error
                if last:
                    raise self._out_of_memory(size) from error
                self.clear_pool()
                self.empty_cache()
        raise AssertionError("unreachable")

    def _out_of_memory(self, required: float) -> OutOfMemoryError:
        return OutOfMemoryError(int(required), self.available_bytes(), str(self.device))

    def _too_large(self, required: float) -> OutOfMemoryError:
        """The same for what :meth:`_estimate_tensor_size` gave, in its unit."""
        return self._out_of_memory(required)

    def _note(self, tensor: torch.Tensor, info: MemoryAllocationInfo) -> None:
        with self._lock:
            self._num_allocations += 1
            self._own_bytes += info.size_bytes
            self._own_peak = max(self._own_peak, self._own_bytes)
            self._allocation_history.append(info)
            del self._allocation_history[:-_KEPT_ALLOCATIONS]
        # Of the storage: it lives as long as any view of the tensor.
        weakref.finalize(tensor.untyped_storage(), self._freed, info.size_bytes)

    def _freed(self, size: int) -> None:
        with self._lock:
            self._num_frees += 1
            self._own_bytes -= size

    def allocate_with_oom_protection(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        requires_grad: bool = False,
        safety_margin: float | None = None,
    ) -> torch.Tensor:
        """Allocate only when ``safety_margin`` times the need is free; else empty pools and caches,
        look again, and raise OutOfMemoryError before anything was touched."""
        margin = self.safety_margin if safety_margin is None else safety_margin
        if not margin >= 1:
            raise ConfigurationError("safety_margin", margin, "a margin is at least 1")
        required = self._estimate_tensor_size(shape, dtype) * margin
        if not self.check_memory_available(required):
            self.clear_pool()
            self.empty_cache()
            if not self.check_memory_available(required):
                raise self._too_large(required)
        return self.allocate_tensor(shape, dtype, requires_grad)

    def _estimate_tensor_size(self, shape: tuple[int, ...], dtype: torch.dtype) -> float:
        """In the unit that :meth:`check_memory_available` takes."""
        return self.estimate_tensor_size(shape, dtype)

    def return_to_pool(self, tensor: torch.Tensor, pool_id: str) -> None:
        """Keep ``tensor`` for the next allocation of its shape and dtype from this pool.

        Raises MemoryPoolError for a tensor on another device, or a view of a larger one.
        """
        if tensor.device.type != self.device.type:
            raise MemoryPoolError(
                pool_id, "return", f"the tensor is on {tensor.device}, the pool on {self.device}"
            )
        kept = tensor.detach()
        if not kept.is_contiguous() or kept.untyped_storage().nbytes() != kept.nbytes:
            raise MemoryPoolError(pool_id, "return", "the tensor is a view of a larger one")
        with self._lock:
            waiting = self._pools[pool_id][tuple(kept.shape), kept.dtype]
            if any(w.data_ptr() == kept.data_ptr() and kept.numel() for w in waiting):
                raise MemoryPoolError(pool_id, "return", "the tensor was returned before")
            waiting.append(kept)

    def clear_pool(self, pool_id: str | None = None) -> None:
        """Drop the tensors that wait in a pool (None: in all of them)."""
        with self._lock:
            if pool_id is None:
                self._pools.clear()
            else:
                self._pools.pop(pool_id, None)

    def get_pool_stats(self, pool_id: str | None = None) -> dict[str, Any]:
        """tensor_count and total_bytes of a pool (0 for one that does not exist), or
        total_pools, tensor_count, total_bytes and pool_details of all."""
        with self._lock:
            details = {
                name: {
                    "tensor_count": sum(len(w) for w in shapes.values()),
                    "total_bytes": sum(t.nbytes for w in shapes.values() for t in w),
                }
                for name, shapes in self._pools.items()
            }
        if pool_id is not None:
            return details.get(pool_id, {"tensor_count": 0, "total_bytes": 0})
        return {
            "total_pools": len(details),
            "tensor_count": sum(d["tensor_count"] for d in details.values()),
            "total_bytes": sum(d["total_bytes"] for d in details.values()),
            "pool_details": details,
        }

    def optimize_tensor_layout(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` dense, its last two dimensions padded with zeros to the multiple that the
        matrix units take (8 elements, 16 for 8-bit dtypes). A tensor of fewer than two dimensions
        is only made dense."""
        dense = tensor.contiguous()
        if dense.dim() < 2:
            return dense
        multiple = self.layout_multiple * (2 if dense.dtype.itemsize == 1 else 1)
        rows, columns = (-n % multiple for n in dense.shape[-2:])
        return nn.functional.pad(dense, (0, columns, 0, rows)) if rows or columns else dense

    def optimize_model_memory(self, model: nn.Module) -> dict[str, Any]:
        """What ``model`` takes, and what would make it take less; changes nothing."""
        parameters = sum(p.nbytes for p in model.parameters())
        buffers = sum(b.nbytes for b in model.buffers())
        gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        advice = []
        wide = sum(p.nbytes for p in model.parameters() if p.dtype == torch.float32)
        if wide:
            advice.append(f"weights in 16 bits would take {wide / 2**21:.1f} MB less")
        odd = [
            name
            for name, p in model.named_parameters()
            if p.dim() == 2 and any(n % self.layout_multiple for n in p.shape)
        ]
        if odd:
            advice.append(
                f"sizes that are no multiple of {self.layout_multiple} keep matrix units idle: "
                f"{', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}"
            )
        if gradients:
            advice.append(f"for inference, no_grad saves {gradients / 2**20:.1f} MB of gradients")
        return {
            "parameter_memory_mb": parameters / 2**20,
            "buffer_memory_mb": buffers / 2**20,
            "gradient_memory_mb": gradients / 2**20,
            "total_memory_mb": (parameters + buffers + gradients) / 2**20,
            "recommendations": advice,
        }

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for the device."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Give back what the allocator keeps."""

    def reset_peak_memory(self) -> None:
        """Count the peak from now on."""
        with self._lock:
            self._own_peak = self._own_bytes

    def cleanup(self) -> None:
        """Drop the pools and the history."""
        self.clear_pool()
        with self._lock:
            self._allocation_history.clear()
        self.empty_cache()


class CPUMemoryManager(BaseMemoryManager):
    """The memory of this machine, or of the container that the process runs in."""

    layout_multiple = 16
    device = torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing: a call on the CPU returns when it is done."""

    def empty_cache(self) -> None:
        """Nothing: torch keeps no memory of the CPU."""

    def available_bytes(self) -> int:
        return available_memory()

    def base_stats(self) -> BaseMemoryStats:
        total, free = total_memory(), available_memory()
        return BaseMemoryStats(
            allocated_bytes=self._own_bytes,
            reserved_bytes=max(0, total - free),
            total_bytes=total,
            free_bytes=free,
            peak_allocated_bytes=self._own_peak,
            num_allocations=self._num_allocations,
            pool_count=len(self._pools),
        )
