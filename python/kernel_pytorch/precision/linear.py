"""``NativeFP8Linear``: a linear layer that stores its weights in one byte each."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.ops.packing import dequantize
from kernel_pytorch.precision.numbers import FP8Dtype, fp8_dtype

__all__ = ["ACTIVATION_SCALINGS", "NativeFP8Linear"]

ACTIVATION_SCALINGS = ("none", "dynamic", "static")
_PACKED = {torch.float8_e4m3fn: "fp8_e4m3", torch.float8_e5m2: "fp8_e5m2"}
_MOMENTUM = 0.01


class NativeFP8Linear(nn.Module):
    """``x W^T + b`` with ``W`` in FP8, one scale for each output.

    ``activation_scaling``: "none" keeps activations as they are (``packed_linear``: the fastest and
    most exact on CPUs), "dynamic" rounds each row of them to FP8 with its own scale, "static" all
    with ``activation_scale`` (``fp8_gemm``; for static, calibrate first).

    The **trainable** form (as constructed) holds ``weight_master``; each forward pass in training
    mode rounds it afresh and gradients pass straight through the rounding, so that training sees
    what inference will compute. In evaluation the stored FP8 weight is used (made at ``eval()``,
    :meth:`sync_weights`, and when the master has changed). :meth:`freeze` makes the **inference**
    form: no master, one byte a weight; it still gives gradients of ``x`` and ``bias``.

    ``weight_scale`` ``[N]`` and ``activation_scale`` ``[]`` (float32) multiply the codes back.
    """

    bias: nn.Parameter | None
    weight_scale: torch.Tensor
    is_e5m2: torch.Tensor
    weight_amax: torch.Tensor
    activation_scale: torch.Tensor
    activation_amax: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        weight_format: FP8Dtype = FP8Dtype.E4M3,
        activation_format: FP8Dtype = FP8Dtype.E4M3,
        device: Any = None,
        *,
        dtype: torch.dtype | None = None,
        activation_scaling: str = "none",
    ) -> None:
        super().__init__()
        if activation_scaling not in ACTIVATION_SCALINGS:
            raise ValueError(
                f"NativeFP8Linear: argument 'activation_scaling' must be one of "
                f"{', '.join(ACTIVATION_SCALINGS)}, got {activation_scaling!r}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.weight_format, self.activation_format = weight_format, activation_format
        self.activation_scaling = activation_scaling
        self._weight_dtype = fp8_dtype(weight_format)
        self._activation_dtype = fp8_dtype(activation_format)
        self.dtype = dtype or torch.get_default_dtype()

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, device=device)

        made = torch.empty(out_features, in_features, device=device, dtype=self.dtype)
        self.weight_master: nn.Parameter | None = nn.Parameter(made)
        row = zeros(out_features).to(self.dtype)
        self.register_parameter("bias", nn.Parameter(row) if bias else None)
        self.register_buffer("stored", None, persistent=False)
        self.register_buffer("weight_scale", zeros(out_features) + 1, persistent=False)
        # Codes of both formats have the same dtype and shape once they are packed.
        e5m2 = self._weight_dtype == torch.float8_e5m2
        self.register_buffer("is_e5m2", torch.tensor(e5m2, device=device), persistent=False)
        self.register_buffer("weight_amax", zeros())
        self.register_buffer("activation_scale", zeros() + 1)
        self.register_buffer("activation_amax", zeros())
        self._synced = -1
        self.calibrating = False
        """Note the largest activations (and scale each row by itself) instead of using them."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights, as those of ``nn.Linear``."""
        if self.weight_master is None:
            raise RuntimeError("NativeFP8Linear: the inference form has no weights to reset")
        nn.init.kaiming_uniform_(self.weight_master, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0
            nn.init.uniform_(self.bias, -bound, bound)
        self.sync_weights()

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> NativeFP8Linear:
        """The trainable form of ``linear``; its parameters become this layer's own."""
        weight = linear.weight
        with torch.device("meta"):
            made = cls(
                linear.in_features,
                linear.out_features,
                linear.bias is not None,
                dtype=weight.dtype,
                **options,
            )
        made.weight_master = weight
        made.bias = linear.bias
        for name in ("weight_amax", "activation_amax"):
            setattr(made, name, torch.zeros((), device=weight.device))
        e5m2 = made._weight_dtype == torch.float8_e5m2
        made.is_e5m2 = torch.tensor(e5m2, device=weight.device)
        made.activation_scale = torch.ones((), device=weight.device)
        made.sync_weights()
        return made.train(linear.training)

    @property
    def is_frozen(self) -> bool:
        """Whether this is the inference form."""
        return self.weight_master is None

    @torch.no_grad()
    def sync_weights(self) -> None:
        """Make the stored FP8 weight from the master; nothing to do in the inference form."""
        master = self.weight_master
        if master is None:
            return
        weight = master.detach().contiguous()
        if self.activation_scaling == "none":
            # Packing needs no second copy: only which layout is read differs from the codes.
            made, scale = torch.ops.kpt.pack_weight(weight, _PACKED[self._weight_dtype])
        else:
            made, scale = torch.ops.kpt.quantize_fp8(
                weight, dtype=self._weight_dtype, granularity="row"
            )
        self.stored, self.weight_scale = made, scale
        if scale.numel():
            self.weight_amax = scale.amax() * torch.finfo(self._weight_dtype).max
        self._synced = master._version

    def freeze(self) -> NativeFP8Linear:
        """The inference form, in place: the master is gone. Returns this layer."""
        if self.weight_master is not None:
            self.sync_weights()
            self.weight_master = None
            self._non_persistent_buffers_set -= {"stored", "weight_scale", "is_e5m2"}
            if self.bias is not None:
                # A new one: the other may be another layer's too.
                self.bias = nn.Parameter(self.bias.detach(), requires_grad=False)
        return self

    def train(self, mode: bool = True) -> NativeFP8Linear:
        if self.training and not mode:
            self.sync_weights()
        super().train(mode)
        return self

    @property
    def weight_fp8(self) -> torch.Tensor:
        """The stored weight as codes ``[N, K]``."""
        if self.activation_scaling != "none":
            return self.stored
        from kernel_pytorch.ops.packing import unpack

        codes = unpack(
            self.stored, _PACKED[self._weight_dtype], self.out_features, self.in_features
        )
        return codes.contiguous().view(self._weight_dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The master, or what is stored, ``[N, K]`` in the layer's dtype (made at each use)."""
        return self._stored_weight(self.dtype) if self.weight_master is None else self.weight_master

    def _stored_weight(self, dtype: torch.dtype) -> torch.Tensor:
        if self.activation_scaling == "none":
            format = _PACKED[self._weight_dtype]
            return dequantize(self.stored, self.weight_scale, format, self.in_features, dtype)
        found: torch.Tensor = torch.ops.kpt.dequantize_fp8(
            self.stored, self.weight_scale, dtype=dtype
        )
        return found

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., K]`` to ``[..., N]``, in the dtype of ``input`` (float32, float16, bfloat16)."""
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"NativeFP8Linear: argument 'input' must have {self.in_features} features, got "
                f"shape {list(input.shape)}"
            )
        if self.training or self.calibrating:
            self._observe(input)
        if self._needs_grad(input):
            return self._forward_through(input)
        if (
            self.weight_master is not None
            and not torch.compiler.is_compiling()
            and self.weight_master._version != self._synced
        ):
            self.sync_weights()
        bias = self.bias
        if bias is not None and bias.dtype is not input.dtype:
            bias = bias.to(input.dtype)
        y: torch.Tensor
        if self.activation_scaling == "none":
            y = torch.ops.kpt.packed_linear.default(
                input,
                self.stored,
                self.weight_scale,
                self.out_features,
                _PACKED[self._weight_dtype],
                bias,
            )
            return y
        rows = input.reshape(-1, self.in_features)
        codes, scale = self._quantized(rows)
        y = torch.ops.kpt.fp8_gemm.default(
            codes, self.stored, scale, self.weight_scale, bias=bias, out_dtype=input.dtype
        )
        return y.view(*input.shape[:-1], self.out_features)

    def _needs_grad(self, input: torch.Tensor) -> bool:
        if self.weight_master is not None and self.training:
            return True  # the stored weight may be older than the master
        if self.weight_master is None and self.activation_scaling == "none":
            return False  # packed_linear has the gradients itself
        if not torch.is_grad_enabled():
            return False
        return input.requires_grad or any(p.requires_grad for p in self.parameters())

    def _quantized(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        static = self.activation_scaling == "static" and not self.calibrating
        codes, scale = torch.ops.kpt.quantize_fp8.default(
            rows,
            dtype=self._activation_dtype,
            granularity="tensor" if static else "row",
            scale=self.activation_scale if static else None,
        )
        return codes, scale

    def _forward_through(self, input: torch.Tensor) -> torch.Tensor:
        """The same numbers by PyTorch, with gradients straight through the rounding."""
        master = self.weight_master
        with torch.no_grad():
            if master is None:
                seen = self._stored_weight(input.dtype)
            else:
                codes, scale = torch.ops.kpt.quantize_fp8(
                    master.detach().contiguous(), dtype=self._weight_dtype, granularity="row"
                )
                seen = torch.ops.kpt.dequantize_fp8(codes, scale, dtype=input.dtype)
        weight = seen if master is None else _Through.apply(master, seen)
        x = input
        if self.activation_scaling != "none":
            with torch.no_grad():
                rows = input.detach().reshape(-1, self.in_features)
                codes, scale = self._quantized(rows)
                rounded = torch.ops.kpt.dequantize_fp8(codes, scale, dtype=input.dtype)
            x = _Through.apply(input, rounded.view(input.shape))
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def _observe(self, input: torch.Tensor) -> None:
        """The static scale of the activations' largest magnitude: of all so far while calibrating,
        else of a running mean."""
        if input.numel() == 0:
            return
        amax = input.detach().abs().amax().float()
        if self.calibrating:
            self.set_activation_amax(torch.maximum(self.activation_amax, amax))
            return
        first = self.activation_amax == 0
        running = torch.lerp(self.activation_amax, amax, _MOMENTUM)
        self.set_activation_amax(torch.where(first, amax, running))

    def set_activation_amax(self, amax: torch.Tensor) -> None:
        """Static scaling for activations up to ``amax`` (float32 ``[]``); larger ones saturate."""
        self.activation_amax.copy_(amax)
        scale = amax / torch.finfo(self._activation_dtype).max
        self.activation_scale.copy_(torch.where(amax > 0, scale.clamp_min(2.0**-126), 1.0))

    def get_fp8_info(self) -> dict[str, Any]:
        """Sizes, formats and scales."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "weight_format": self.weight_format.value,
            "activation_format": self.activation_format.value,
            "activation_scaling": self.activation_scaling,
            "weight_scale": self.weight_scale,
            "activation_scale": self.activation_scale,
            "weight_amax": self.weight_amax,
            "activation_amax": self.activation_amax,
            "fp8_native": True,
            "fp8_scaled_mm": self.activation_scaling != "none",
            "fp8_active": True,
            "frozen": self.is_frozen,
        }

    def _apply(self, fn: Any, recurse: bool = True) -> NativeFP8Linear:
        kept = {name: b for name, b in self._buffers.items() if b is not None}
        super()._apply(fn, recurse)
        # `.to(bfloat16)` and the like are about the master, the bias and activations.
        for name, before in kept.items():
            now = getattr(self, name)
            if now.dtype is not before.dtype:
                setattr(self, name, before.to(now.device))
        if self.weight_master is not None:
            self.dtype = self.weight_master.dtype
            self._synced = -1
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        has_master = f"{prefix}weight_master" in state_dict
        if has_master == self.is_frozen and f"{prefix}weight_amax" in state_dict:
            have = "trainable" if has_master else "inference"
            raise ValueError(
                f"NativeFP8Linear: the checkpoint has the {have} form of {prefix[:-1]!r}, this "
                f"layer is of the other (see freeze())"
            )
        found = state_dict.get(f"{prefix}is_e5m2")
        if found is not None and bool(found) != (self._weight_dtype == torch.float8_e5m2):
            raise ValueError(
                f"NativeFP8Linear: the checkpoint's {prefix[:-1]!r} is in the other FP8 format, "
                f"this layer in {self.weight_format.value}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._synced = -1

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, weight_format={self.weight_format.value}, "
            f"activation_scaling={self.activation_scaling}, frozen={self.is_frozen}"
        )


class _Through(torch.autograd.Function):
    """``seen`` in place of ``x``, with the gradient of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        ctx.dtype = x.dtype
        return seen.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0].to(ctx.dtype), None
