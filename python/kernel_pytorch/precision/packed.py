"""Linear layers whose weights are stored in 8 or 4 bits, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.ops.packing import FORMATS, dequantize

__all__ = ["PackedLinear"]

_QUANTIZED = tuple(name for name, format in FORMATS.items() if format.largest)


class PackedLinear(nn.Module):
    """``x W^T + b`` with ``W`` as ``pack_weight`` stores it, through ``packed_linear``.

    Buffers: ``packed``, ``scale`` (float32; multiplies back), ``bias``: nothing in the original
    precision. Gradients reach ``x`` and ``bias`` only.
    """

    packed: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: str,
        *,
        group_size: int = -1,
        symmetric: bool = True,
        compute: str = "weight_only",
    ) -> None:
        """``weight`` ``[N, K]`` is quantized to ``format`` (fp8_e4m3, fp8_e5m2, int8, int4)."""
        super().__init__()
        if format not in _QUANTIZED:
            raise ValueError(
                f"PackedLinear: argument 'format' must be one of {', '.join(_QUANTIZED)}, got "
                f"{format!r}"
            )
        self.out_features, self.in_features = weight.shape
        self.format, self.group_size, self.compute = format, group_size, compute
        packed, scale = torch.ops.kpt.pack_weight(
            weight.detach().contiguous(), format, group_size=group_size, symmetric=symmetric
        )
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.dtype = weight.dtype
        kept = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)
        self.register_parameter("bias", kept)

    @property
    def weight(self) -> torch.Tensor:
        """The weight that is stored, ``[N, K]`` in the original's dtype; made anew at each use."""
        return dequantize(
            self.packed, self.scale, self.format, self.in_features, self.dtype, self.group_size
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., K]`` to ``[..., N]``, in the dtype of ``input``."""
        bias = self.bias
        if bias is not None and bias.dtype is not input.dtype:
            bias = bias.to(input.dtype)
        y: torch.Tensor = torch.ops.kpt.packed_linear.default(
            input,
            self.packed,
            self.scale,
            self.out_features,
            self.format,
            bias,
            "none",
            self.group_size,
            compute=self.compute,
        )
        return y

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        scale = self.scale
        super()._apply(fn, recurse)
        # `.to(bfloat16)` and the like are about activations: the format's scales are float32.
        self.scale = scale.to(self.packed.device)
        return self

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={self.format}"
        )
