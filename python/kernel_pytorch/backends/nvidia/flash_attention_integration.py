"""The attention module by its older NVIDIA names: self-attention that returns a pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.attention import Attention, AttentionConfig
from kernel_pytorch.backends.nvidia.nvidia_exceptions import FlashAttentionError
from kernel_pytorch.core.config import KernelPyTorchConfig

__all__ = ["FlashAttention3", "FlashAttention3Optimizer", "create_flash_attention_3"]


class FlashAttention3(Attention):
    """Self-attention over ``[batch, tokens, embed_dim]``, on whatever kernel the dispatch has.

    ValueError when ``embed_dim`` is not divisible by ``num_heads``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
        config: KernelPyTorchConfig | None = None,
    ) -> None:
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"FlashAttention3: argument 'embed_dim' must be divisible by num_heads, got "
                f"{embed_dim} and {num_heads}"
            )
        super().__init__(
            AttentionConfig(
                embed_dim, num_heads, causal=causal, bias=bias, attention_dropout=dropout
            )
        )
        self.kpt_config = config
        self.causal = causal
        self.dropout = dropout

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[B, S, embed_dim]``, and with ``return_attention_weights`` ``[B, H, S, S]``, else
        None."""
        found = super().forward(
            x,
            attention_mask=attention_mask,
            return_attention_weights=return_attention_weights,
        )
        return found if return_attention_weights else (found, None)


def create_flash_attention_3(
    embed_dim: int,
    num_heads: int,
    dropout: float = 0.0,
    bias: bool = True,
    config: KernelPyTorchConfig | None = None,
) -> FlashAttention3:
    """A :class:`FlashAttention3` without causality."""
    return FlashAttention3(embed_dim, num_heads, dropout, bias, config=config)


class _SelfAttention(nn.Module):
    """A converted ``nn.MultiheadAttention``: its call, its weights, for self-attention."""

    def __init__(self, inner: FlashAttention3, batch_first: bool) -> None:
        super().__init__()
        self.inner, self.batch_first = inner, batch_first

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = True,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        **refused: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if any(v is not None for v in refused.values()) or is_causal or query.dim() != 3:
            raise FlashAttentionError(
                "converted attention", f"takes batches without masks, got {sorted(refused)}"
            )
        q, k, v = (t if self.batch_first else t.transpose(0, 1) for t in (query, key, value))
        found = Attention.forward(self.inner, q, k, v, None, need_weights)
        out, weights = found if need_weights else (found, None)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return out if self.batch_first else out.transpose(0, 1), weights


class FlashAttention3Optimizer:
    """Puts the module in place of ``nn.MultiheadAttention``, with its weights."""

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config = config

    def convert_attention_layer(self, module: nn.Module) -> nn.Module:
        """A module that computes the same as ``module`` with the same weights, called in the same
        way without masks; ``module`` itself where it is no plain ``nn.MultiheadAttention``."""
        if type(module) is not nn.MultiheadAttention or not module._qkv_same_embed_dim:
            return module
        if module.bias_k is not None or module.add_zero_attn:
            return module
        inner = FlashAttention3(
            module.embed_dim,
            module.num_heads,
            module.dropout,
            module.in_proj_bias is not None,
            config=self.config,
        ).to(module.in_proj_weight)
        with torch.no_grad():
            weights = module.in_proj_weight.chunk(3)
            biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
            for projection, weight, bias in zip(
                (inner.q_proj, inner.k_proj, inner.v_proj), weights, biases
            ):
                projection.weight.copy_(weight)
                if bias is not None:
                    projection.bias.copy_(bias)
            inner.out_proj.weight.copy_(module.out_proj.weight)
            if module.out_proj.bias is not None and inner.out_proj.bias is not None:
                inner.out_proj.bias.copy_(module.out_proj.bias)
        return _SelfAttention(inner, module.batch_first).train(module.training)

    def optimize_model(self, model: nn.Module) -> tuple[nn.Module, int]:
        """Convert what can be inside ``model``, in place; returns it and how many. Layers whose own
        code reads the attention's weights (``nn.TransformerEncoderLayer``) stay as they are."""
        count = 0
        for parent in list(model.modules()):
            if isinstance(parent, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
                continue
            for name, child in list(parent.named_children()):
                made = self.convert_attention_layer(child)
                if made is not child:
                    setattr(parent, name, made)
                    count += 1
        return model, count
