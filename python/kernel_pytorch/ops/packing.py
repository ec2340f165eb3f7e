"""The layouts of packed weights in plain PyTorch: what ``pack_weight`` writes, byte for byte.

``packed`` is ``[P, E]``: ``P = ceil(N / 64)`` panels of 64 outputs, each a table of dwords
``[G][64]``. A dword holds consecutive inputs of one output: one in fp32, two in bf16, four in the
8-bit formats, those in the order ``k, k+2, k+1, k+3``. ``G`` is the number of groups that hold all
inputs, rounded up to 16; what lies past ``N`` and ``K`` is zero. In int8 a row of 64 int32 follows
the table: the sum of the quantized weights of each output.

In int4 a dword holds eight: the first four in the low halves of its bytes, the others in the high
halves, both in the order of the 8-bit formats, as ``q = c - 8`` in two's complement. Zero points
follow the table, one byte for each group of inputs of each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = [
    "FORMATS",
    "GROUP_SIZES",
    "LARGEST_ZERO_POINT",
    "Quantized",
    "dequantize",
    "group_count",
    "pack",
    "packed_shape",
    "quantize",
    "scale_shape",
    "unpack",
]

GROUP_SIZES = (-1, 32, 64, 128)
"""Of int4: inputs that share a scale; -1: all of them."""
LARGEST_ZERO_POINT = 16

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
    groups: bool = False
    """Whether groups of inputs have scales of their own, and may have zero points."""
    codes: torch.dtype | None = None
    """The 8-bit floating point type whose codes are stored."""


FORMATS = {
    "bf16": Format(dtype=torch.bfloat16, per_dword=2),
    "fp32": Format(dtype=torch.float32, per_dword=1),
    "int8": Format(dtype=torch.int8, per_dword=4, largest=127.0, sums=True),
    "fp8_e4m3": Format(dtype=torch.uint8, per_dword=4, largest=448.0, codes=torch.float8_e4m3fn),
    "fp8_e5m2": Format(dtype=torch.uint8, per_dword=4, largest=57344.0, codes=torch.float8_e5m2),
    "int4": Format(dtype=torch.uint8, per_dword=8, largest=7.5, groups=True),
}


class Quantized(NamedTuple):
    """A weight ``[N, K]`` as a format stores it, before it is packed."""

    values: torch.Tensor
    """``[N, K]``: int8 ``q`` (int8 and int4), codes (fp8), or the weights themselves."""
    scale: torch.Tensor
    """``[N]``, int4: ``[groups, N]``."""
    zero_point: torch.Tensor | None = None
    """``[groups, N]`` uint8."""


def group_count(k: int, group_size: int) -> int:
    """Groups of ``k`` inputs."""
    return 1 if group_size == -1 else (k + group_size - 1) // group_size


def scale_shape(format: str, n: int, k: int, group_size: int = -1) -> tuple[int, ...]:
    """The shape of the scales of a weight ``[n, k]``."""
    return (group_count(k, group_size), n) if FORMATS[format].groups else (n,)


def packed_shape(format: str, n: int, k: int, zero_groups: int = 0) -> tuple[int, int]:
    """The shape of ``packed`` for a weight ``[n, k]`` with that many groups with zero points."""
    layout = FORMATS[format]
    unit = _DEPTH_UNIT * layout.per_dword
    rows = (k + unit - 1) // unit * _DEPTH_UNIT + (1 if layout.sums else 0)
    elements = rows * _COLUMNS * 4 // layout.dtype.itemsize + zero_groups * _COLUMNS
    return (n + _COLUMNS - 1) // _COLUMNS, elements


def quantize(
    weight: torch.Tensor,
    format: str,
    scale: torch.Tensor | None = None,
    group_size: int = -1,
    zero_point: torch.Tensor | None = None,
    symmetric: bool = True,
) -> Quantized:
    """What ``format`` stores of ``weight``."""
    layout = FORMATS[format]
    if not layout.largest:
        ones = torch.ones(weight.shape[0], dtype=torch.float32, device=weight.device)
        exact = weight.dtype == torch.float64
        return Quantized(weight if exact else weight.to(layout.dtype), ones)
    # In float32 whatever the weight is: the scale is part of the format.
    w = weight.float()
    if layout.groups:
        return _quantize_groups(w, scale, group_size, zero_point, symmetric)
    if scale is None:
        scale = _row_scale(w, layout.largest, keeps_nan=layout.codes is not None)
    scale = scale.float()
    ratio = (w / scale[:, None]).clamp(-layout.largest, layout.largest)
    if layout.codes is not None:
        return Quantized(ratio.to(layout.codes).view(torch.uint8), scale)
    return Quantized(ratio.round().nan_to_num(0.0).to(torch.int8), scale)


def _quantize_groups(
    w: torch.Tensor,
    scale: torch.Tensor | None,
    group_size: int,
    zero_point: torch.Tensor | None,
    symmetric: bool,
) -> Quantized:
    n, k = w.shape
    groups = group_count(k, group_size)
    size = k if group_size == -1 else group_size
    table = F.pad(w, (0, groups * size - k)).view(n, groups, size)
    if scale is None and symmetric:
        flat = table.reshape(n * groups, size)
        scale = _row_scale(flat, FORMATS["int4"].largest, keeps_nan=False).view(n, groups).t()
    elif scale is None:
        scale, zero_point = _affine(table)
    scale = scale.float().contiguous()
    zero = torch.full_like(scale, 8.0) if zero_point is None else zero_point.float()
    codes = (table / scale.t()[:, :, None] + zero.t()[:, :, None]).clamp(0, 15).round()
    values = codes.nan_to_num(8.0).to(torch.int8) - 8
    return Quantized(values.reshape(n, groups * size)[:, :k], scale, zero_point)


def _affine(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of groups ``[N, groups, size]``, each ``[groups, N]``."""
    with_zero = F.pad(table, (0, 1))
    low, high = with_zero.amin(-1), with_zero.amax(-1)
    scale = high / 15 - low / 15
    scale = torch.where(scale.isinf(), torch.nan, scale)
    scale = torch.where(scale == 0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, 15).nan_to_num(0.0)
    return scale.t(), zero.to(torch.uint8).t().contiguous()


def _row_scale(w: torch.Tensor, largest: float, keeps_nan: bool) -> torch.Tensor:
    magnitude = w.abs()
    if keeps_nan:
        magnitude = magnitude.nan_to_num(0.0, posinf=float("inf"))
    # amax has no identity: a column of zeros serves K = 0.
    amax = F.pad(magnitude, (0, 1)).amax(dim=1)
    scale = torch.where(amax.isinf(), torch.nan, amax / largest)
    return torch.where(amax == 0, 1.0, scale)


def pack(weight: Quantized, format: str) -> torch.Tensor:
    """A quantized weight as ``packed``."""
    layout = FORMATS[format]
    n, k = weight.values.shape
    panels = packed_shape(format, n, k)[0]
    unit = _DEPTH_UNIT * layout.per_dword
    rows = F.pad(weight.values, (0, -k % unit, 0, panels * _COLUMNS - n))
    tables = rows.reshape(panels, _COLUMNS, rows.shape[1] // layout.per_dword, layout.per_dword)
    packed = _dword_order(tables).transpose(1, 2)
    if layout.groups:
        # [..., 8] to four bytes: the second half of the inputs in the high bits.
        low, high = packed.view(torch.uint8).unflatten(-1, (2, 4)).unbind(-2)
        packed = (low & 15) | (high << 4)
    packed = packed.reshape(panels, packed.shape[1] * _COLUMNS * packed.shape[-1])
    if layout.sums:
        sums = rows.sum(dim=1, dtype=torch.int32).view(panels, _COLUMNS)
        return torch.cat([packed, sums.view(torch.int8)], dim=1)
    if weight.zero_point is not None:
        zeros = F.pad(weight.zero_point, (0, panels * _COLUMNS - n))
        zeros = zeros.unflatten(1, (panels, _COLUMNS)).transpose(0, 1)
        return torch.cat([packed, zeros.flatten(1)], dim=1)
    return packed


def unpack(packed: torch.Tensor, format: str, n: int, k: int) -> torch.Tensor:
    """The stored values ``[n, k]`` of ``packed``: the inverse of :func:`pack`."""
    layout = FORMATS[format]
    unit = _DEPTH_UNIT * layout.per_dword
    depth = (k + unit - 1) // unit * _DEPTH_UNIT
    per_dword = 4 if layout.groups else layout.per_dword
    table = packed[:, : depth * _COLUMNS * per_dword]
    dwords = table.reshape(packed.shape[0], depth, _COLUMNS, per_dword).transpose(1, 2)
    if layout.groups:
        halves = torch.cat([dwords & 15, dwords >> 4], dim=-1).to(torch.int8)
        dwords = torch.where(halves > 7, halves - 16, halves)
    rows = packed.shape[0] * _COLUMNS
    return _dword_order(dwords).reshape(rows, depth * layout.per_dword)[:n, :k]


def _dword_order(dwords: torch.Tensor) -> torch.Tensor:
    # k, k+2, k+1, k+3 is its own inverse.
    if dwords.shape[-1] < 4:
        return dwords
    return dwords.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].flatten(-2)


def _zero_points(packed: torch.Tensor, groups: int, n: int) -> torch.Tensor:
    tables = packed[:, packed.shape[1] - groups * _COLUMNS :].unflatten(1, (groups, _COLUMNS))
    return tables.transpose(0, 1).flatten(1)[:, :n]


def dequantize(
    packed: torch.Tensor,
    scale: torch.Tensor,
    format: str,
    k: int,
    dtype: torch.dtype,
    group_size: int = -1,
) -> torch.Tensor:
    """The weight ``[N, k]`` that ``packed`` stands for, in ``dtype``, rounded once."""
    layout = FORMATS[format]
    n = scale.shape[-1]
    stored = unpack(packed, format, n, k)
    if not layout.largest:
        return stored.to(dtype)
    if layout.codes is not None:
        stored = stored.contiguous().view(layout.codes)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    values, factor = stored.to(wide), scale.to(wide)
    if not layout.groups:
        return (values * factor[:, None]).to(dtype)
    groups = group_count(k, group_size)
    size = k if group_size == -1 else group_size
    if packed.shape[1] > packed_shape(format, n, k)[1]:
        shift = 8 - _zero_points(packed, groups, n).to(wide)
        values = values + shift.t().repeat_interleave(size, dim=1)[:, :k]
    return (values * factor.t().repeat_interleave(size, dim=1)[:, :k]).to(dtype)
