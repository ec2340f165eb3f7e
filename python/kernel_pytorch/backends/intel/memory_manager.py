"""Memory of an Intel GPU."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends.accelerator import AcceleratorMemoryManager
from kernel_pytorch.backends.intel.intel_exceptions import XPUOutOfMemoryError
from kernel_pytorch.backends.intel.levels import find_gpus

__all__ = ["IntelMemoryManager"]

_POOL = "default"


class IntelMemoryManager(AcceleratorMemoryManager):
    """Without a GPU, tensors are made in main memory."""

    alignment = 64
    """Bytes that rows should be a multiple of."""

    def __init__(self, config: Any = None, device_id: int = 0) -> None:
        super().__init__(config, find_gpus().device(device_id))
        self._device_id = device_id

    def allocate_tensor(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        requires_grad: bool = False,
        pool_id: str | None = None,
        purpose: str = "unknown",
        use_pool: bool = True,
    ) -> torch.Tensor:
        """As of the base class; ``use_pool`` takes from the default pool when none is named."""
        chosen = pool_id or (_POOL if use_pool else None)
        return super().allocate_tensor(shape, dtype, requires_grad, chosen, purpose)

    def _out_of_memory(self, required: float) -> XPUOutOfMemoryError:
        return XPUOutOfMemoryError(int(required), self.available_bytes(), self._device_id)

    def get_memory_summary(self) -> str:
        """The memory now as a few lines of text."""
        stats = self.base_stats()
        where = str(self.device) if self.device.type == "xpu" else "absent: main memory instead"
        return (
            f"Intel XPU memory ({where})\n"
            f"  allocated {stats.allocated_mb:.1f} MB, peak {stats.peak_allocated_mb:.1f} MB\n"
            f"  free {stats.free_mb:.1f} MB of {stats.total_mb:.1f} MB"
        )
