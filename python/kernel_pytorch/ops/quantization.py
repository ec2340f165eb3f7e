"""What the quantization operators share: granularities, scales and their rounding in PyTorch.

Scales are float32 and multiply the stored value back: ``x = x_q * scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "BLOCK",
    "FP8",
    "GRANULARITIES",
    "amax_of",
    "check_fused",
    "check_scale",
    "expanded",
    "fp8_scale",
    "int8_scale",
    "largest",
    "quantize_eagerly",
    "quantize_unrounded",
    "random_words",
    "round_fp8",
    "round_fp8_stochastic",
    "round_int8",
    "scale_shape",
    "some_scale",
]

BLOCK = 128
GRANULARITIES = ("tensor", "row", "block1x128", "block128x128")
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

_LEAST_SCALE = 2.0**-126


def largest(dtype: torch.dtype) -> float:
    """The largest finite number of an fp8 dtype; 127 for int8, whose codes are symmetric."""
    return 127.0 if dtype == torch.int8 else torch.finfo(dtype).max


def scale_shape(shape: Sequence[Any], granularity: str) -> tuple[Any, ...]:
    """The shape of the scales of a tensor of ``shape``."""
    if granularity == "tensor":
        return ()
    if granularity == "row":
        return tuple(shape[:-1])
    blocks = (shape[-1] + BLOCK - 1) // BLOCK
    if granularity == "block1x128":
        return (*shape[:-1], blocks)
    return (*shape[:-2], (shape[-2] + BLOCK - 1) // BLOCK, blocks)


def check_scale(
    op: str, name: str, scale: torch.Tensor | None, x: torch.Tensor, granularity: str
) -> None:
    """Refuse ``granularity`` for a tensor with too few dimensions, and a scale of another shape."""
    if granularity == "block128x128" and x.dim() < 2:
        raise ValueError(
            f"{op}: argument 'x' must have at least 2 dimensions for granularity "
            f"'block128x128', got shape {list(x.shape)}"
        )
    _check_scale_shape(op, name, scale, x, x.shape, granularity)


def _check_scale_shape(
    op: str,
    name: str,
    scale: torch.Tensor | None,
    x: torch.Tensor,
    shape: Sequence[Any],
    granularity: str,
) -> None:
    if scale is None:
        return
    wanted = scale_shape(shape, granularity)
    if tuple(scale.shape) != wanted:
        raise ValueError(
            f"{op}: argument '{name}' must have shape {list(wanted)} for granularity "
            f"'{granularity}' of 'x' {list(x.shape)}, got {list(scale.shape)}"
        )


def _blocks(x: torch.Tensor, rows: bool) -> torch.Tensor:
    # [..., R, 128 or 1, C, 128], zeros past the end.
    down = -x.shape[-2] % BLOCK if rows else 0
    padded = F.pad(x, (0, -x.shape[-1] % BLOCK, 0, down) if rows else (0, -x.shape[-1] % BLOCK))
    padded = padded.unflatten(-1, (-1, BLOCK)) if padded.shape[-1] else padded[..., None]
    if not rows:
        return padded
    return padded.unflatten(-3, (-1, BLOCK)) if padded.shape[-3] else padded.unsqueeze(-3)


def _amax(x: torch.Tensor, granularity: str) -> torch.Tensor:
    # amax has no identity: a zero serves empty groups.
    if granularity == "tensor":
        return F.pad(x.reshape(-1), (0, 1)).amax()
    if granularity == "row":
        return F.pad(x, (0, 1)).amax(-1)
    if x.numel() == 0:
        return x.new_zeros(scale_shape(x.shape, granularity))
    if granularity == "block1x128":
        return _blocks(x, rows=False).amax(-1)
    return _blocks(x, rows=True).amax((-3, -1))


def amax_of(x: torch.Tensor, granularity: str) -> torch.Tensor:
    """The largest magnitude of each group of ``x``, NaN left out."""
    return _amax(x.abs().nan_to_num(0.0, posinf=float("inf")), granularity)


def expanded(scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``scale`` as it multiplies the elements of ``x``; its shape tells the granularity."""
    if scale.dim() == 0:
        return scale
    if scale.dim() == x.dim() - 1:
        return scale.unsqueeze(-1)
    columns = scale.repeat_interleave(BLOCK, -1)[..., : x.shape[-1]]
    if x.dim() == 1 or scale.shape[-2] == x.shape[-2]:
        return columns
    return columns.repeat_interleave(BLOCK, -2)[..., : x.shape[-2], :]


def _finished(scale: torch.Tensor, is_zero: torch.Tensor) -> torch.Tensor:
    scale = torch.where(scale.isfinite(), scale.clamp_min(_LEAST_SCALE), torch.nan)
    return torch.where(is_zero, 1.0, scale)


def fp8_scale(amax: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale of groups with largest magnitude ``amax``: ``amax / largest``, at least 2^-126; 1
    for zeros, NaN for infinity."""
    return _finished(amax / largest(dtype), amax == 0)


def int8_scale(
    x: torch.Tensor, granularity: str, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (int32) of each group of ``x``; NaN and 0 where the group has a NaN or
    an infinity."""
    if symmetric:
        amax = _amax(x.abs(), granularity)
        scale = _finished(amax / 127.0, amax == 0)
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    hi = _amax(x.clamp_min(0.0), granularity)
    lo = -_amax((-x).clamp_min(0.0), granularity)
    scale = _finished((hi * 0.5 - lo * 0.5) / 127.5, (hi == 0) & (lo == 0))
    zero = -128 - (lo * (1.0 / scale)).round()
    return scale, zero.where(scale.isfinite(), 0.0).to(torch.int32)


def round_fp8(scaled: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest numbers of ``dtype``, ties to even, saturating (infinities too), NaN kept."""
    return scaled.clamp(-largest(dtype), largest(dtype)).to(dtype)


def round_int8(
    scaled: torch.Tensor, zero_point: torch.Tensor | int = 0, lowest: int = -127
) -> torch.Tensor:
    """``round(scaled) + zero_point``, saturating; NaN becomes ``zero_point``."""
    lowest_before = lowest - zero_point
    highest_before = 127 - zero_point
    low = torch.as_tensor(lowest_before, dtype=scaled.dtype, device=scaled.device)
    high = torch.as_tensor(highest_before, dtype=scaled.dtype, device=scaled.device)
    whole = scaled.nan_to_num(0.0, posinf=float("inf"), neginf=float("-inf"))
    return (whole.clamp(low, high).round() + zero_point).to(torch.int8)


def random_words(count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Words 0 to ``count - 1`` of Philox4x32-10 with key ``seed``, as int64 below 2^32.

    Word ``4 c + j`` is word ``j`` of the block with counter ``c`` (Salmon, Moraes, Dror and Shaw,
    "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    """
    low = 0xFFFFFFFF
    counter = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)
    x = [counter & low, counter >> 32, torch.zeros_like(counter), torch.zeros_like(counter)]
    key = [seed & low, (seed >> 32) & low]
    for _ in range(10):
        # Products wrap as the unsigned ones do; a shift brings down the sign, which is masked.
        first, second = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [
            ((second >> 32) & low) ^ x[1] ^ key[0],
            second & low,
            ((first >> 32) & low) ^ x[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return torch.stack(x, dim=-1).reshape(-1)[:count]


def round_fp8_stochastic(scaled: torch.Tensor, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Each number (float32) rounded to one of its two neighbours in ``dtype``, up in magnitude when
    its distance from the lower one, over theirs, plus a random fraction reaches 1."""
    mantissa, min_exponent = (3, -6) if dtype == torch.float8_e4m3fn else (2, -14)
    bits = 23 - mantissa
    magnitude = scaled.abs().clamp_max(largest(dtype)).nan_to_num(0.0)
    exponent = (torch.frexp(magnitude).exponent - 1).clamp_min(min_exponent)
    fixed = torch.ldexp(magnitude, 23 - exponent).to(torch.int64)
    words = random_words(scaled.numel(), seed, scaled.device).view(scaled.shape)
    steps = (fixed + (words >> (32 - bits))) >> bits
    rounded = torch.ldexp(steps.float(), exponent - mantissa).copysign(scaled)
    return torch.where(scaled.isnan(), scaled, rounded).to(dtype)


def check_fused(
    op: str,
    x: torch.Tensor,
    shape: Sequence[Any],
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
) -> None:
    """The rules of what quantizes rows of ``shape`` that it has just made from ``x``."""
    if granularity == "block1x128" and dtype == torch.int8:
        raise ValueError(
            f"{op}: argument 'granularity' must be one of 'tensor', 'row' for int8, got "
            f"'{granularity}'"
        )
    if granularity == "tensor" and scale is None:
        raise ValueError(
            f"{op}: argument 'scale' must be given for granularity 'tensor': a row is quantized "
            f"before the next one is made, got None"
        )
    _check_scale_shape(op, "scale", scale, x, shape, granularity)


def quantize_unrounded(
    y: torch.Tensor, dtype: torch.dtype, granularity: str, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``y / scale``, saturating but not rounded to ``dtype`` (fp8 or int8), and the scale; in
    ``y``'s own precision."""
    if scale is not None:
        scale = scale.to(y.dtype, copy=True)
    elif dtype == torch.int8:
        scale = int8_scale(y, granularity, symmetric=True)[0]
    else:
        scale = fp8_scale(amax_of(y, granularity), dtype)
    scaled = (y * (1.0 / expanded(scale, y))).clamp(-largest(dtype), largest(dtype))
    return scaled.nan_to_num(0.0) if dtype == torch.int8 else scaled, scale


def quantize_eagerly(
    y: torch.Tensor, dtype: torch.dtype, granularity: str, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What PyTorch users write to quantize ``y``."""
    if y.numel() == 0 or (granularity == "block1x128" and y.shape[-1] % BLOCK):
        scaled, scale = quantize_unrounded(y.float(), dtype, granularity, scale)
    else:
        groups = y.unflatten(-1, (-1, BLOCK)) if granularity == "block1x128" else y
        if scale is None:
            scale = groups.abs().amax(dim=-1).float() / largest(dtype)
        wide = scale if granularity == "tensor" else scale[..., None]
        scaled = (groups.float() / wide).clamp(-largest(dtype), largest(dtype)).view(y.shape)
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scale


def some_scale(
    shape: Sequence[int], granularity: str, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Random positive scales for tests, small ones as well, so that some elements saturate."""
    scale = torch.rand(scale_shape(shape, granularity), generator=generator) * 0.03 + 0.002
    return scale.to(torch.float64 if dtype == torch.float64 else torch.float32)
