"""Attention by its formula, for any score and mask function: exact, and it stores the scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.attention.pattern import MaskMod, ScoreMod

__all__ = ["dense_mask", "evaluate"]


def _over_grid(
    function: Callable[..., Any],
    sizes: tuple[int, int, int, int],
    offset: int,
    device: torch.device,
    scores: torch.Tensor | None = None,
) -> torch.Tensor:
    """``function`` of every (batch, head, query, key), ``[B, H, Sq, Sk]``.

    Each call sees one element, as in FlexAttention: what it indexes or reduces means the same.
    """

    def call(*args: Any) -> torch.Tensor:
        result = function(*args)
        return result if isinstance(result, torch.Tensor) else torch.as_tensor(result)

    first = () if scores is None else (0,)
    mapped = call
    for place in (3, 2, 1, 0):
        dims = (*first, *(0 if i == place else None for i in range(4)))
        mapped = torch.vmap(mapped, in_dims=dims)
    indices = [torch.arange(n, device=device) for n in sizes]
    indices[2] = indices[2] + offset
    return mapped(*indices) if scores is None else mapped(scores, *indices)


def dense_mask(
    mask: MaskMod, sizes: tuple[int, int, int, int], device: torch.device
) -> torch.Tensor:
    """``mask`` as booleans that broadcast to ``[B, H, Sq, Sk]``: dimensions it does not look at
    have size 1. ``sizes`` are those four."""
    full = _over_grid(mask, sizes, sizes[3] - sizes[2], device)
    # What vmap did not see depend on an index it expands over it, with stride 0.
    for dim in range(4):
        if full.stride(dim) == 0 and full.shape[dim] > 1:
            full = full.narrow(dim, 0, 1)
    return full.to(torch.bool).contiguous()


def evaluate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    score_mod: ScoreMod | None,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out ``[B, Hq, Sq, Dv]``, weights ``[B, Hq, Sq, Sk]`` before dropout), computed in float32
    (float64 for float64 inputs); a query that sees no key gives 0. ``mask`` is boolean."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * scale
    if score_mod is not None and scores.numel() > 0:
        batch, heads, rows, keys = scores.shape
        sizes = (batch, heads, rows, keys)
        scores = _over_grid(score_mod, sizes, keys - rows, q.device, scores).to(wide)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if scores.shape[-1] == 0:
        weights = scores
    else:
        top = scores.detach().amax(-1, keepdim=True)
        p = torch.exp(scores - top.masked_fill(top == float("-inf"), 0.0))
        total = p.sum(-1, keepdim=True)
        weights = p / total.masked_fill(total == 0, 1.0)
    out = F.dropout(weights, dropout) @ v.to(wide) if dropout else weights @ v.to(wide)
    return out.to(q.dtype), weights.to(q.dtype)
