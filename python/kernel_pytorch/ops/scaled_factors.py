"""What the products of low-precision factors share: factors and their scales in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.quantization import expanded

__all__ = ["check_scale", "dequantized", "make_scale", "wide"]


def check_scale(op: str, name: str, scale: torch.Tensor, shapes: list[tuple[Any, ...]]) -> None:
    """Refuse a scale whose shape is none of ``shapes``."""
    if not any(scale.dim() == len(s) and tuple(scale.shape) == s for s in shapes):
        wanted = ", ".join(str(list(s)) for s in shapes)
        raise ValueError(
            f"{op}: argument '{name}' must have one of the shapes {wanted}, "
            f"got shape {list(scale.shape)}"
        )


def wide(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype to compute a reference in: float64 when one of the tensors is."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def dequantized(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``codes`` [R, K] times their scales: [], [R], [R, blocks] or [blocks, blocks]."""
    return codes.to(dtype) * expanded(scale.to(dtype), codes)


def make_scale(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Scales for a sample, within a factor of four of each other."""
    return torch.rand(shape, generator=generator) * 0.03 + 0.01
