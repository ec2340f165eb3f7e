"""Formulas of attention that its operators share: visibility, scores, the reference, eager."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import wide

__all__ = ["bias_of", "default_scale", "eager", "key_ranges", "reference", "sdpa", "visible"]


def default_scale(q: torch.Tensor) -> float:
    """1 / sqrt(head_dim); 1 without a head dimension, where every score is 0."""
    return float(max(1, q.shape[-1])) ** -0.5


def key_ranges(
    seqlen_q: int,
    seqlen_k: int,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    prefix_len: int = 0,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last + 1 of the keys that the position rules leave each query, int64 ``[Sq]``.

    Query i stands at position i + Sk - Sq of the keys (bottom-right alignment).
    """
    position = torch.arange(seqlen_q, device=device) + (seqlen_k - seqlen_q)
    begin = torch.zeros_like(position)
    end = torch.full_like(position, seqlen_k)
    # A limit beyond every distance is no limit; this also keeps the sums in range.
    farthest = seqlen_q + seqlen_k
    if is_causal:
        end = torch.minimum(end, (position + 1).clamp(min=prefix_len))
    if 0 <= window_right <= farthest:
        end = torch.minimum(end, position + window_right + 1)
    if 0 <= window_left <= farthest:
        begin = (position - window_left).clamp(min=0)
    return begin, end


def visible(
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    window_left: int,
    window_right: int,
    q_doc: torch.Tensor | None,
    k_doc: torch.Tensor | None,
    prefix_len: int,
) -> torch.Tensor | None:
    """True where a query sees a key, broadcastable to ``[B, Hq, Sq, Sk]``; None: everywhere."""
    terms: list[torch.Tensor] = []
    if is_causal or window_left >= 0 or window_right >= 0:
        begin, end = key_ranges(
            q.shape[2], k.shape[2], is_causal, window_left, window_right, prefix_len, q.device
        )
        key = torch.arange(k.shape[2], device=q.device)
        terms.append((key >= begin[:, None]) & (key < end[:, None]))
    if mask is not None:
        terms.append(mask if mask.dtype == torch.bool else mask > float("-inf"))
    if q_doc is not None and k_doc is not None:
        terms.append(q_doc[:, None, :, None] == k_doc[:, None, None, :])
    seen: torch.Tensor | None = None
    for term in terms:
        seen = term if seen is None else seen & term
    return seen


def bias_of(
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """What is added to the scores; finite where the mask is -inf, since those keys are hidden."""
    bias: torch.Tensor | None = None
    if mask is not None and mask.dtype != torch.bool:
        bias = mask.masked_fill(mask == float("-inf"), 0.0).to(dtype)
    if alibi_slopes is not None:
        position = torch.arange(q.shape[2], device=q.device) + (k.shape[2] - q.shape[2])
        distance = position[:, None] - torch.arange(k.shape[2], device=q.device)
        slopes = alibi_slopes.to(dtype)[..., :, None, None]
        alibi = -slopes * distance.abs().to(dtype)
        bias = alibi if bias is None else bias + alibi
    return bias


def _formula(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    q_doc: torch.Tensor | None = None,
    k_doc: torch.Tensor | None = None,
    prefix_len: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) with every step in the dtype of ``q``."""
    batch, heads = q.shape[:2]
    group = heads // max(1, k.shape[1])
    if group > 1:
        k = k.repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) * (default_scale(q) if scale is None else scale)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    bias = bias_of(q, k, mask, alibi_slopes, scores.dtype)
    if bias is not None:
        scores = scores + bias
    seen = visible(q, k, mask, is_causal, window_left, window_right, q_doc, k_doc, prefix_len)
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    logits = scores
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, heads, 1, 1).expand(batch, -1, scores.shape[2], -1)
        logits = torch.cat([scores, sink], dim=-1)
    # The largest score is taken off first: with every score at the lowest finite number, as masks
    # have it, the logarithm of their count would vanish in the lse.
    peak = logits.detach().new_zeros((*logits.shape[:-1], 1))
    if logits.shape[-1] > 0:
        peak = logits.detach().amax(dim=-1, keepdim=True)
        peak = peak.masked_fill(peak == float("-inf"), 0.0)
    rest = torch.logsumexp(logits - peak, dim=-1, keepdim=True)
    lse = (rest + peak).squeeze(-1)
    # A score of +inf has the weight exp(inf - inf): NaN, and so has the sum.
    lse = lse.masked_fill((scores == float("inf")).any(dim=-1), float("nan"))
    # A query with nothing to see has lse = -inf; its weights are exp(-inf - 0) = 0.
    p = torch.exp(scores - peak - rest.masked_fill(rest == float("-inf"), 0.0))
    return p @ v, lse


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula in float32 (float64 for float64 inputs), ``out`` rounded once."""
    out, lse = _formula(wide(q), wide(k), wide(v), **options)
    return out.to(q.dtype), lse


def sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    q_doc: torch.Tensor | None = None,
    k_doc: torch.Tensor | None = None,
    prefix_len: int = 0,
) -> torch.Tensor:
    """``out`` by ``F.scaled_dot_product_attention``, which has neither softcap nor sinks."""
    assert softcap == 0 and sinks is None
    square = q.shape[2] == k.shape[2] and prefix_len == 0 and mask is None
    plain = window_left < 0 and window_right < 0 and q_doc is None and alibi_slopes is None
    if plain and is_causal and square:
        full = None
    else:
        full = visible(q, k, mask, is_causal, window_left, window_right, q_doc, k_doc, prefix_len)
        bias = bias_of(q, k, mask, alibi_slopes, q.dtype)
        if bias is not None:
            full = bias if full is None else torch.where(full, bias, float("-inf"))
        if full is not None:
            full = full[(None,) * (4 - full.dim())]
        is_causal = False
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        full,
        is_causal=is_causal,
        scale=default_scale(q) if scale is None else scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def eager(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """What users write in the inputs' dtype: SDPA where it can, else the plain formula; SDPA
    returns no lse, so that always comes from the formula."""
    out, lse = _formula(q, k, v, **options)
    # SDPA does not define what it does with empty sizes.
    empty = 0 in (out.numel(), k.shape[2], q.shape[3])
    if not empty and not options.get("softcap") and options.get("sinks") is None:
        out = sdpa(q, k, v, **options)
    return out, lse.float()
