"""What the levels do on an AMD GPU."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends import strategies as s
from kernel_pytorch.backends.accelerator import AcceleratorOptimizer, Found
from kernel_pytorch.backends.base_types import OptimizationStrategy
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["AMDLevels", "find_gpus"]


def find_gpus() -> Found:
    """AMD's GPUs on this machine. torch calls their devices "cuda", too."""
    return Found.look(HardwareType.AMD_GPU, "amd", "AMD GPU", "cuda")


class AMDLevels(AcceleratorOptimizer):
    """AMD GPUs: placement, layout, 16-bit autocast (matrix cores), torch.compile."""

    OPTIMIZER_NAME = "amd"

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
            s.FUSED_OPTIMIZER,
            s.AUTOCAST,
            s.COMPILE,
        ]
