"""Where a model runs: the backend of the best device here."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends import get_backend
from kernel_pytorch.backends.base_backend import BaseBackend
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.management.base import BaseManager, ManagerType

__all__ = ["HardwareManager"]


class HardwareManager(BaseManager):
    """Holds the backend of the best device here."""

    MANAGER_TYPE = ManagerType.HARDWARE

    def __init__(self, config: KernelPyTorchConfig, backend: BaseBackend | None = None) -> None:
        super().__init__(config)
        self.backend = get_backend("auto", config) if backend is None else backend
        self.context.device = self.backend.device

    def _optimize(self, target: Any, **kwargs: Any) -> Any:
        """A model or tensors, on the device."""
        return self.backend.to_device(target)

    def get_memory_info(self) -> dict[str, Any]:
        """Bytes of the device's memory."""
        return self.backend.get_memory_stats()

    def get_distributed_info(self) -> dict[str, Any] | None:
        """backend, rank and world_size of torch's process group; None without one."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        return {
            "backend": torch.distributed.get_backend(),
            "rank": torch.distributed.get_rank(),
            "world_size": torch.distributed.get_world_size(),
        }

    def shutdown(self) -> None:
        self.backend.cleanup()
        super().shutdown()
