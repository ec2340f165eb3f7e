"""Attention on heads, without projections, as a module."""

from __future__ import annotations

import torch
from torch import nn

from kernel_pytorch.attention.functional import attention
from kernel_pytorch.attention.pattern import Pattern
from kernel_pytorch.core.errors import ArgumentError
from kernel_pytorch.ops.registry import SPECS

__all__ = ["FlashAttentionV3", "create_flash_attention_v3"]


class FlashAttentionV3(nn.Module):
    """``softmax(scale Q K^T) V`` of ``[B, H, S, D]``; self-attention (for keys of another length:
    :func:`kernel_pytorch.attention.attention`). ``scale`` None is ``1 / sqrt(D)``."""

    def __init__(
        self, causal: bool = False, dropout: float = 0.0, scale: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ArgumentError(f"FlashAttentionV3: dropout must lie in [0, 1), got {dropout}")
        self.causal = causal
        self.dropout = dropout
        self.scale = scale
        self._pattern = Pattern(is_causal=causal)

    @property
    def _cuda_kernel_available(self) -> bool:
        native = SPECS["attention_forward"].native_backends
        return "nvidia" in native and torch.cuda.is_available()

    def forward(
        self,
        Q: torch.Tensor,
        K: torch.Tensor,
        V: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The dtype and shape of ``Q`` (of ``V`` in the last dimension)."""
        if Q.dim() != 4:
            raise ArgumentError(
                f"FlashAttentionV3: Q must have 4 dimensions [B, H, S, D], got {list(Q.shape)}"
            )
        if K.shape != Q.shape or V.shape[:3] != Q.shape[:3]:
            raise ArgumentError(
                f"FlashAttentionV3: K and V must have the shape of Q {list(Q.shape)}, got "
                f"{list(K.shape)} and {list(V.shape)}"
            )
        out: torch.Tensor = attention(
            Q,
            K,
            V,
            pattern=self._pattern,
            attention_mask=attn_mask,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return out

    def extra_repr(self) -> str:
        return f"causal={self.causal}, dropout={self.dropout}, scale={self.scale}"


def create_flash_attention_v3(
    causal: bool = False, dropout: float = 0.0, scale: float | None = None
) -> FlashAttentionV3:
    """A :class:`FlashAttentionV3`."""
    return FlashAttentionV3(causal, dropout, scale)
