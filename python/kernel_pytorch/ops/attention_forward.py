"""``kpt::attention_forward``: softmax(scale * Q K^T + bias) V without storing the scores."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.attention import eager, key_ranges, reference
from kernel_pytorch.ops.attention_benchmarks import FORWARD
from kernel_pytorch.ops.attention_checks import check_batch
from kernel_pytorch.ops.attention_gradients import backward_call
from kernel_pytorch.ops.attention_samples import CASES, ERRORS, build
from kernel_pytorch.ops.spec import Cost, OpSpec, Out, Tolerance

_NAME = "attention_forward"


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
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
    check_batch(
        _NAME,
        q,
        k,
        mask,
        scale,
        window_left,
        window_right,
        softcap,
        alibi_slopes,
        q_doc,
        k_doc,
        prefix_len,
    )


# Every argument is spelled out: called for each call, and a dict of the rest would cost half.
def _infer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
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
) -> tuple[Out, Out]:
    dtype = q.dtype
    batch, heads, rows, dim = shape = q.shape
    dim_v = v.shape[3]
    lse = Out((batch, heads, rows), torch.float64 if dtype is torch.float64 else torch.float32)
    if dim != dim_v:
        return Out((batch, heads, rows, dim_v), dtype), lse
    # Heads that are a view of [B, S, H, D] give such an output: it merges without a copy.
    return Out(shape, dtype, None if q.is_contiguous() or q.is_sparse else q), lse


def _cost(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    prefix_len: int = 0,
    **_: Any,
) -> Cost:
    """Counts the pairs that position rules leave; masks and documents are data."""
    batch, heads, seqlen_q, dim = q.shape
    begin, end = key_ranges(seqlen_q, k.shape[2], is_causal, window_left, window_right, prefix_len)
    pairs = float((end - begin).clamp(min=0).sum())
    dim_v = v.shape[3]
    return Cost(
        flops=2.0 * batch * heads * pairs * (dim + dim_v),
        read_bytes=q.nbytes + k.nbytes + v.nbytes + (0 if mask is None else mask.nbytes),
        write_bytes=batch * heads * seqlen_q * (dim_v * q.itemsize + 4),
        compute="bf16" if q.dtype == torch.bfloat16 else "fp32",
    )


ATTENTION_FORWARD = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor q, Tensor k, Tensor v, *, Tensor? mask=None, float? scale=None, "
        "bool is_causal=False, int window_left=-1, int window_right=-1, float softcap=0.0, "
        "Tensor? alibi_slopes=None, Tensor? sinks=None, Tensor? q_doc=None, Tensor? k_doc=None, "
        "int prefix_len=0) -> (Tensor out, Tensor lse)"
    ),
    dims={
        "q": "B Hq Sq D",
        "k": "B Hkv Sk D",
        "v": "B Hkv Sk Dv",
        "sinks": "Hq",
        "q_doc": "B Sq",
        "k_doc": "B Sk",
    },
    arg_dtypes={
        "mask": (torch.bool, torch.float32, "q"),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "q_doc": (torch.int32, torch.int64),
        "k_doc": (torch.int32, torch.int64),
    },
    check=_check,
    infer=_infer,
    native_backends=("cpu", "nvidia"),
    reference=reference,
    eager=eager,
    backward="attention_backward",
    backward_call=backward_call,
    backward_of=("q", "k", "v", "sinks"),
    autocast=True,
    cost=_cost,
    build_inputs=build,
    free_sizes=("B", "Sq", "Sk", "D", "Dv"),
    # lse is a sum over D in one chain; for a handful of keys PyTorch has a kernel that sums in
    # many short ones.
    tolerance=Tolerance(other_floors={1: 8.0}),
    row_dims=3,
    cases=CASES,
    error_cases=ERRORS,
    benchmarks=FORWARD,
    doc="""
`out = softmax(scale * q k^T + bias) v` per head, by an online softmax over blocks of keys (Dao,
"FlashAttention-2", 2023): the scores are never stored.

For query i and key j of a head, with `position = i + Sk - Sq` (bottom-right alignment):

- `s = scale * dot(q[i], k[j])`; `scale` is `1 / sqrt(D)` when not given
- `s = softcap * tanh(s / softcap)` when `softcap > 0`
- `s += mask[i, j]` (additive), `s -= alibi_slopes[head] * |position - j|`
- `p[i, j] = exp(s) / (exp(sinks[head]) + sum_j exp(s))`; without `sinks` that term is absent
- `out[i] = sum_j p[i, j] v[j]`, `lse[i] = log(exp(sinks[head]) + sum_j exp(s))`

Key j is visible to query i when all of these hold: `is_causal`: `j <= position` or
`j < prefix_len`; `window_left >= 0`: `j >= position - window_left`; `window_right >= 0`:
`j <= position + window_right`; the boolean mask is true or the additive one above -inf;
`q_doc[i] == k_doc[j]`. A query that sees no key and has no sink gives `out = 0`, `lse = -inf`.

`q` is `[B, Hq, Sq, D]`, `k` `[B, Hkv, Sk, D]`, `v` `[B, Hkv, Sk, Dv]` in float32, float16 or
bfloat16, any strides with a dense last dimension; `Hq` is a multiple of `Hkv` (GQA, MQA). `mask`
broadcasts to `[B, Hq, Sq, Sk]`, any strides, in bool (true: visible), float32 or the dtype of `q`.
`alibi_slopes` is `[Hq]` or `[B, Hq]`, `sinks` `[Hq]` (logits), both float32; `q_doc` `[B, Sq]` and
`k_doc` `[B, Sk]` are int32 or int64. `out` is `[B, Hq, Sq, Dv]` in the dtype of `q`, in the memory
order of `q` when `Dv = D` (so that `[B, S, H, D]` views merge without a copy), else contiguous;
`lse` is `[B, Hq, Sq]` in float32, natural logarithm.

Scores and sums are float32. The bfloat16 kernels multiply bfloat16 pairs and round `p` to bfloat16
before the second product, as PyTorch does. NaN and infinity in q, and in k and v at visible keys,
propagate as in the formula; a score of +inf makes `out` and `lse` of its query NaN. At a hidden
key, k is not looked at, but a NaN or infinity in v may reach the result (0 * NaN), as in PyTorch. D
or Dv of 0 or above 256 run the reference; so does float32 on a GPU.

Within a native variant a query's result depends on its own head only: not on the number of threads
nor on the rest of the batch.
""",
)
