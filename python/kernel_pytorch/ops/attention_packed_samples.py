"""Cases of the operators on packed sequences, and the tensors of a case.

The sizes of a case are those of attention_forward with N sequences, of which Sq and Sk are the
longest lengths; the first sequence has them, the second none, the others what the generator draws.
``given`` may hold ``alibi_slopes``, ``alibi_slopes:[N,Hq]``, ``sinks``, ``q_doc`` and ``k_doc``
(int64), ``q_doc:int32`` and ``k_doc:int32``, ``grad_lse``, and ``equal``: all are the longest.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import gradients
from kernel_pytorch.ops.attention_packed import reference
from kernel_pytorch.ops.spec import Case, cases

__all__ = [
    "BACKWARD_CASES",
    "CASES",
    "benchmark_case",
    "build",
    "build_backward",
    "padded",
    "padded_sdpa",
    "recorded_padded_sdpa",
]


def _lengths(case: Case, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    count = case.sizes["N"]
    found = []
    for name in ("Sq", "Sk"):
        longest = case.sizes[name]
        lengths = torch.randint(0, longest + 1, (count,), generator=generator)
        if "equal" in case.given:
            lengths[:] = longest
        elif count > 0:
            lengths[0] = longest
            if count > 2:
                lengths[1] = 0
        found.append(lengths)
    if case.sizes["Sq"] == case.sizes["Sk"]:
        found[1] = found[0]
    return found[0], found[1]


def _sums(lengths: torch.Tensor) -> torch.Tensor:
    return F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``attention_varlen_forward`` for ``case``."""
    sizes = case.sizes
    lengths_q, lengths_k = _lengths(case, generator)
    rows_q, rows_k = int(lengths_q.sum()), int(lengths_k.sum())

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    args: list[Any] = [
        normal(rows_q, sizes["Hq"], sizes["D"]).to(dtype),
        normal(rows_k, sizes["Hkv"], sizes["D"]).to(dtype),
        normal(rows_k, sizes["Hkv"], sizes["Dv"]).to(dtype),
        _sums(lengths_q),
        _sums(lengths_k),
        sizes["Sq"],
        sizes["Sk"],
    ]
    options: dict[str, Any] = dict(case.options)
    small = torch.float64 if dtype == torch.float64 else torch.float32
    for text in case.given:
        name, _, detail = text.partition(":")
        if name == "alibi_slopes":
            shape = (sizes["N"], sizes["Hq"]) if detail else (sizes["Hq"],)
            options[name] = (normal(*shape).abs() * 0.2).to(small)
        elif name == "sinks":
            options[name] = normal(sizes["Hq"]).to(small)
        elif name in ("q_doc", "k_doc"):
            own = lengths_q if name == "q_doc" else lengths_k
            ids = [
                (torch.arange(length) + keys - length).clamp(min=0) // 11
                for length, keys in zip(own.tolist(), lengths_k.tolist())
            ]
            kind = torch.int32 if detail == "int32" else torch.int64
            options[name] = torch.cat([torch.zeros(0), *ids]).to(kind)
    return args, options


_MOST_PAIRS = 1 << 22


def build_backward(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``attention_varlen_backward``: ``out`` and ``lse`` as the forward pass leaves
    them; for benchmarks, where the formula would take gigabytes, by the operator itself."""
    args, options = build(case, dtype, generator)
    large = case.sizes["Hq"] * args[0].shape[0] * case.sizes["Sk"] > _MOST_PAIRS
    forward = torch.ops.kpt.attention_varlen_forward if large else reference
    out, lse = forward(*args, **options)
    grad_out = torch.randn(out.shape, generator=generator).to(dtype)
    if "grad_lse" in case.given:
        options["grad_lse"] = torch.randn(lse.shape, generator=generator).to(lse.dtype)
    return [grad_out, *args[:3], out.contiguous(), lse.contiguous(), *args[3:]], options


def _size(
    n: int, hq: int, hkv: int, sq: int, sk: int, d: int, dv: int | None = None
) -> dict[str, int]:
    return {"N": n, "Hq": hq, "Hkv": hkv, "Sq": sq, "Sk": sk, "D": d, "Dv": d if dv is None else dv}


_GENERAL = (_size(4, 4, 2, 19, 35, 32), _size(3, 2, 2, 65, 65, 40, 24), _size(5, 3, 1, 23, 50, 64))
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"is_causal": True},
    {"window_left": 7, "softcap": 2.0},
    {"window_left": 3, "window_right": 2, "scale": 0.3},
    {"is_causal": True, "prefix_len": 9, "softcap": 15.0},
)
_GIVEN: tuple[tuple[str, ...], ...] = (
    (),
    ("alibi_slopes",),
    ("alibi_slopes:[N,Hq]", "sinks"),
    ("q_doc", "k_doc"),
    ("q_doc:int32", "k_doc:int32", "sinks", "alibi_slopes"),
)

_PLAIN = cases(
    sizes=[
        *(_size(3, 2, 2, 17, 29, d) for d in (1, 3, 8, 16, 31, 64, 80, 128, 256)),
        _size(1, 2, 1, 40, 40, 64),
        _size(4, 2, 1, 30, 45, 64, 128),
        _size(8, 1, 1, 12, 20, 16),
        _size(2, 8, 2, 130, 150, 32),
        _size(0, 2, 2, 3, 4, 8),
        _size(3, 0, 0, 3, 4, 8),
        _size(3, 2, 2, 0, 4, 8),
        _size(3, 2, 2, 3, 0, 8),
        _size(3, 2, 1, 3, 5, 257),
    ],
    options=[{}, {"is_causal": True}],
    leads=((),),
)

CASES = _PLAIN + cases(sizes=_GENERAL, options=_OPTIONS, given=_GIVEN, leads=((),))

BACKWARD_CASES = CASES + cases(
    sizes=_GENERAL, options=_OPTIONS[:2], given=[("grad_lse",), ("grad_lse", "sinks")], leads=((),)
)


def benchmark_case(n: int, s: int, heads: int, dim: int, causal: bool, mixed: bool) -> Case:
    """``n`` sequences of up to ``s`` tokens, or of exactly so many."""
    return Case(
        sizes=_size(n, heads, heads, s, s, dim),
        options={"is_causal": True} if causal else {},
        given=() if mixed else ("equal",),
        lead=(),
    )


def _pad(rows: torch.Tensor, cu: torch.Tensor, longest: int) -> torch.Tensor:
    ends = cu.tolist()
    out = rows.new_zeros(len(ends) - 1, longest, *rows.shape[1:])
    for n, (begin, end) in enumerate(itertools.pairwise(ends)):
        out[n, : end - begin] = rows[begin:end]
    return out.transpose(1, 2)


def padded(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    is_causal: bool = False,
) -> tuple[Any, ...]:
    """What :func:`padded_sdpa` takes: the same sequences as a batch, padded at their ends. Under a
    causal mask no query sees the padding of its keys, so that needs no mask."""
    mask = None
    if not is_causal:
        key = torch.arange(max_seqlen_k)
        mask = (key < cu_seqlens_k.diff()[:, None])[:, None, None, :]
    return (
        _pad(q, cu_seqlens_q, max_seqlen_q),
        _pad(k, cu_seqlens_k, max_seqlen_k),
        _pad(v, cu_seqlens_k, max_seqlen_k),
        mask,
        is_causal,
    )


def padded_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
) -> torch.Tensor:
    """What users without packed sequences run."""
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)


def recorded_padded_sdpa(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    *lengths: Any,
    **options: Any,
) -> tuple[Any, ...]:
    """A graph of :func:`padded_sdpa` and what :func:`gradients.replay` takes."""
    *tensors, mask, is_causal = padded(q, k, v, cu_seqlens_q, *lengths, **options)
    outputs, leaves = gradients.recorded(
        lambda q, k, v: padded_sdpa(q, k, v, mask, is_causal), tensors
    )
    with torch.inference_mode(False):
        return outputs, leaves, (_pad(grad_out, cu_seqlens_q, lengths[1]).clone(),)
