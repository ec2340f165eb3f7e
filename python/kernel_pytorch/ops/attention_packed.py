"""What the operators on packed sequences share: checks, and the formulas sequence by sequence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

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


def _ends(op: str, argument: str, cu: torch.Tensor, total: int, longest: int) -> list[int]:
    """The lengths' running sums as numbers, checked as the kernels check them."""
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
    return ends


class _Sequence(NamedTuple):
    """Where one sequence lies, and the options for it alone."""

    queries: slice
    keys: slice
    options: dict[str, Any]

    def rows(self, t: torch.Tensor, where: slice) -> torch.Tensor:
        """``[T, H, D]`` rows as ``[1, H, S, D]``."""
        return t[where].transpose(0, 1)[None]


def _sequences(
    op: str,
    q: torch.Tensor,
    k: torch.Tensor,
    lengths: tuple[torch.Tensor, torch.Tensor, int, int],
    options: Mapping[str, Any],
) -> Iterator[_Sequence]:
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k = lengths
    q_ends = _ends(op, "cu_seqlens_q", cu_seqlens_q, q.shape[0], max_seqlen_q)
    k_ends = _ends(op, "cu_seqlens_k", cu_seqlens_k, k.shape[0], max_seqlen_k)
    slopes = options.get("alibi_slopes")
    for n in range(len(q_ends) - 1):
        queries = slice(q_ends[n], q_ends[n + 1])
        keys = slice(k_ends[n], k_ends[n + 1])
        own = dict(options)
        if slopes is not None and slopes.dim() == 2:
            own["alibi_slopes"] = slopes[n]
        for name, where in (("q_doc", queries), ("k_doc", keys)):
            if own.get(name) is not None:
                own[name] = own[name][where][None]
        if own.get("grad_lse") is not None:
            own["grad_lse"] = own["grad_lse"][None, :, queries]
        yield _Sequence(queries, keys, own)


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
    outs: list[torch.Tensor] = [q.new_zeros(0, q.shape[1], v.shape[2])]
    double = q.dtype == torch.float64
    lses = [q.new_zeros(q.shape[1], 0, dtype=torch.float64 if double else torch.float32)]
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    for s in _sequences("attention_varlen_forward", q, k, lengths, options):
        out, lse = formula(s.rows(q, s.queries), s.rows(k, s.keys), s.rows(v, s.keys), **s.options)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, dim=1)


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
    found: tuple[list[torch.Tensor], ...] = tuple([t[:0]] for t in (q, k, v))
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    for s in _sequences("attention_varlen_backward", q, k, lengths, options):
        grads = formula(
            s.rows(grad_out, s.queries),
            s.rows(q, s.queries),
            s.rows(k, s.keys),
            s.rows(v, s.keys),
            s.rows(out, s.queries),
            lse[None, :, s.queries],
            **s.options,
        )
        for all_of_one, grad in zip(found, grads):
            all_of_one.append(grad[0].transpose(0, 1))
    grad_q, grad_k, grad_v = (torch.cat(parts) for parts in found)
    return grad_q, grad_k, grad_v


def reference(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``attention.reference`` of each sequence."""
    return _forward(attention.reference, *args, **options)


def eager(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``attention.eager`` of each sequence."""
    return _forward(attention.eager, *args, **options)


def reference_gradients(
    *args: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``attention_gradients.reference`` of each sequence."""
    return _backward(attention_gradients.reference, *args, **options)


def eager_gradients(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``attention_gradients.eager`` of each sequence."""
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
