"""Checks of arguments that the operators of attention over whole sequences share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["check_batch", "check_documents", "check_heads", "check_options", "wrong"]


def wrong(op: str, argument: str, expected: str, got: Any) -> ValueError:
    """The error for an argument whose value breaks a rule."""
    return ValueError(f"{op}: argument '{argument}' must {expected}, got {got}")


def check_heads(op: str, heads: int, heads_kv: int) -> None:
    """Query heads are a multiple of key heads."""
    if heads != heads_kv and (heads_kv == 0 or heads % heads_kv != 0):
        raise wrong(op, "q", f"have a multiple of k's {heads_kv} heads", f"{heads} heads")


def _check_mask(op: str, full: Sequence[int], mask: torch.Tensor) -> None:
    fits = mask.dim() <= 4 and all(
        have in (want, 1) for have, want in zip(reversed(mask.shape), reversed(full))
    )
    if not fits:
        raise wrong(
            op, "mask", f"broadcast to {list(full)} [B Hq Sq Sk]", f"shape {list(mask.shape)}"
        )


def check_documents(op: str, q_doc: torch.Tensor | None, k_doc: torch.Tensor | None) -> None:
    """Both or none, of one type."""
    if q_doc is None and k_doc is None:
        return
    if q_doc is None:
        raise wrong(op, "q_doc", "be given together with 'k_doc'", None)
    if k_doc is None:
        raise wrong(op, "k_doc", "be given together with 'q_doc'", None)
    if k_doc.dtype != q_doc.dtype:
        raise TypeError(
            f"{op}: argument 'k_doc' must have dtype {q_doc.dtype} like 'q_doc', got {k_doc.dtype}"
        )


def check_options(
    op: str,
    batch: int,
    heads: int,
    scale: float | None,
    window_left: int,
    window_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    prefix_len: int,
) -> None:
    """What holds for batches and for packed sequences alike."""
    if alibi_slopes is not None and list(alibi_slopes.shape) not in ([heads], [batch, heads]):
        raise wrong(
            op,
            "alibi_slopes",
            f"have shape [{heads}] or [{batch}, {heads}]",
            f"shape {list(alibi_slopes.shape)}",
        )
    if scale is not None and not math.isfinite(scale):
        raise wrong(op, "scale", "be finite", scale)
    if not 0.0 <= softcap < math.inf:
        raise wrong(op, "softcap", "be finite and not negative", softcap)
    if window_left < -1:
        raise wrong(op, "window_left", "be -1 (no limit) or more", window_left)
    if window_right < -1:
        raise wrong(op, "window_right", "be -1 (no limit) or more", window_right)
    if prefix_len < 0:
        raise wrong(op, "prefix_len", "not be negative", prefix_len)


def check_batch(
    op: str,
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    window_left: int,
    window_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    q_doc: torch.Tensor | None,
    k_doc: torch.Tensor | None,
    prefix_len: int,
) -> None:
    """The options of ``[B, H, S, D]`` tensors."""
    check_heads(op, q.shape[1], k.shape[1])
    if mask is not None:
        _check_mask(op, [*q.shape[:3], k.shape[2]], mask)
    check_documents(op, q_doc, k_doc)
    check_options(
        op,
        q.shape[0],
        q.shape[1],
        scale,
        window_left,
        window_right,
        softcap,
        alibi_slopes,
        prefix_len,
    )
