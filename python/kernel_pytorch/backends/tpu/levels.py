"""What the levels do on a TPU."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends import strategies as s
from kernel_pytorch.backends.base_optimizer import BaseOptimizer
from kernel_pytorch.backends.base_types import OptimizationStrategy
from kernel_pytorch.backends.tpu import runtime as tpu

__all__ = ["TPULevels"]


class TPULevels(BaseOptimizer):
    """TPUs: placement, bf16 autocast (weights keep their dtype), torch.compile through XLA."""

    OPTIMIZER_NAME = "tpu"

    def __init__(self, config: Any = None, device: torch.device | str | None = None) -> None:
        super().__init__(config, device)
        self._absent = tpu.absent()

    def absent(self) -> str:
        return self._absent

    @property
    def device(self) -> torch.device:
        if self._absent:
            return torch.device("cpu")
        return self._device or tpu.runtime().device(0)

    def get_available_strategies(self) -> list[OptimizationStrategy]:
        return [
            s.EVAL_MODE,
            s.TRAIN_MODE,
            s.DEVICE,
            s.FROZEN_PARAMETERS,
            s.FOLD_CONV_BN,
            s.AUTOCAST,
            s.COMPILE,
        ]
