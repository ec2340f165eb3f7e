"""What the levels do on an NVIDIA GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends import strategies as s
from kernel_pytorch.backends.accelerator import AcceleratorOptimizer, Found
from kernel_pytorch.backends.base_types import OptimizationLevel, OptimizationStrategy
from kernel_pytorch.core.enums import NVIDIAArchitecture
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["NVIDIAOptimizationResult", "NVIDIAOptimizer", "find_gpus"]


def find_gpus() -> Found:
    """NVIDIA's GPUs on this machine."""
    return Found.look(HardwareType.NVIDIA_GPU, "nvidia", "NVIDIA GPU", "cuda")


@dataclass
class NVIDIAOptimizationResult:
    """The result in its older form."""

    optimized_model: nn.Module
    optimization_level: str
    """As it was given."""
    optimizations_applied: list[str]
    compilation_time: float
    """Seconds that the whole optimisation took."""
    memory_stats: dict[str, Any] = field(default_factory=dict)
    device_info: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class NVIDIAOptimizer(AcceleratorOptimizer):
    """NVIDIA GPUs: placement, layout, TF32, 16-bit autocast, torch.compile."""

    OPTIMIZER_NAME = "nvidia"

    def __init__(
        self,
        config: Any = None,
        device: torch.device | str | None = None,
        found: Found | None = None,
    ) -> None:
        super().__init__(found or find_gpus(), config, device)

    def get_available_strategies(self) -> list[OptimizationStrategy]:
        return [
            s.EVAL_MODE,
            s.TRAIN_MODE,
            s.DEVICE,
            s.FROZEN_PARAMETERS,
            s.FOLD_CONV_BN,
            s.CHANNELS_LAST,
            s.CUDNN_BENCHMARK,
            s.TF32,
            s.FUSED_OPTIMIZER,
            s.AUTOCAST,
            s.COMPILE,
        ]

    @property
    def backend(self) -> Any:
        """The backend of the same GPUs."""
        from kernel_pytorch.backends.nvidia.nvidia_backend import NVIDIABackend

        return NVIDIABackend(self.config)

    def optimize_legacy(
        self,
        model: nn.Module,
        sample_inputs: torch.Tensor | None = None,
        optimization_level: str = "balanced",
        for_inference: bool = False,
    ) -> NVIDIAOptimizationResult:
        """:meth:`optimize` in its older form. An unknown level becomes "balanced", and the result's
        warnings say so (:meth:`optimize` raises)."""
        started = time.perf_counter()
        said = []
        try:
            level = OptimizationLevel(optimization_level)
        except ValueError as error:
            said.append(f"{error}; taking balanced")
            level = OptimizationLevel.BALANCED
        _, result = self.optimize(
            model,
            level,
            sample_inputs,
            for_inference=for_inference,
            for_training=not for_inference,
        )
        backend = self.backend
        return NVIDIAOptimizationResult(
            optimized_model=model,
            optimization_level=optimization_level,
            optimizations_applied=result.optimizations_applied,
            compilation_time=time.perf_counter() - started,
            memory_stats=backend.get_memory_stats(),
            device_info=backend.get_device_info_dict(),
            warnings=said + result.warnings,
        )

    def optimize_for_inference_legacy(
        self,
        model: nn.Module,
        sample_inputs: torch.Tensor | None = None,
        optimization_level: str = "aggressive",
    ) -> NVIDIAOptimizationResult:
        """:meth:`optimize_legacy` for evaluation."""
        return self.optimize_legacy(model, sample_inputs, optimization_level, True)

    def optimize_for_training_legacy(
        self,
        model: nn.Module,
        sample_inputs: torch.Tensor | None = None,
        optimization_level: str = "balanced",
    ) -> NVIDIAOptimizationResult:
        """:meth:`optimize_legacy` for training."""
        return self.optimize_legacy(model, sample_inputs, optimization_level, False)

    def get_optimization_recommendations(
        self, model: nn.Module, target_use: str = "inference"
    ) -> dict[str, Any]:
        """architecture, suggested_level (a word) and the strategies with what stands against
        each."""
        usable = self.found.usable
        architecture = usable[0].architecture if usable else ""
        newest = (NVIDIAArchitecture.HOPPER.value, NVIDIAArchitecture.BLACKWELL.value)
        if not usable:
            level = OptimizationLevel.CONSERVATIVE
        elif architecture in newest:
            level = OptimizationLevel.AGGRESSIVE
        else:
            level = OptimizationLevel.BALANCED
        return {
            "architecture": architecture or "none",
            "suggested_level": level.word,
            "absent": self.absent(),
            "strategies": super().get_optimization_recommendations(model, target_use),
        }
