"""What is done to a model: the levels of the backend's optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from kernel_pytorch.backends.base_backend import BaseBackend
from kernel_pytorch.backends.base_optimizer import revert
from kernel_pytorch.backends.base_types import OptimizationResult
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.enums import PrecisionFormat
from kernel_pytorch.core.management.base import BaseManager, ManagerType
from kernel_pytorch.optimize.policy import POLICIES

__all__ = ["OptimizationManager"]


class OptimizationManager(BaseManager):
    """Runs the levels of the backend's optimizer."""

    MANAGER_TYPE = ManagerType.OPTIMIZATION

    def __init__(self, config: KernelPyTorchConfig, backend: BaseBackend) -> None:
        super().__init__(config)
        self.backend = backend
        self.context.device = backend.device
        self.last_result: OptimizationResult | None = None

    def _optimize(self, target: Any, **kwargs: Any) -> nn.Module:
        """``target`` through :meth:`BaseOptimizer.optimize`, which takes ``kwargs``."""
        model, self.last_result = self.backend.optimizer.optimize(target, **kwargs)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo what was done to ``model``; returns it."""
        return revert(model)

    def get_available_optimizations(self) -> dict[str, bool]:
        """The strategies of the backend by name: whether its device is there for them."""
        absent = bool(self.backend.absent())
        return {
            s.name: not (absent and "device" in s.requires)
            for s in self.backend.optimizer.get_available_strategies()
        }

    def get_applied_optimizations(self) -> list[str]:
        """What the last call really did."""
        return list(self.last_result.optimizations_applied) if self.last_result else []

    def get_precision_formats(self) -> list[str]:
        """Number formats that models can compute in here."""
        formats = [
            f.value for f in (PrecisionFormat.FP32, PrecisionFormat.FP16, PrecisionFormat.BF16)
        ]
        return [*formats, *(p for p in POLICIES if p not in ("keep", *formats))]
