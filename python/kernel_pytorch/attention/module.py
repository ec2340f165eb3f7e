"""The attention module: projections, heads, a cache, and :func:`attention` between them."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from kernel_pytorch.attention.cache import KeyValueCache
from kernel_pytorch.attention.config import AttentionConfig, AttentionPatterns
from kernel_pytorch.attention.functional import Rules, attention, full_mask
from kernel_pytorch.attention.pattern import MaskMod, Pattern, ScoreMod
from kernel_pytorch.attention.score_mods import FlexAttentionScoreMods, named_score_mod

__all__ = ["Attention", "AttentionWithCache", "BaseAttention", "pattern_of"]


def pattern_of(config: AttentionConfig) -> Pattern:
    """The pattern a configuration asks for."""
    causal = Pattern(is_causal=config.causal or config.pattern is AttentionPatterns.CAUSAL)
    if config.pattern in (AttentionPatterns.SLIDING_WINDOW, AttentionPatterns.LOCAL):
        assert config.sliding_window_size is not None
        return causal & FlexAttentionScoreMods.sliding_window(config.sliding_window_size)
    return causal


class Attention(nn.Module):
    """Multi-head attention on ``[batch, tokens, embed_dim]``, of any pattern.

    ``score_mod`` (a name, a :class:`Pattern` or a function) and ``mask_mod`` come on top of the
    configured pattern; what runs for them says :func:`kernel_pytorch.attention.attention`.

    Parameters: ``q_proj``, ``k_proj``, ``v_proj`` (``embed_dim`` to heads x ``head_dim``) and
    ``out_proj``, initialised like ``nn.MultiheadAttention`` (Xavier, biases 0).
    """

    def __init__(
        self,
        config: AttentionConfig,
        score_mod: str | ScoreMod | None = None,
        use_block_mask: bool = True,
        compile_score_mod: bool = True,
        mask_mod: MaskMod | None = None,
    ) -> None:
        """``use_block_mask=False`` forgets masks after each call instead of keeping the newest."""
        super().__init__()
        if not isinstance(config, AttentionConfig):
            raise TypeError(
                f"{type(self).__name__}: argument 'config' must be an AttentionConfig, got "
                f"{type(config).__name__}"
            )
        self.config = config
        self.embed_dim, self.num_heads = config.embed_dim, config.num_heads
        assert config.head_dim is not None and config.num_kv_heads is not None
        self.head_dim, self.num_kv_heads = config.head_dim, config.num_kv_heads
        self.scale = float(self.head_dim) ** -0.5
        self._fp8_dtype = config.fp8_dtype
        self.use_block_mask = use_block_mask
        self.compile_score_mod = compile_score_mod and config.enable_compilation
        if isinstance(score_mod, str):
            score_mod = named_score_mod(score_mod, self.num_heads, config.sliding_window_size)
        self._rules = Rules(pattern_of(config), score_mod, mask_mod)
        if isinstance(score_mod, nn.Module):
            self.score_mod = score_mod  # its parameters are this module's
        inner, inner_kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        linear = functools.partial(nn.Linear, bias=config.bias, dtype=config.dtype)
        self.q_proj = linear(self.embed_dim, inner)
        self.k_proj = linear(self.embed_dim, inner_kv)
        self.v_proj = linear(self.embed_dim, inner_kv)
        self.out_proj = linear(inner, self.embed_dim)
        self._cache: KeyValueCache | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> Any:
        """``[B, Sq, embed_dim]``, with ``return_attention_weights`` also ``[B, H, Sq, Sk]``.

        ``key`` is ``query`` when not given, ``value`` is ``key``; ``attention_mask`` as in
        :func:`kernel_pytorch.attention.attention`, over all keys, cached ones too.
        """
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.dim() != 3 or x.shape[-1] != self.embed_dim:
                raise ValueError(
                    f"{type(self).__name__}: argument '{name}' must have shape [batch, tokens, "
                    f"{self.embed_dim}], got {list(x.shape)}"
                )
        batch, rows = query.shape[:2]
        q = self._shape_for_multihead(self.q_proj(query), batch, rows)
        k = self._shape_for_multihead(self.k_proj(key), key.shape[0], key.shape[1])
        v = self._shape_for_multihead(self.v_proj(value), value.shape[0], value.shape[1])
        if self._fp8_dtype is not None:
            q, k, v = (_through_fp8(t, self._fp8_dtype) for t in (q, k, v))
        if self._cache is not None:
            if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
                # What earlier calls put there has no graph: gradients would be partial.
                raise RuntimeError(
                    f"{type(self).__name__}: the cache is for inference: use torch.no_grad() or "
                    f"disable_cache()"
                )
            k, v = self._cache.append(k, v)
        weights = None
        if return_attention_weights:
            out, weights = self._attend(q, k, v, attention_mask, True)
        elif self.config.gradient_checkpointing and torch.is_grad_enabled():
            out = checkpoint(self._attend, q, k, v, attention_mask, use_reentrant=False)
        else:
            out = self._attend(q, k, v, attention_mask)
        out = self.out_proj(out.transpose(1, 2).reshape(batch, rows, -1))
        if self.config.residual_dropout:
            out = F.dropout(out, self.config.residual_dropout, self.training)
        return out if weights is None else (out, weights)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        return_weights: bool = False,
    ) -> Any:
        result = attention(
            q,
            k,
            v,
            rules=self._rules,
            attention_mask=mask,
            scale=self.scale,
            dropout=self.config.attention_dropout if self.training else 0.0,
            compile=self.compile_score_mod,
            return_weights=return_weights,
        )
        if not self.use_block_mask:
            self._rules.masks.clear()
        return result

    def _shape_for_multihead(self, t: torch.Tensor, batch: int, seq: int) -> torch.Tensor:
        """``[B, S, H * D]`` as ``[B, H, S, D]``, a view."""
        return t.view(batch, seq, -1, self.head_dim).transpose(1, 2)

    def _standard_attention_forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What this module's rules make of heads ``[B, H, S, D]``, by the formula."""
        full_mask(mask, q, k)
        out: torch.Tensor = attention(
            q, k, v, rules=self._rules, attention_mask=mask, scale=self.scale, return_weights=True
        )[0]
        return out

    @property
    def _block_mask_cache(self) -> dict[Any, Any]:
        return self._rules.masks

    def clear_block_mask_cache(self) -> None:
        """Forget the masks that were made of ``mask_mod``."""
        self._rules.masks.clear()

    def enable_cache(self, max_batch_size: int = 1, max_seq_len: int | None = None) -> None:
        """From now on, keys and values of each call are kept for the next ones."""
        self._cache = KeyValueCache(max_batch_size, max_seq_len or self.config.max_sequence_length)

    def disable_cache(self) -> None:
        """Stop keeping keys and values, and free them."""
        self._cache = None

    def clear_cache(self) -> None:
        """Start new sequences; the cache's memory stays."""
        if self._cache is not None:
            self._cache.clear()

    def get_attention_stats(self) -> dict[str, Any]:
        """Sizes, pattern, and what is meant to run (what did: ``kernel_pytorch.explain()``)."""
        flexible = self._rules.score_mod is not None
        return {
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "pattern": self.config.pattern.value,
            "backend": "flex_attention" if flexible else "attention_forward",
            "flex_attention_available": True,
            "using_flex_attention": flexible and not self._rules.refused,
            "cached_tokens": 0 if self._cache is None else self._cache.length,
            "cached_masks": len(self._rules.masks),
        }

    def extra_repr(self) -> str:
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, "
            f"pattern={self.config.pattern.value}"
        )


BaseAttention = Attention
AttentionWithCache = Attention


def _through_fp8(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x`` rounded to fp8, a scale for each row; the gradient passes straight through."""
    codes, scale = torch.ops.kpt.quantize_fp8(x.detach(), dtype=dtype, granularity="row")
    rounded = torch.ops.kpt.dequantize_fp8(codes, scale, dtype=x.dtype)
    return x + (rounded - x).detach() if x.requires_grad else rounded
