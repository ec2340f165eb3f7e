"""FP8 numbers: formats, scales, a quantized tensor.

Scales here are those of earlier versions: they *multiply to quantize* (``q = x * scale``,
``x = q / scale``). The operators' and the modules' scales multiply back; each is the inverse of the
other. Rounding is that of ``quantize_fp8``: nearest even, saturating, NaN kept.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "FP8_DTYPES_AVAILABLE",
    "FP8_NATIVE_AVAILABLE",
    "FP8_SCALED_MM_AVAILABLE",
    "FP8Dtype",
    "FP8QuantizedTensor",
    "FP8TensorSpec",
    "compute_fp8_scale",
    "dequantize_from_fp8",
    "fp8_dtype",
    "get_fp8_dtype",
    "get_fp8_info",
    "is_fp8_available",
    "quantize_to_fp8",
]

FP8_DTYPES_AVAILABLE = True
FP8_NATIVE_AVAILABLE = True
FP8_SCALED_MM_AVAILABLE = True
"""Every supported torch (2.11 or newer) has the dtypes, and ``fp8_gemm`` runs on every device."""

_SCALE_RANGE = (1e-12, 1e12)


class FP8Dtype(enum.Enum):
    """The formats of the OCP 8-bit floating point specification."""

    E4M3 = "e4m3fn"
    E5M2 = "e5m2"

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        return torch.float8_e4m3fn if self is FP8Dtype.E4M3 else torch.float8_e5m2

    @property
    def largest(self) -> float:
        """The largest finite number: 448 (E4M3), 57344 (E5M2)."""
        return float(torch.finfo(self.dtype).max)


def fp8_dtype(format: Any) -> torch.dtype:
    """The torch dtype of a format: an enumeration of this package, a dtype, or a name.

    Raises ValueError for anything else.
    """
    value = getattr(format, "value", format)
    names = {
        "e4m3fn": torch.float8_e4m3fn,
        "e4m3": torch.float8_e4m3fn,
        "fp8_e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
        "fp8_e5m2": torch.float8_e5m2,
    }
    found = value if value in names.values() else names.get(value)
    if found is None:
        raise ValueError(f"precision: an FP8 format must be 'e4m3' or 'e5m2', got {format!r}")
    return found


def get_fp8_dtype(format: FP8Dtype) -> torch.dtype | None:
    """The torch dtype of ``format``."""
    return fp8_dtype(format)


@dataclass(frozen=True)
class FP8TensorSpec:
    """A format with the scale and the largest magnitude of what is stored in it."""

    dtype: FP8Dtype
    scale: torch.Tensor
    amax: torch.Tensor

    @property
    def max_value(self) -> float:
        """The largest finite number of the format."""
        return self.dtype.largest


def compute_fp8_scale(
    tensor: torch.Tensor, format: FP8Dtype = FP8Dtype.E4M3, margin: int = 0
) -> torch.Tensor:
    """``largest / (amax * 2^margin)``, float32 ``[]``, within 1e-12 to 1e12.

    ``amax`` is the largest finite magnitude; 1 for a tensor without any but zeros.
    """
    magnitude = tensor.detach().abs().float()
    magnitude = torch.where(magnitude.isfinite(), magnitude, 0.0).reshape(-1)
    amax = magnitude.amax() if magnitude.numel() else magnitude.new_zeros(())
    scale = torch.finfo(fp8_dtype(format)).max / (amax * 2.0**margin)
    return torch.where(amax == 0, 1.0, scale.clamp(*_SCALE_RANGE))


def _granularity(tensor: torch.Tensor, scale: torch.Tensor) -> str:
    if scale.dim() == 0:
        return "tensor"
    if scale.dim() == tensor.dim() - 1:
        return "row"
    rows = tensor.dim() > 1 and scale.dim() == tensor.dim() and scale.shape[-2] != tensor.shape[-2]
    return "block128x128" if rows else "block1x128"


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError("precision: a scale must be positive and finite, got one that is not")
    return 1.0 / scale.float()


def quantize_to_fp8(
    tensor: torch.Tensor, scale: torch.Tensor, format: FP8Dtype = FP8Dtype.E4M3
) -> tuple[torch.Tensor, torch.Tensor]:
    """(``tensor * scale`` in ``format``, ``scale``).

    ``scale`` is ``[]``, or one for each row ``[...]``, for 128 neighbours in a row
    ``[..., ceil(K / 128)]`` or for squares of 128. ValueError for a scale of another shape, or one
    that is not positive.
    """
    codes, _ = torch.ops.kpt.quantize_fp8(
        tensor.detach(),
        dtype=fp8_dtype(format),
        granularity=_granularity(tensor, scale),
        scale=_inverse(scale),
    )
    return codes, scale


def dequantize_from_fp8(
    tensor: torch.Tensor, scale: torch.Tensor, output_dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """``tensor / scale`` in ``output_dtype``; ``scale`` as in :func:`quantize_to_fp8`."""
    found: torch.Tensor = torch.ops.kpt.dequantize_fp8(tensor, _inverse(scale), dtype=output_dtype)
    return found


class FP8QuantizedTensor:
    """Codes, their scale and format."""

    def __init__(self, data: torch.Tensor, scale: torch.Tensor, format: FP8Dtype) -> None:
        if data.dtype != fp8_dtype(format):
            raise TypeError(
                f"FP8QuantizedTensor: data must have dtype {fp8_dtype(format)}, got {data.dtype}"
            )
        self.data = data
        self.scale = scale
        self.format = format

    @classmethod
    def from_tensor(
        cls,
        tensor: torch.Tensor,
        format: FP8Dtype = FP8Dtype.E4M3,
        scale: torch.Tensor | None = None,
    ) -> FP8QuantizedTensor:
        """``tensor`` with its own scale, or a given one."""
        scale = compute_fp8_scale(tensor, format) if scale is None else scale
        return cls(*quantize_to_fp8(tensor, scale, format), format)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The values."""
        return dequantize_from_fp8(self.data, self.scale, dtype)

    @property
    def shape(self) -> torch.Size:
        """Of the data."""
        return self.data.shape

    @property
    def device(self) -> torch.device:
        """Of the data."""
        return self.data.device

    def to(self, device: Any) -> FP8QuantizedTensor:
        """A new one on ``device``."""
        return FP8QuantizedTensor(self.data.to(device), self.scale.to(device), self.format)


def is_fp8_available() -> bool:
    """Whether FP8 works here; it does wherever this package does."""
    return FP8_NATIVE_AVAILABLE


def get_fp8_info() -> dict[str, Any]:
    """What this machine and PyTorch offer for FP8."""
    return {
        "pytorch_version": torch.__version__,
        "fp8_native_available": FP8_NATIVE_AVAILABLE,
        "fp8_scaled_mm_available": FP8_SCALED_MM_AVAILABLE,
        "supported_formats": [f.value for f in FP8Dtype],
        "e4m3_max_value": FP8Dtype.E4M3.largest,
        "e5m2_max_value": FP8Dtype.E5M2.largest,
        "recommended_use": {"weights": "e4m3", "activations": "e4m3", "gradients": "e5m2"},
    }
