"""What the products of low-precision factors share: factors and their scales in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["BLOCK", "SCALE_RANKS", "blocks", "check_scale", "dequantized", "make_scale", "wide"]

BLOCK = 128
"""Consecutive k, and rows of the second factor, that share a block's scale."""
SCALE_RANKS = ("tensor", "row", "block")
"""What shares one scale, by the rank of the tensor of scales."""


def blocks(size: Any) -> Any:
    """How many blocks hold ``size`` elements."""
    return (size + BLOCK - 1) // BLOCK


def check_scale(op: str, name: str, scale: torch.Tensor, shapes: list[tuple[Any, ...]]) -> None:
    """Refuse a scale whose shape is none of ``shapes``."""
    if not any(scale.dim() == len(s) and tuple(scale.shape) == s for s in shapes):
        wanted = ", ".join(str(list(s)) for s in shapes)
        raise ValueError(
            f"{op}: argument '{name}' must have one of the shapes {wanted}, "
            f"got shape {list(scale.shape)}"
        )


def wide(*tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype to compute a reference in: float64 when one of the tensors is."""
    is_double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if is_double else torch.float32


def dequantized(
    codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, rows_per_scale: int = 1
) -> torch.Tensor:
    """``codes`` [R, K] times their scales, [] or [R] or one per ``rows_per_scale`` x 128 block."""
    factors = scale.to(dtype)
    if scale.dim() == 1:
        factors = factors[:, None]
    elif scale.dim() == 2:
        rows, columns = codes.shape
        factors = factors.repeat_interleave(rows_per_scale, 0)[:rows]
        factors = factors.repeat_interleave(BLOCK, 1)[:, :columns]
    return codes.to(dtype) * factors


def make_scale(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Scales for a sample, within a factor of four of each other."""
    return torch.rand(shape, generator=generator) * 0.03 + 0.01
