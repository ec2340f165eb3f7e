"""What the levels do on an Intel GPU."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends import strategies as s
from kernel_pytorch.backends.accelerator import AcceleratorOptimizer, Found
from kernel_pytorch.backends.base_types import OptimizationStrategy
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["IntelLevels", "find_gpus"]


def find_gpus() -> Found:
    """Intel's GPUs on this machine."""
    return Found.look(HardwareType.INTEL_GPU, "intel", "Intel XPU", "xpu")


class IntelLevels(AcceleratorOptimizer):
    """Intel GPUs through torch's own XPU devices: placement, layout, autocast, torch.compile."""

    OPTIMIZER_NAME = "intel"

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
            s.FUSED_OPTIMIZER,
            s.AUTOCAST,
            s.COMPILE,
        ]
