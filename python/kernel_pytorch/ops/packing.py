"""The layouts of packed weights in plain PyTorch: what ``pack_weight`` writes, byte for byte.

``packed`` is ``[P, E]``: ``P = ceil(N / 64)`` panels of 64 outputs, each a table of dwords
``[G][64]``. A dword holds consecutive inputs of one output: one in fp32, two in bf16, four in the
8-bit formats, those in the order ``k, k+2, k+1, k+3``. ``G`` is the number of groups that hold all
inputs, rounded up to 16; what lies past ``N`` and ``K`` is zero. In int8 a row of 64 int32 follows
the table: the sum of the quantized weights of each output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["FORMATS", "dequantize", "pack", "packed_shape", "quantize", "unpack"]

_COLUMNS = 64
_DEPTH_UNIT = 16


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one format stores a weight."""

    dtype: torch.dtype
    """Of ``packed``."""
    per_dword: int
    """Inputs in a dword."""
    largest: float = 0.0
    """The magnitude that a row's largest weight is scaled to; 0: weights are stored themselves."""
    sums: bool = False
    """Whether the sum of each output follows the table."""


FORMATS = {
    "bf16": Format(dtype=torch.bfloat16, per_dword=2),
    "fp32": Format(dtype=torch.float32, per_dword=1),
    "int8": Format(dtype=torch.int8, per_dword=4, largest=127.0, sums=True),
    "fp8_e4m3": Format(dtype=torch.uint8, per_dword=4, largest=448.0),
}


def packed_shape(format: str, n: int, k: int) -> tuple[int, int]:
    """The shape of ``packed`` for a weight ``[n, k]``."""
    layout = FORMATS[format]
    unit = _DEPTH_UNIT * layout.per_dword
    depth = (k + unit - 1) // unit * unit + (layout.per_dword if layout.sums else 0)
    return (n + _COLUMNS - 1) // _COLUMNS, depth * _COLUMNS


def quantize(
    weight: torch.Tensor, format: str, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stored values ``[N, K]`` (int8; fp8 as its codes, uint8) and the scale ``[N]``."""
    layout = FORMATS[format]
    if not layout.largest:
        ones = torch.ones(weight.shape[0], dtype=torch.float32, device=weight.device)
        exact = weight.dtype == torch.float64
        return (weight if exact else weight.to(layout.dtype)), ones
    # In float32 whatever the weight is: the scale is part of the format.
    w = weight.float()
    if scale is None:
        scale = _row_scale(w, layout.largest, keeps_nan=format == "fp8_e4m3")
    scale = scale.float()
    ratio = w / scale[:, None]
    if format == "int8":
        return ratio.clamp(-127, 127).round().nan_to_num(0.0).to(torch.int8), scale
    return ratio.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8), scale


def _row_scale(w: torch.Tensor, largest: float, keeps_nan: bool) -> torch.Tensor:
    magnitude = w.abs()
    if keeps_nan:
        magnitude = magnitude.nan_to_num(0.0, posinf=float("inf"))
    # amax has no identity: a column of zeros serves K = 0.
    amax = F.pad(magnitude, (0, 1)).amax(dim=1)
    scale = torch.where(amax.isinf(), torch.nan, amax / largest)
    return torch.where(amax == 0, 1.0, scale)


def pack(stored: torch.Tensor, format: str) -> torch.Tensor:
    """Stored values ``[N, K]`` to ``packed``."""
    layout = FORMATS[format]
    n, k = stored.shape
    panels, elements = packed_shape(format, n, k)
    unit = _DEPTH_UNIT * layout.per_dword
    rows = F.pad(stored, (0, -k % unit, 0, panels * _COLUMNS - n))
    tables = rows.reshape(panels, _COLUMNS, rows.shape[1] // layout.per_dword, layout.per_dword)
    packed = _dword_order(tables).transpose(1, 2)
    if not layout.sums:
        return packed.reshape(panels, elements)
    packed = packed.reshape(panels, elements - layout.per_dword * _COLUMNS)
    sums = rows.sum(dim=1, dtype=torch.int32).view(panels, _COLUMNS)
    return torch.cat([packed, sums.view(torch.int8)], dim=1)


def unpack(packed: torch.Tensor, format: str, n: int, k: int) -> torch.Tensor:
    """The stored values ``[n, k]`` of ``packed``: the inverse of :func:`pack`."""
    layout = FORMATS[format]
    unit = _DEPTH_UNIT * layout.per_dword
    groups = (k + unit - 1) // unit * _DEPTH_UNIT
    table = packed[:, : groups * _COLUMNS * layout.per_dword]
    dwords = table.reshape(packed.shape[0], groups, _COLUMNS, layout.per_dword).transpose(1, 2)
    rows = packed.shape[0] * _COLUMNS
    return _dword_order(dwords).reshape(rows, groups * layout.per_dword)[:n, :k]


def _dword_order(dwords: torch.Tensor) -> torch.Tensor:
    # k, k+2, k+1, k+3 is its own inverse.
    return dwords[..., [0, 2, 1, 3]] if dwords.shape[-1] == 4 else dwords


def dequantize(
    packed: torch.Tensor, scale: torch.Tensor, format: str, k: int, dtype: torch.dtype
) -> torch.Tensor:
    """The weight ``[N, k]`` that ``packed`` stands for, in ``dtype``, rounded once."""
    stored = unpack(packed, format, scale.shape[0], k)
    if not FORMATS[format].largest:
        return stored.to(dtype)
    if format == "fp8_e4m3":
        stored = stored.contiguous().view(torch.float8_e4m3fn)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (stored.to(wide) * scale.to(wide)[:, None]).to(dtype)
