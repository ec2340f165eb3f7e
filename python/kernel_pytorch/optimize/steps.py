"""The building blocks of replacements: one kernel call each, with its weights packed once.

A step is a module whose buffers are all it needs. ``dtype`` is what it computes in (inputs are cast
to it), ``emit`` what it returns; a graph of steps stays in the compute dtype in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kernel_pytorch import backends
from kernel_pytorch.optimize.policy import Policy

__all__ = [
    "ActivationStep",
    "AddNormStep",
    "AttentionStep",
    "LinearStep",
    "NormStep",
    "attention_mask",
]

assert backends  # imported for what it registers: torch.ops.kpt


def _frozen(tensor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    # A copy even when nothing is to be cast: a step must not change with the model's weights.
    return None if tensor is None else tensor.detach().to(dtype, copy=True).contiguous()


class LinearStep(nn.Module):
    """``activation(x W^T + b)`` through ``packed_linear`` (or ``linear_act`` for float16).

    Several weights are stacked by rows: fused projections, or gate and up of a gated pair.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None],
        policy: Policy,
        activation: str = "none",
        emit: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        weight = torch.cat([w.detach() for w in weights]) if len(weights) > 1 else weights[0]
        weight = weight.detach()
        self.dtype = policy.dtype_for(weight.dtype)
        self.emit = emit or self.dtype
        self.activation = activation
        self.out_features = weight.shape[0]
        self.format = policy.format_for(weight.dtype)
        self.compute = policy.compute
        self.group_size = policy.group_size
        bias = None
        if any(b is not None for b in biases):
            parts = [
                torch.zeros(w.shape[0], dtype=w.dtype) if b is None else b.detach()
                for w, b in zip(weights, biases)
            ]
            bias = torch.cat(parts)
        if self.format is None:
            self.register_buffer("packed", weight.contiguous().clone())
            self.register_buffer("scale", None)
        else:
            packed, scale = torch.ops.kpt.pack_weight(
                weight.contiguous(),
                self.format,
                group_size=policy.group_size,
                symmetric=policy.symmetric,
            )
            self.register_buffer("packed", packed)
            self.register_buffer("scale", scale)
        self.register_buffer("bias", _frozen(bias, self.dtype))

    @property
    def op(self) -> str:
        return "linear_act" if self.format is None else "packed_linear"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not self.dtype:
            x = x.to(self.dtype)
        if self.format is None:
            y = torch.ops.kpt.linear_act.default(x, self.packed, self.bias, self.activation)
        elif self.compute == "int8":
            y = torch.ops.kpt.packed_linear.default(
                x,
                self.packed,
                self.scale,
                self.out_features,
                self.format,
                self.bias,
                self.activation,
                self.group_size,
                compute="int8",
            )
        else:
            y = torch.ops.kpt.packed_linear.default(
                x,
                self.packed,
                self.scale,
                self.out_features,
                self.format,
                self.bias,
                self.activation,
                self.group_size,
            )
        return y if self.emit is self.dtype else y.to(self.emit)


class NormStep(nn.Module):
    """Layer norm ("layer_norm") or RMS norm ("rms_norm") over the last dimension."""

    def __init__(
        self,
        kind: str,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        dtype: torch.dtype,
        emit: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.op = kind
        self.eps = eps
        self.dtype = dtype
        self.emit = emit or dtype
        self.register_buffer("weight", _frozen(weight, dtype))
        self.register_buffer("bias", _frozen(bias, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not self.dtype:
            x = x.to(self.dtype)
        if self.kind == "layer_norm":
            y = torch.ops.kpt.layer_norm.default(x, self.weight, self.bias, self.eps)
        else:
            y = torch.ops.kpt.rms_norm.default(x, self.weight, self.eps)
        return y if self.emit is self.dtype else y.to(self.emit)


class AddNormStep(NormStep):
    """``s = x + residual``; returns (norm(s), s), one pass over memory."""

    def __init__(
        self,
        kind: str,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        dtype: torch.dtype,
        emit: torch.dtype | None = None,
    ) -> None:
        super().__init__(kind, weight, bias, eps, dtype, emit)
        self.op = f"add_{kind}"

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype is not self.dtype:
            x = x.to(self.dtype)
        if residual.dtype is not self.dtype:
            residual = residual.to(self.dtype)
        if x.shape != residual.shape:
            s = x + residual  # the kernel does not broadcast
            return super().forward(s), s if self.emit is self.dtype else s.to(self.emit)
        if self.kind == "layer_norm":
            y, s = torch.ops.kpt.add_layer_norm.default(
                x, residual, self.weight, self.bias, self.eps
            )
        else:
            y, s = torch.ops.kpt.add_rms_norm.default(x, residual, self.weight, self.eps)
        if self.emit is self.dtype:
            return y, s
        return y.to(self.emit), s.to(self.emit)


class ActivationStep(nn.Module):
    """An activation by itself, in the dtype of its input."""

    op = "act"

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.kpt.act.default(x, self.kind)


class AttentionStep(nn.Module):
    """``softmax(scale q k^T + mask) v`` for ``[B, H, S, D]``, with SDPA's arguments."""

    op = "attention_forward"

    def __init__(self, dtype: torch.dtype, emit: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.emit = emit or dtype

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if dropout_p:
            raise ValueError("attention: dropout_p must be 0, the kernel has no dropout")
        batched = query.dim() == 4
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        if is_causal and query.shape[2] != key.shape[2]:
            # SDPA aligns its causal mask top-left, the kernel bottom-right.
            sizes = (query.shape[2], key.shape[2])
            attn_mask = torch.ones(sizes, dtype=torch.bool, device=query.device).tril()
            is_causal = False
        out = torch.ops.kpt.attention_forward.default(
            query.to(self.dtype),
            key.to(self.dtype),
            value.to(self.dtype),
            mask=attention_mask(attn_mask, self.dtype),
            scale=scale,
            is_causal=is_causal,
        )[0]
        out = out if batched else out.squeeze(0)
        return out if self.emit is self.dtype else out.to(self.emit)


def attention_mask(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The mask as ``attention_forward`` takes it: four dimensions, boolean or of ``dtype``."""
    if mask is None:
        return None
    if mask.dtype is not torch.bool and mask.dtype is not dtype:
        # A row masked throughout by the wider dtype's lowest finite value averages the values; it
        # would be NaN if the cast made it -inf.
        cast = mask.to(dtype)
        mask = torch.where(mask.isneginf(), cast, cast.clamp_min(torch.finfo(dtype).min))
    while mask.dim() < 4:
        mask = mask.unsqueeze(0)
    return mask
