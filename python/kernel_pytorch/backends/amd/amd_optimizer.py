"""The AMD optimizer in its older form: ``optimize`` gives the model alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from kernel_pytorch.backends.amd.amd_exceptions import AMDOptimizationError
from kernel_pytorch.backends.amd.levels import AMDLevels
from kernel_pytorch.backends.base_types import OptimizationLevel, OptimizationResult
from kernel_pytorch.core.config import AMDConfig, KernelPyTorchConfig

__all__ = ["AMDOptimizer", "OptimizationResult"]


class AMDOptimizer:
    """:class:`~kernel_pytorch.backends.amd.levels.AMDLevels` with a configuration of AMD's part."""

    def __init__(self, config: AMDConfig | KernelPyTorchConfig | None = None) -> None:
        if isinstance(config, KernelPyTorchConfig):
            config = config.hardware.amd
        self.config = AMDConfig() if config is None else config
        self.levels = AMDLevels(self.config)
        self.last_result: OptimizationResult | None = None

    def optimize(self, model: nn.Module, level: str | None = None, sample_input: Any = None) -> Any:
        """``model`` with what ``level`` does in its mode (None: the configuration's level); returns
        it. :attr:`last_result` says what was done.

        AMDOptimizationError (a ValueError) for an unknown level.
        """
        wanted = self.config.optimization_level if level is None else level
        try:
            chosen = OptimizationLevel(wanted)
        except ValueError as error:
            raise AMDOptimizationError(str(wanted), str(error)) from error
        model, self.last_result = self.levels.optimize(model, chosen, sample_input)
        return model

    def get_optimization_summary(self) -> dict[str, Any]:
        """The settings, and what the last :meth:`optimize` did."""
        last = self.last_result
        done = last.optimizations_applied if last else []
        return {
            "optimization_level": self.config.optimization_level,
            "architecture": self.config.architecture.value,
            "matrix_cores_enabled": self.config.enable_matrix_cores,
            "mixed_precision": self.config.enable_mixed_precision,
            "operator_fusion": self.config.enable_operator_fusion,
            "fused_operations": last.metrics.get("fold_conv_bn", {}).get("pairs", 0) if last else 0,
            "optimizations_applied": list(done),
            "absent": self.levels.absent(),
        }
