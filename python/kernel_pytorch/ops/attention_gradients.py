"""Gradients of attention: the formula, with every step written out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.attention import bias_of, default_scale, visible
from kernel_pytorch.ops.spec import Out

__all__ = ["backward_call", "eager", "gradient_like", "reference", "sinks_gradient"]

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def gradient_like(t: torch.Tensor) -> Out:
    """The gradient of ``t``, in its memory order."""
    return Out(t.shape, t.dtype, None if t.is_contiguous() or t.is_sparse else t)


def _sum_over_queries(
    weights: torch.Tensor, values: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """``weights^T @ values``, in which what is not finite reaches only the keys that see it."""
    if seen is None:
        return weights.mT @ values
    sums = weights.mT @ values.nan_to_num(0.0, 0.0, 0.0)
    sees = seen.expand(weights.shape).mT.to(sums.dtype)
    for special in (float("inf"), float("-inf")):
        reached = sees @ (values == special).to(sums.dtype) > 0
        sums = torch.where(reached, sums + special, sums)
    return sums.masked_fill(sees @ values.isnan().to(sums.dtype) > 0, float("nan"))


def _gradients(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
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
    grad_lse: torch.Tensor | None = None,
    nan_where_seen: bool = False,
) -> Gradients:
    """The gradients of q, k and v, with every step in the dtype of ``q``; sinks enter through
    ``lse`` and ``out`` alone. ``nan_where_seen``: NaN in ``grad_out`` reaches no hidden key, as
    0 * NaN in a product would."""
    batch, heads_kv = k.shape[:2]
    group = q.shape[1] // max(1, heads_kv)
    keys, values = k, v
    if group > 1:
        keys = k.repeat_interleave(group, dim=1)
        values = v.repeat_interleave(group, dim=1)
    factor = default_scale(q) if scale is None else scale
    scores = q @ keys.mT * factor
    slope = None
    if softcap > 0:
        capped = torch.tanh(scores / softcap)
        scores, slope = softcap * capped, 1 - capped * capped
    bias = bias_of(q, k, mask, alibi_slopes, scores.dtype)
    if bias is not None:
        scores = scores + bias
    seen = visible(q, k, mask, is_causal, window_left, window_right, q_doc, k_doc, prefix_len)
    p = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0.0).to(scores.dtype)[..., None])
    delta = (grad_out * out).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse.to(delta.dtype)
    ds = p * (grad_out @ values.mT - delta[..., None])
    if slope is not None:
        ds = ds * slope
    if seen is not None:
        p = p.masked_fill(~seen, 0.0)
        ds = ds.masked_fill(~seen, 0.0)
    grad_k = ds.mT @ q * factor
    grad_v = _sum_over_queries(p, grad_out, seen if nan_where_seen else None)
    if group > 1:
        grad_k = grad_k.view(batch, heads_kv, group, *grad_k.shape[2:]).sum(2)
        grad_v = grad_v.view(batch, heads_kv, group, *grad_v.shape[2:]).sum(2)
    return ds @ keys * factor, grad_k, grad_v


def reference(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    **options: Any,
) -> Gradients:
    """The formula in float32 (float64 for float64 inputs), rounded once."""
    found = _gradients(
        wide(grad_out), wide(q), wide(k), wide(v), wide(out), lse, **options, nan_where_seen=True
    )
    grad_q, grad_k, grad_v = (g.to(q.dtype) for g in found)
    return grad_q, grad_k, grad_v


def eager(*args: Any, **options: Any) -> Gradients:
    """The formula in the inputs' dtype."""
    return _gradients(*args, **options)


def backward_call(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    """``OpSpec.backward_call`` of ``attention_forward``: the gradients of q, k, v and sinks."""
    grad_out, grad_lse = grads
    out, lse = outputs
    options = {n: inputs[n] for n in inputs if n not in ("q", "k", "v")}
    found = torch.ops.kpt.attention_backward(
        grad_out, inputs["q"], inputs["k"], inputs["v"], out, lse, **options, grad_lse=grad_lse
    )
    result = dict(zip(("q", "k", "v"), found))
    if "sinks" in needed:
        result["sinks"] = sinks_gradient(grad_out, out, lse, inputs["sinks"], grad_lse)
    return result


def sinks_gradient(
    grad_out: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    sinks: torch.Tensor,
    grad_lse: torch.Tensor,
) -> torch.Tensor:
    """A sink is a key without a value: its weight exp(sink - lse) pulls at out and at lse.

    ``[Hq]``, from ``[B, Hq, Sq, Dv]`` gradients and outputs, ``[B, Hq, Sq]`` lse and gradients.
    """
    weight = torch.exp(sinks[None, :, None] - lse.masked_fill(lse == float("-inf"), 0.0))
    delta = (wide(grad_out) * wide(out)).sum(-1) - grad_lse
    return -(weight * delta).sum((0, 2)).to(sinks.dtype)
