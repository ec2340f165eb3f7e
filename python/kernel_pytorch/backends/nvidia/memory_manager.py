"""Memory of an NVIDIA GPU; sizes in MB (2^20 bytes), as this class always gave them."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends.accelerator import AcceleratorMemoryManager
from kernel_pytorch.backends.nvidia.nvidia_exceptions import OutOfMemoryError
from kernel_pytorch.backends.nvidia.nvidia_optimizer import find_gpus

__all__ = ["NVIDIAMemoryManager"]


class NVIDIAMemoryManager(AcceleratorMemoryManager):
    """Without a GPU, tensors are made in main memory, and no GPU memory counts as available."""

    def __init__(self, config: Any = None, device: torch.device | str | None = None) -> None:
        super().__init__(config, find_gpus().device(0) if device is None else device)

    def get_memory_stats(self) -> dict[str, Any]:
        stats = self.base_stats()
        return {
            "device": str(self.device),
            "allocated": stats.allocated_bytes,
            "reserved": stats.reserved_bytes,
            "allocated_gb": stats.allocated_bytes / 2**30,
            "reserved_gb": stats.reserved_bytes / 2**30,
            "total_gb": stats.total_bytes / 2**30,
            "free_gb": stats.free_bytes / 2**30,
            "peak_allocated_gb": stats.peak_allocated_bytes / 2**30,
            "cuda_available": self.device.type == "cuda",
        }

    def check_memory_available(self, required_mb: float) -> bool:
        """Whether the GPU has ``required_mb`` free; False without one."""
        return self.device.type == "cuda" and required_mb * 2**20 <= self.available_bytes()

    def _estimate_tensor_size(self, shape: tuple[int, ...], dtype: torch.dtype) -> float:
        return self.estimate_tensor_size(shape, dtype) / 2**20

    def _out_of_memory(self, required: float, *, unit: int = 1) -> OutOfMemoryError:
        needed = int(required * unit)
        if self.device.type != "cuda":
            return OutOfMemoryError(
                f"Insufficient GPU memory: {needed} bytes are needed, and no GPU can be used",
                needed,
                0,
            )
        free = self.available_bytes()
        return OutOfMemoryError(
            f"Insufficient GPU memory: {needed} bytes are needed, {free} are free", needed, free
        )

    def _too_large(self, required: float) -> OutOfMemoryError:
        return self._out_of_memory(required, unit=2**20)

    def enable_memory_efficient_mode(self) -> None:
        """Drop the pools and torch's cache, and let torch's allocator grow segments in place (less
        fragmentation) from the next segment on."""
        self.clear_pool()
        self.empty_cache()
        if self.device.type == "cuda":
            torch.cuda.memory._set_allocator_settings("expandable_segments:True")
