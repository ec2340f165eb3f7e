"""``nn.MultiheadAttention`` with projections of another kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ConvertedMultiheadAttention", "can_convert"]


def can_convert(module: nn.MultiheadAttention) -> str:
    """Why a module stays as it is; "" when its projections can be replaced."""
    if not module._qkv_same_embed_dim:
        return "its query, key and value projections are of different widths"
    if module.bias_k is not None or module.add_zero_attn:
        return "it adds keys of its own"
    return ""


class ConvertedMultiheadAttention(nn.Module):
    """The same attention, called the same way; ``in_proj`` and ``out_proj`` are what ``make`` made
    of two ``nn.Linear``. Self-attention projects once, cross-attention in parts."""

    def __init__(
        self, module: nn.MultiheadAttention, make: Callable[[nn.Linear], nn.Module]
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = module.embed_dim, module.num_heads
        self.head_dim = module.head_dim
        self.batch_first, self.dropout = module.batch_first, module.dropout
        assert module.in_proj_weight is not None
        # What nn.TransformerEncoderLayer asks before it takes the weights past this module.
        self._qkv_same_embed_dim = True
        self.in_proj_bias = None
        stacked = _linear(module.in_proj_weight, module.in_proj_bias)
        self.in_proj = make(stacked.train(module.training))
        self.out_proj = make(_linear(module.out_proj.weight, module.out_proj.bias))
        self.training = module.training

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As ``nn.MultiheadAttention``: masks are true, or -inf, where attention is not allowed."""
        batched = query.dim() == 3
        same = query is key and key is value
        inputs = (query,) if same else (query, key, value)
        parts = [self._projected(x, batched) for x in inputs]
        width = self.embed_dim
        if same:
            q, k, v = parts[0].split(width, dim=-1)
        else:
            q, k, v = (p[..., n * width : (n + 1) * width] for n, p in enumerate(parts))
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in (q, k, v))
        mask = _merged(attn_mask, key_padding_mask, q, k)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            scores = scores if mask is None else scores + mask
            weights = F.dropout(torch.softmax(scores, -1), rate, rate > 0)
            out = weights @ v
        elif rate:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        else:
            out = torch.ops.kpt.attention_forward.default(q, k, v, mask=mask)[0]
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            out, weights = out[0], None if weights is None else weights[0]
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(-3)
        return out, weights

    def _projected(self, x: torch.Tensor, batched: bool) -> torch.Tensor:
        if not batched:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        projected: torch.Tensor = self.in_proj(x)
        return projected


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    made = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, weight.requires_grad) if _plain(weight) else weight
    made.bias = bias
    return made


def _plain(weight: torch.Tensor) -> bool:
    return not isinstance(weight, nn.Parameter)


def _merged(
    attn_mask: torch.Tensor | None,
    padding: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
) -> torch.Tensor | None:
    """Both masks as one to be added to the scores."""
    total: torch.Tensor | None = None
    for mask, is_padding in ((attn_mask, False), (padding, True)):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
        if is_padding:
            mask = mask.view(-1, 1, 1, k.shape[2])
        elif mask.dim() == 3:
            mask = mask.view(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        total = mask if total is None else total + mask
    return total if total is None else total.to(q.dtype)
