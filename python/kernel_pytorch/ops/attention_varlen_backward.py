"""``kpt::attention_varlen_backward``: the gradients of ``kpt::attention_varlen_forward``."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import gradients
from kernel_pytorch.ops.attention_gradients import gradient_like
from kernel_pytorch.ops.attention_packed import (
    check_packed,
    eager_gradients,
    pairs_of,
    reference_gradients,
)
from kernel_pytorch.ops.attention_packed_errors import BACKWARD_ERRORS
from kernel_pytorch.ops.attention_packed_samples import (
    BACKWARD_CASES,
    benchmark_case,
    build_backward,
    recorded_padded_sdpa,
)
from kernel_pytorch.ops.spec import Benchmark, Cost, OpSpec, Out, Tolerance

_NAME = "attention_varlen_backward"


def _check(
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
    grad_lse: torch.Tensor | None,
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
    grad_out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any
) -> tuple[Out, Out, Out]:
    return gradient_like(q), gradient_like(k), gradient_like(v)


def _cost(
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
) -> Cost:
    tensors = q.nbytes + k.nbytes + v.nbytes
    pairs = pairs_of(cu_seqlens_q, cu_seqlens_k, options)
    return Cost(
        flops=2.0 * q.shape[1] * pairs * (3 * q.shape[2] + 2 * v.shape[2]),
        read_bytes=tensors + 2 * out.nbytes + lse.nbytes,
        write_bytes=tensors,
        compute="bf16" if q.dtype == torch.bfloat16 else "fp32",
    )


ATTENTION_VARLEN_BACKWARD = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
        "Tensor cu_seqlens_q, Tensor cu_seqlens_k, int max_seqlen_q, int max_seqlen_k, *, "
        "float? scale=None, bool is_causal=False, int window_left=-1, int window_right=-1, "
        "float softcap=0.0, Tensor? alibi_slopes=None, Tensor? sinks=None, Tensor? q_doc=None, "
        "Tensor? k_doc=None, int prefix_len=0, Tensor? grad_lse=None) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v)"
    ),
    dims={
        "grad_out": "Tq Hq Dv",
        "q": "Tq Hq D",
        "k": "Tk Hkv D",
        "v": "Tk Hkv Dv",
        "out": "Tq Hq Dv",
        "lse": "Hq Tq",
        "cu_seqlens_q": "N1",
        "cu_seqlens_k": "N1",
        "sinks": "Hq",
        "q_doc": "Tq",
        "k_doc": "Tk",
        "grad_lse": "Hq Tq",
    },
    arg_dtypes={
        "lse": (torch.float32,),
        "cu_seqlens_q": (torch.int32,),
        "cu_seqlens_k": (torch.int32,),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "q_doc": (torch.int32, torch.int64),
        "k_doc": (torch.int32, torch.int64),
        "grad_lse": (torch.float32,),
    },
    check=_check,
    infer=_infer,
    reference=reference_gradients,
    eager=eager_gradients,
    cost=_cost,
    build_inputs=build_backward,
    free_sizes=("N", "Sq", "Sk", "D", "Dv"),
    tolerance=Tolerance(floor_ulp=4.0),  # as attention_backward
    row_dims=None,
    cases=BACKWARD_CASES,
    error_cases=BACKWARD_ERRORS,
    benchmarks=tuple(
        Benchmark(
            name=f"mixed N{n} S{s} H{h} D{d}{' causal' * causal} / padded",
            case=benchmark_case(n, s, h, d, causal, True),
            dtype=dtype,
            eager=gradients.replay,
            eager_inputs=recorded_padded_sdpa,
        )
        for dtype, n, s, h, d, causal in (
            (torch.bfloat16, 16, 1024, 8, 128, True),
            (torch.bfloat16, 16, 512, 12, 64, False),
            (torch.float32, 16, 512, 12, 64, False),
        )
    ),
    doc="""
The gradients of `attention_varlen_forward`, from its inputs, its outputs and the gradient
`grad_out` of `out`: for each sequence those of `attention_backward`, with its own lengths. Tensors
and options are those of `attention_varlen_forward`; `grad_out` and `out` are `[Tq, Hq, Dv]`, `lse`
and `grad_lse` `[Hq, Tq]` in float32.

Numerics and determinism are those of `attention_backward`: the gradients of a sequence are, bit for
bit, those of `attention_backward` on that sequence alone.
""",
)
