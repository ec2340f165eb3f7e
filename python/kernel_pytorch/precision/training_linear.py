"""``FP8LinearLayer``: a linear layer whose three products are FP8 GEMMs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from kernel_pytorch.precision.recipes import FP8Config

__all__ = ["DelayedScale", "FP8LinearLayer"]

_BLOCK = 128
_LEAST_SCALE = 2.0**-126


class Scaled(NamedTuple):
    """A tensor in FP8; the scale multiplies back."""

    codes: torch.Tensor
    scale: torch.Tensor


def _quantize(
    x: torch.Tensor,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None = None,
) -> Scaled:
    codes, scale = torch.ops.kpt.quantize_fp8.default(
        x, dtype=dtype, granularity=granularity, scale=scale
    )
    return Scaled(codes, scale)


def _gemm(a: Scaled, b: Scaled, out_dtype: torch.dtype, bias: Any = None) -> torch.Tensor:
    found: torch.Tensor = torch.ops.kpt.fp8_gemm.default(
        a.codes, b.codes, a.scale, b.scale, bias=bias, out_dtype=out_dtype
    )
    return found


def _transposed(x: Scaled) -> Scaled:
    """Of tensor or 128x128 scales: the same numbers, the other way round."""
    return Scaled(x.codes.t().contiguous(), x.scale.t() if x.scale.dim() else x.scale)


def _gemm_over_tokens(a: Scaled, b: Scaled, out: torch.Tensor) -> torch.Tensor:
    """``a b^T`` into ``out`` (zeros, float32) with 1x128 scales of both: for each 128 tokens the
    scales are those of rows, and their products are added up in float32."""
    for i in range(a.scale.shape[1]):
        part = slice(i * _BLOCK, (i + 1) * _BLOCK)
        out += _gemm(
            Scaled(a.codes[:, part], a.scale[:, i]),
            Scaled(b.codes[:, part], b.scale[:, i]),
            torch.float32,
        )
    return out


class DelayedScale(nn.Module):
    """A scale from the largest magnitudes of the last steps. Buffers: ``history`` (newest first)
    and ``amax``, what this step has shown so far; float32."""

    history: torch.Tensor
    amax: torch.Tensor
    overflows: torch.Tensor

    def __init__(self, length: int, margin: int, device: Any = None) -> None:
        super().__init__()
        self.margin = margin
        self.register_buffer("history", torch.zeros(length, device=device))
        self.register_buffer("amax", torch.zeros((), device=device))
        self.register_buffer("overflows", torch.zeros((), device=device))

    def scale(self, dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
        """What multiplies the codes back; while there is no history, that of ``x`` itself."""
        past = self.history.amax()
        now = x.detach().abs().amax().float() if x.numel() else past
        amax = torch.where(past > 0, past * 2.0**self.margin, now)
        scale = (amax / torch.finfo(dtype).max).clamp_min(_LEAST_SCALE)
        return torch.where((amax > 0) & amax.isfinite(), scale, 1.0)

    def observe(self, amax: torch.Tensor, largest: torch.Tensor) -> None:
        """Note ``amax``; more than ``largest``, what the scale can hold, has saturated."""
        self.overflows += (amax > largest).float()
        # An infinity would stay for the length of the history.
        self.amax.copy_(torch.maximum(self.amax, torch.where(amax.isfinite(), amax, 0.0)))

    def roll(self) -> None:
        """A step is over: what it showed counts from now on."""
        if self.history.shape[0] > 1:
            self.history[1:] = self.history[:-1].clone()
        self.history[0] = self.amax
        self.amax.zero_()


class FP8LinearLayer(nn.Linear):
    """``nn.Linear`` (parameters, initialisation, state dict) that computes in FP8, by a recipe.

    Forward ``y = x W^T + b``, and backward ``dx = g W`` and ``dW = g^T x``, are each one
    ``fp8_gemm`` with float32 accumulation (with blockwise scaling, ``dW`` is one for each 128
    tokens). Activations and weights are rounded to ``forward_format``, gradients to
    ``backward_format``; for a product over another dimension, rows and blocks are measured again in
    that direction. Between steps nothing is kept in FP8; a saved activation takes one byte a value.

    Delayed scales stay the same from one forward pass in training mode to the next one after a
    backward pass, so that recomputed activations (checkpointing) are the same bits. Until there is
    a history, tensors are scaled by themselves: no step is lost to finding scales. Beyond the scale
    values saturate, and the next scale has room for them.

    Evaluation computes in FP8 too.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        fp8_config: FP8Config | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.fp8_config = fp8_config or FP8Config()
        self._prepare(device)

    def _prepare(self, device: Any) -> None:
        config = self.fp8_config
        for name in ("input_amax", "weight_amax", "grad_amax"):
            self.register_buffer(name, torch.zeros((), device=device), persistent=False)
        self._passed_back = False
        if config.recipe.delayed:
            for name in ("input_scale", "weight_scale", "grad_scale"):
                setattr(self, name, DelayedScale(config.amax_history_len, config.margin, device))

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: FP8Config) -> FP8LinearLayer:
        """A layer with the parameters of ``linear`` itself."""
        has_bias = linear.bias is not None
        made = cls(linear.in_features, linear.out_features, has_bias, config, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        made._prepare(linear.weight.device)
        return made.train(linear.training)

    def update_fp8_scales(self) -> None:
        """A step is over: delayed scales move on. Happens by itself at the next forward pass after
        a backward one."""
        self._passed_back = False
        if self.fp8_config.recipe.delayed:
            for scale in (self.input_scale, self.weight_scale, self.grad_scale):
                scale.roll()

    @property
    def overflows(self) -> int:
        """How many tensors saturated under a delayed scale."""
        if not self.fp8_config.recipe.delayed:
            return 0
        scales = (self.input_scale, self.weight_scale, self.grad_scale)
        return int(sum(float(s.overflows) for s in scales))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]`` in the dtype of ``input`` (under
        autocast, in autocast's)."""
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"FP8LinearLayer: argument 'input' must have {self.in_features} features, got "
                f"shape {list(input.shape)}"
            )
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        if self.training and self._passed_back:
            self.update_fp8_scales()
        rows = input.reshape(-1, self.in_features)
        y: torch.Tensor = _ThreeProducts.apply(rows, self.weight, self.bias, self)
        return y.view(*input.shape[:-1], self.out_features)

    def _rounded(self, x: torch.Tensor, what: str, granularity: str) -> Scaled:
        """``x`` ("input", "weight" or "grad") in FP8."""
        config = self.fp8_config
        dtype = config.backward_dtype if what == "grad" else config.forward_dtype
        x = x.detach()
        x = x if x.is_contiguous() else x.contiguous()
        largest = torch.finfo(dtype).max
        noted = getattr(self, f"{what}_amax")
        if config.recipe.delayed:
            delayed = getattr(self, f"{what}_scale")
            given = delayed.scale(dtype, x)
            codes, amax = torch.ops.kpt.quantize_fp8.default(
                x, dtype=dtype, granularity="tensor", scale=given, return_amax=True
            )
            if self.training:
                delayed.observe(amax, given * largest)
                noted.copy_(torch.maximum(delayed.history.amax(), delayed.amax))
            # Saturation hides an infinity: it must reach the loss, not pass for a number.
            return Scaled(codes, torch.where(amax.isfinite(), given, torch.nan))
        made = _quantize(x, dtype, granularity)
        if self.training and made.scale.numel():
            noted.copy_(made.scale.amax() * largest)
        return made

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.fp8_config.recipe.name}"


_ALONG_ROWS = {"tensor": "tensor", "row": "row", "block": "block1x128"}
_OF_WEIGHTS = {"tensor": "tensor", "row": "row", "block": "block128x128"}


class _ThreeProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        layer: FP8LinearLayer,
    ) -> torch.Tensor:
        kind = layer.fp8_config.recipe.granularity
        x8 = layer._rounded(x, "input", _ALONG_ROWS[kind])
        w8 = layer._rounded(weight, "weight", _OF_WEIGHTS[kind])
        kept = x8
        if kind != "tensor" and ctx.needs_input_grad[1]:
            kept = _quantize(
                x.detach().t().contiguous(), layer.fp8_config.forward_dtype, _ALONG_ROWS[kind]
            )
        ctx.layer, ctx.kind = layer, kind
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        # The weight is no copy; its FP8 form is made again rather than kept. Only a tensor's scale
        # is kept for that: a delayed one may have moved on.
        scale = w8.scale if kind == "tensor" else None
        ctx.save_for_backward(kept.codes, kept.scale, weight, scale)
        return _gemm(x8, w8, x.dtype, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer, kind = ctx.layer, ctx.kind
        codes, scale, weight, weight_scale = ctx.saved_tensors
        g = grads[0].contiguous()
        forward, backward = layer.fp8_config.forward_dtype, layer.fp8_config.backward_dtype
        layer._passed_back = True
        g8 = layer._rounded(g, "grad", _ALONG_ROWS[kind])
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            w = weight.detach()
            if kind == "row":
                w8 = _quantize(w.t().contiguous(), forward, "row")
            else:
                made = _quantize(w.contiguous(), forward, _OF_WEIGHTS[kind], weight_scale)
                w8 = _transposed(made)
            grad_x = _gemm(g8, w8, ctx.x_dtype)
        if ctx.needs_input_grad[1]:
            if kind == "tensor":
                grad_w = _gemm(_transposed(g8), _transposed(Scaled(codes, scale)), torch.float32)
            else:
                g8 = _quantize(g.t().contiguous(), backward, _ALONG_ROWS[kind])
                if kind == "row":
                    grad_w = _gemm(g8, Scaled(codes, scale), torch.float32)
                else:
                    out = torch.zeros(weight.shape, dtype=torch.float32, device=g.device)
                    grad_w = _gemm_over_tokens(g8, Scaled(codes, scale), out)
            grad_w = grad_w.to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_b = g.float().sum(0).to(ctx.bias_dtype)
        return grad_x, grad_w, grad_b, None
