"""What the operators on packed sequences share: checks, and the formulas on a padded batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import is_fake

from kernel_pytorch.ops import attention, attention_gradients
from kernel_pytorch.ops.attention_checks import (
    check_documents,
    check_heads,
    check_options,
    wrong,
)

__all__ = [
    "check_packed",
    "eager",
    "eager_gradients",
    "pairs_of",
    "reference",
    "reference_gradients",
]


def check_packed(
    op: str,
    q: torch.Tensor,
    k: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float | None,
    window_left: int,
    window_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    q_doc: torch.Tensor | None,
    k_doc: torch.Tensor | None,
    prefix_len: int,
) -> None:
    """All that can be said without reading lengths, which are data."""
    if cu_seqlens_q.shape[0] < 1:
        raise wrong(op, "cu_seqlens_q", "have at least one element", "shape [0]")
    for name, longest in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        if longest < 0:
            raise wrong(op, name, "not be negative", longest)
    check_heads(op, q.shape[1], k.shape[1])
    check_documents(op, q_doc, k_doc)
    check_options(
        op,
        cu_seqlens_q.shape[0] - 1,
        q.shape[1],
        scale,
        window_left,
        window_right,
        softcap,
        alibi_slopes,
        prefix_len,
    )


def _check_lengths(op: str, argument: str, cu: torch.Tensor, total: int, longest: int) -> None:
    """As the kernels check them."""
    ends = [int(end) for end in cu.tolist()]
    if ends[0] != 0:
        raise wrong(op, argument, "start with 0", ends[0])
    for before, after in itertools.pairwise(ends):
        if after < before:
            raise wrong(op, argument, "never fall", f"{after} after {before}")
        if after - before > longest:
            which = argument.replace("cu_seqlens", "max_seqlen")
            expected = f"be at least the longest sequence's {after - before}"
            raise wrong(op, which, expected, longest)
    if ends[-1] != total:
        raise wrong(op, argument, f"end with the number of rows, {total}", ends[-1])


class _Padding:
    """Where the rows of packed sequences lie in a padded batch; by tensor operations alone, so that
    it can be traced."""

    def __init__(self, op: str, argument: str, cu: torch.Tensor, total: int, longest: int) -> None:
        if not is_fake(cu):
            _check_lengths(op, argument, cu, total, longest)
        cu = cu.long()
        place = torch.arange(longest, device=cu.device)
        self.lengths = cu.diff()
        self.there = place < self.lengths[:, None]
        self._row = torch.where(self.there, cu[:-1, None] + place, total)
        rows = torch.arange(total, device=cu.device)
        self._sequence = torch.searchsorted(cu, rows, right=True) - 1
        self._place = rows - cu[self._sequence]

    def pad(self, rows: torch.Tensor) -> torch.Tensor:
        """``[T, H, D]`` as ``[N, H, longest, D]``, with zeros where there is no row."""
        zero = rows.new_zeros(1, *rows.shape[1:])
        return torch.cat([rows, zero])[self._row].transpose(1, 2)

    def pad_heads(self, values: torch.Tensor) -> torch.Tensor:
        """``[H, T]`` as ``[N, H, longest]``."""
        return self.pad(values.t()[..., None])[..., 0]

    def packed(self, batch: torch.Tensor) -> torch.Tensor:
        """``[N, H, longest, ...]`` as ``[T, H, ...]``."""
        return batch[self._sequence, :, self._place]


def _padded_options(
    queries: _Padding,
    keys: _Padding,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    alibi_slopes: torch.Tensor | None = None,
    q_doc: torch.Tensor | None = None,
    k_doc: torch.Tensor | None = None,
    prefix_len: int = 0,
    grad_lse: torch.Tensor | None = None,
    **others: Any,
) -> dict[str, Any]:
    """What depends on a sequence's own lengths as one mask for the batch; the rest as it is."""
    device = queries.lengths.device
    shift = (keys.lengths - queries.lengths)[:, None, None]
    position = torch.arange(queries.there.shape[1], device=device)[:, None] + shift
    key = torch.arange(keys.there.shape[1], device=device)
    seen = queries.there[:, :, None] & keys.there[:, None, :]
    if is_causal:
        seen = seen & ((key <= position) | (key < prefix_len))
    if window_left >= 0:
        seen = seen & (key >= position - window_left)
    if window_right >= 0:
        seen = seen & (key <= position + window_right)
    if q_doc is not None and k_doc is not None:
        own, other = (
            p.pad(d[:, None, None])[:, 0, :, 0] for p, d in ((queries, q_doc), (keys, k_doc))
        )
        seen = seen & (own[:, :, None] == other[:, None, :])
    mask = seen[:, None]
    if alibi_slopes is not None:
        distance = (position - key).abs()[:, None].to(alibi_slopes.dtype)
        mask = torch.where(mask, -alibi_slopes[..., :, None, None] * distance, float("-inf"))
    if grad_lse is not None:
        others["grad_lse"] = queries.pad_heads(grad_lse)
    return {**others, "mask": mask}


def _forward(
    formula: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    op = "attention_varlen_forward"
    queries = _Padding(op, "cu_seqlens_q", cu_seqlens_q, q.shape[0], max_seqlen_q)
    keys = _Padding(op, "cu_seqlens_k", cu_seqlens_k, k.shape[0], max_seqlen_k)
    own = _padded_options(queries, keys, **options)
    out, lse = formula(queries.pad(q), keys.pad(k), keys.pad(v), **own)
    return queries.packed(out), queries.packed(lse[..., None])[..., 0].t()


def _backward(
    formula: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    op = "attention_varlen_backward"
    queries = _Padding(op, "cu_seqlens_q", cu_seqlens_q, q.shape[0], max_seqlen_q)
    keys = _Padding(op, "cu_seqlens_k", cu_seqlens_k, k.shape[0], max_seqlen_k)
    own = _padded_options(queries, keys, **options)
    grad_q, grad_k, grad_v = formula(
        queries.pad(grad_out),
        queries.pad(q),
        keys.pad(k),
        keys.pad(v),
        queries.pad(out),
        queries.pad_heads(lse),
        **own,
    )
    return queries.packed(grad_q), keys.packed(grad_k), keys.packed(grad_v)


def reference(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``attention.reference`` of the padded batch."""
    return _forward(attention.reference, *args, **options)


def eager(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``attention.eager`` of the padded batch."""
    return _forward(attention.eager, *args, **options)


def reference_gradients(
    *args: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``attention_gradients.reference`` of the padded batch."""
    return _backward(attention_gradients.reference, *args, **options)


def eager_gradients(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``attention_gradients.eager`` of the padded batch."""
    return _backward(attention_gradients.eager, *args, **options)


def pairs_of(
    cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, options: Mapping[str, Any]
) -> float:
    """Pairs of a query and a key that position rules leave."""
    rules = ("is_causal", "window_left", "window_right", "prefix_len")
    own = {name: options[name] for name in rules if name in options}
    total = 0.0
    for seqlen_q, seqlen_k in zip(cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()):
        begin, end = attention.key_ranges(seqlen_q, seqlen_k, **own)
        total += float((end - begin).clamp(min=0).sum())
    return total
