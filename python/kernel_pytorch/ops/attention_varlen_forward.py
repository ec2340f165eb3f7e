"""``kpt::attention_varlen_forward``: attention over packed sequences."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.attention_gradients import sinks_gradient
from kernel_pytorch.ops.attention_packed import check_packed, eager, pairs_of, reference
from kernel_pytorch.ops.attention_packed_errors import ERRORS
from kernel_pytorch.ops.attention_packed_samples import (
    CASES,
    benchmark_case,
    build,
    padded,
    padded_sdpa,
)
from kernel_pytorch.ops.spec import Benchmark, Cost, OpSpec, Out, Tolerance

_NAME = "attention_varlen_forward"


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float | None,
    is_causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    q_doc: torch.Tensor | None,
    k_doc: torch.Tensor | None,
    prefix_len: int,
) -> None:
    check_packed(
        _NAME,
        q,
        k,
        cu_seqlens_q,
        max_seqlen_q,
        max_seqlen_k,
        scale,
        window_left,
        window_right,
        softcap,
        alibi_slopes,
        q_doc,
        k_doc,
        prefix_len,
    )


def _infer(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any
) -> tuple[Out, Out]:
    rows, heads, dim = q.shape
    lse = Out((heads, rows), torch.float64 if q.dtype == torch.float64 else torch.float32)
    same = dim == v.shape[2] and not q.is_contiguous() and not q.is_sparse
    return Out((rows, heads, v.shape[2]), q.dtype, q if same else None), lse


def _backward_call(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    grad_out, grad_lse = grads
    out, lse = outputs
    tensors = ("q", "k", "v")
    lengths = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
    options = {n: inputs[n] for n in inputs if n not in (*tensors, *lengths)}
    found = torch.ops.kpt.attention_varlen_backward(
        grad_out,
        *(inputs[n] for n in tensors),
        out,
        lse,
        *(inputs[n] for n in lengths),
        **options,
        grad_lse=grad_lse,
    )
    result = dict(zip(tensors, found))
    if "sinks" in needed:
        result["sinks"] = sinks_gradient(
            grad_out.transpose(0, 1)[None],
            out.transpose(0, 1)[None],
            lse[None],
            inputs["sinks"],
            grad_lse[None],
        )
    return result


def _cost(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **options: Any,
) -> Cost:
    pairs = pairs_of(cu_seqlens_q, cu_seqlens_k, options)
    rows, heads, dim = q.shape
    return Cost(
        flops=2.0 * heads * pairs * (dim + v.shape[2]),
        read_bytes=q.nbytes + k.nbytes + v.nbytes,
        write_bytes=rows * heads * (v.shape[2] * q.itemsize + 4),
        compute="bf16" if q.dtype == torch.bfloat16 else "fp32",
    )


ATTENTION_VARLEN_FORWARD = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, Tensor cu_seqlens_k, "
        "int max_seqlen_q, int max_seqlen_k, *, float? scale=None, bool is_causal=False, "
        "int window_left=-1, int window_right=-1, float softcap=0.0, Tensor? alibi_slopes=None, "
        "Tensor? sinks=None, Tensor? q_doc=None, Tensor? k_doc=None, int prefix_len=0) "
        "-> (Tensor out, Tensor lse)"
    ),
    dims={
        "q": "Tq Hq D",
        "k": "Tk Hkv D",
        "v": "Tk Hkv Dv",
        "cu_seqlens_q": "N1",
        "cu_seqlens_k": "N1",
        "sinks": "Hq",
        "q_doc": "Tq",
        "k_doc": "Tk",
    },
    arg_dtypes={
        "cu_seqlens_q": (torch.int32,),
        "cu_seqlens_k": (torch.int32,),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "q_doc": (torch.int32, torch.int64),
        "k_doc": (torch.int32, torch.int64),
    },
    check=_check,
    infer=_infer,
    reference=reference,
    eager=eager,
    backward="attention_varlen_backward",
    backward_call=_backward_call,
    backward_of=("q", "k", "v", "sinks"),
    autocast=True,
    cost=_cost,
    build_inputs=build,
    free_sizes=("N", "Sq", "Sk", "D", "Dv"),
    tolerance=Tolerance(other_floors={1: 8.0}),
    row_dims=None,
    cases=CASES,
    error_cases=ERRORS,
    benchmarks=tuple(
        Benchmark(
            name=f"{lengths} N{n} S{s} H{h} D{d}{' causal' * causal} / padded",
            case=benchmark_case(n, s, h, d, causal, lengths == "mixed"),
            dtype=dtype,
            eager=padded_sdpa,
            eager_inputs=padded,
        )
        for dtype, n, s, h, d, causal, lengths in (
            (torch.bfloat16, 16, 1024, 8, 128, True, "mixed"),
            (torch.bfloat16, 16, 512, 12, 64, False, "mixed"),
            (torch.bfloat16, 32, 128, 12, 32, False, "mixed"),
            (torch.bfloat16, 16, 512, 12, 64, False, "equal"),
            (torch.float32, 16, 512, 12, 64, False, "mixed"),
        )
    ),
    doc="""
`attention_forward` over sequences that lie one after another without padding. Sequence n has the
queries `cu_seqlens_q[n]` to `cu_seqlens_q[n + 1]` of `q`, and likewise the keys of `k` and `v`; it
sees nothing else. For each sequence the formula and the options are those of `attention_forward`
with its own lengths: positions are counted within it, bottom-right aligned. A length may be 0.

`q` is `[Tq, Hq, D]`, `k` `[Tk, Hkv, D]`, `v` `[Tk, Hkv, Dv]` in float32, float16 or bfloat16, any
strides with a dense last dimension; `Hq` is a multiple of `Hkv`. `cu_seqlens_q` and `cu_seqlens_k`
are `[N + 1]` int32, running sums of the lengths from 0 to `Tq` and `Tk`; `max_seqlen_q` and
`max_seqlen_k` are at least the longest length. `alibi_slopes` is `[Hq]` or `[N, Hq]`, `sinks`
`[Hq]`, `q_doc` `[Tq]` and `k_doc` `[Tk]`; there is no `mask`. `out` is `[Tq, Hq, Dv]`, `lse`
`[Hq, Tq]` in float32. ValueError where the lengths do not fit.

Numerics and determinism are those of `attention_forward`: the results of a sequence are, bit for
bit, those of `attention_forward` on that sequence alone.
""",
)
