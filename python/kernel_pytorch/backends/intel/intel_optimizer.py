"""The Intel optimizer with a fixed level, and rules for kernel configurations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_exceptions import ConfigurationError
from kernel_pytorch.backends.base_optimizer import BaseKernelOptimizer, as_level
from kernel_pytorch.backends.base_types import OptimizationLevel, OptimizationResult
from kernel_pytorch.backends.intel.levels import IntelLevels

__all__ = ["IntelKernelOptimizer", "IntelOptimizationLevel", "IntelOptimizer", "OptimizationResult"]

IntelOptimizationLevel = OptimizationLevel
_DEVICE_TYPES = ("auto", "xpu", "cpu")
# Tokens from which on the scores of a head no longer fit a core's caches beside the values.
_LONG_SEQUENCE = 4096
_CHUNK = 1024


def _device_type(value: str) -> str:
    if value not in _DEVICE_TYPES:
        raise ConfigurationError("device_type", value, f"expected one of {_DEVICE_TYPES}")
    return value


class IntelOptimizer:
    """:class:`~kernel_pytorch.backends.intel.levels.IntelLevels` at one level."""

    def __init__(
        self,
        optimization_level: OptimizationLevel | str = OptimizationLevel.O1,
        device_type: str = "auto",
    ) -> None:
        self.optimization_level = as_level(optimization_level, OptimizationLevel.O1)
        self.device_type = _device_type(device_type)
        self.levels = IntelLevels(device="cpu" if device_type == "cpu" else None)

    def optimize(
        self,
        model: nn.Module,
        sample_input: Any = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[nn.Module, OptimizationResult]:
        """``model`` with what the level does in its mode, and what was done."""
        return self.levels.optimize(model, self.optimization_level, sample_input, dtype)


class IntelKernelOptimizer(BaseKernelOptimizer):
    """Rules of thumb for sizes of tiles, as plain data: advice for who writes a kernel; the
    operators of this package choose for themselves."""

    OPTIMIZER_NAME = "intel_kernel"

    def __init__(self, device_type: str = "auto") -> None:
        super().__init__()
        self.device_type = _device_type(device_type)

    def get_optimal_gemm_config(
        self, m: int, n: int, k: int, dtype: torch.dtype = torch.float32
    ) -> dict[str, Any]:
        """algorithm, tile_m, tile_n, tile_k, and use_amx: tiles of 16 rows of 64 bytes (Intel's
        architecture manual, volume 1, chapter 18) where the dtype has them."""
        _sizes(m=m, n=n, k=k)
        amx = dtype in (torch.bfloat16, torch.int8, torch.uint8)
        tile_k = 64 // dtype.itemsize
        return {
            "algorithm": "amx" if amx else "vector",
            "use_amx": amx,
            "tile_m": min(32 if amx else 64, _round_up(m, 16)),
            "tile_n": min(32 if amx else 64, _round_up(n, 16)),
            "tile_k": min(8 * tile_k, _round_up(k, tile_k)),
        }

    def get_optimal_conv_config(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Any]:
        """algorithm ("winograd" for 3x3 in floating point, "gemm" for 1x1, else "direct"),
        memory_format and the channels' block."""
        _sizes(in_channels=in_channels, out_channels=out_channels)
        if all(n == 1 for n in kernel_size):
            algorithm = "gemm"
        elif tuple(kernel_size) == (3, 3) and dtype.is_floating_point:
            algorithm = "winograd"
        else:
            algorithm = "direct"
        return {
            "algorithm": algorithm,
            "memory_format": "channels_last",
            "channel_block": 64 // dtype.itemsize,
        }

    def get_optimal_attention_config(
        self, seq_len: int, head_dim: int, num_heads: int, dtype: torch.dtype = torch.float32
    ) -> dict[str, Any]:
        """algorithm: "fused", or "chunked" with chunk_size for long sequences."""
        _sizes(seq_len=seq_len, head_dim=head_dim, num_heads=num_heads)
        if seq_len > _LONG_SEQUENCE:
            return {"algorithm": "chunked", "chunk_size": _CHUNK, "use_amx": dtype.itemsize < 4}
        return {"algorithm": "fused", "use_amx": dtype.itemsize < 4}


def _sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigurationError(name, value, "expected at least 1")


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
