"""``kpt::attention_backward``: the gradients of ``kpt::attention_forward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops import attention
from kernel_pytorch.ops.attention_benchmarks import BACKWARD
from kernel_pytorch.ops.attention_checks import check_batch
from kernel_pytorch.ops.attention_gradients import eager, gradient_like, reference
from kernel_pytorch.ops.attention_samples import CROSSED, adapted, build, size
from kernel_pytorch.ops.spec import Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases

_NAME = "attention_backward"


def _check(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
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
    grad_lse: torch.Tensor | None,
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
    *,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    prefix_len: int = 0,
    **_: Any,
) -> Cost:
    """Five products over the pairs that position rules leave; masks and documents are data."""
    batch, heads, seqlen_q, dim = q.shape
    begin, end = attention.key_ranges(
        seqlen_q, k.shape[2], is_causal, window_left, window_right, prefix_len
    )
    pairs = float((end - begin).clamp(min=0).sum())
    tensors = q.nbytes + k.nbytes + v.nbytes
    return Cost(
        flops=2.0 * batch * heads * pairs * (3 * dim + 2 * v.shape[3]),
        read_bytes=tensors + 2 * out.nbytes + lse.nbytes + (0 if mask is None else mask.nbytes),
        write_bytes=tensors,
        compute="bf16" if q.dtype == torch.bfloat16 else "fp32",
    )


_MOST_PAIRS = 1 << 24
"""Beyond, the formula would take gigabytes for the outputs that a benchmark starts from."""


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """``out`` and ``lse`` as the forward pass leaves them."""
    plain = Case(
        sizes=case.sizes,
        options=case.options,
        given=tuple(name for name in case.given if name != "grad_lse"),
        lead=case.lead,
    )
    (q, k, v), options = build(plain, dtype, generator)
    pairs = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    forward = torch.ops.kpt.attention_forward if pairs > _MOST_PAIRS else attention.reference
    out, lse = forward(q, k, v, **options)
    grad_out = torch.randn(out.shape, generator=generator).to(dtype)
    if "grad_lse" in case.given:
        options["grad_lse"] = torch.randn(lse.shape, generator=generator).to(lse.dtype)
    return [grad_out, q, k, v, out.contiguous(), lse], options


def _with_saved(op: Callable[..., Any]) -> Callable[..., Any]:
    """Takes attention_forward's arguments; outputs and their gradients fit q of [1, 4, 3, 8]."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        out = torch.ones(1, 4, 3, 8, dtype=q.dtype)
        return op(out, q, k, v, out, torch.ones(1, 4, 3), **options)

    return call


def _refused(
    name: str, match: str, error: type[Exception], **changed: Callable[[], torch.Tensor]
) -> ErrorCase:
    def call(op: Callable[..., Any]) -> Any:
        arguments = {
            "grad_out": torch.ones(1, 4, 3, 8),
            "q": torch.ones(1, 4, 3, 8),
            "k": torch.ones(1, 2, 5, 8),
            "v": torch.ones(1, 2, 5, 8),
            "out": torch.ones(1, 4, 3, 8),
            "lse": torch.ones(1, 4, 3),
        }
        return op(**(arguments | {n: make() for n, make in changed.items()}))

    return ErrorCase(name=name, call=call, error=error, match=f"{_NAME}: argument {match}")


# Where every query sees a single key, that has the weight 1 and no gradient: all would be rounding.
_SIZES = (
    *(size(2, 2, 2, 21, 33, d) for d in (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 65, 80, 96)),
    *(size(1, 2, 1, 33, 70, d) for d in (100, 127, 128, 129, 192, 255, 256)),
)
_CAUSAL_SIZES = (
    size(1, 2, 2, 20, 40, 64, 128),
    size(1, 2, 1, 20, 40, 192, 128),
    size(1, 1, 1, 15, 26, 7, 1),
    size(1, 1, 1, 39, 53, 3, 256),
    *(size(1, 3, 3, s, s, 32) for s in (2, 11, 12, 13, 63, 64, 65, 96, 97)),
    size(1, 3, 1, 150, 150, 64),
    size(1, 1, 1, 30, 300, 128),
    size(2, 4, 1, 1, 77, 64),
    size(1, 8, 8, 5, 157, 32),
    size(0, 2, 2, 3, 4, 8),
    size(2, 0, 0, 3, 4, 8),
    size(2, 2, 2, 0, 4, 8),
    size(2, 2, 2, 3, 0, 8),
    size(2, 2, 2, 3, 4, 0, 8),
    size(2, 2, 2, 3, 4, 8, 0),
    size(1, 2, 1, 3, 5, 257),
)
_PLAIN = cases(sizes=_SIZES, leads=((),)) + cases(
    sizes=_CAUSAL_SIZES, options=[{}, {"is_causal": True}], leads=((),)
)

ATTENTION_BACKWARD = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, *, "
        "Tensor? mask=None, float? scale=None, bool is_causal=False, int window_left=-1, "
        "int window_right=-1, float softcap=0.0, Tensor? alibi_slopes=None, Tensor? sinks=None, "
        "Tensor? q_doc=None, Tensor? k_doc=None, int prefix_len=0, Tensor? grad_lse=None) "
        "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v)"
    ),
    dims={
        "grad_out": "B Hq Sq Dv",
        "q": "B Hq Sq D",
        "k": "B Hkv Sk D",
        "v": "B Hkv Sk Dv",
        "out": "B Hq Sq Dv",
        "lse": "B Hq Sq",
        "sinks": "Hq",
        "q_doc": "B Sq",
        "k_doc": "B Sk",
        "grad_lse": "B Hq Sq",
    },
    arg_dtypes={
        "lse": (torch.float32,),
        "mask": (torch.bool, torch.float32, "grad_out"),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "q_doc": (torch.int32, torch.int64),
        "k_doc": (torch.int32, torch.int64),
        "grad_lse": (torch.float32,),
    },
    check=_check,
    infer=_infer,
    native_backends=("cpu", "nvidia"),
    reference=reference,
    eager=eager,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("B", "Sq", "Sk", "D", "Dv"),
    # p has the error of a score, which without fused multiply-add is rounded twice a step.
    tolerance=Tolerance(floor_ulp=4.0),
    row_dims=3,
    cases=_PLAIN
    + CROSSED
    + tuple(
        Case(sizes=sizes, options=options, given=("grad_lse", *given), lead=())
        for sizes in (size(2, 4, 2, 19, 35, 32), size(1, 3, 1, 150, 131, 64, 40))
        for options in ({}, {"is_causal": True, "softcap": 4.0})
        for given in ((), ("sinks",))
    )
    + tuple(
        Case(sizes=size(1, 1, 1, sq, sk, 16), options=options, lead=())
        for sq, sk in ((40, 1300), (300, 620))
        for options in ({}, {"is_causal": True}, {"window_left": 100, "window_right": 30})
    ),
    error_cases=(
        *adapted(_NAME, _with_saved, "integers"),
        _refused(
            "grad_out of another shape",
            "'v' must have size 7 for Dv",
            ValueError,
            grad_out=lambda: torch.ones(1, 4, 3, 7),
        ),
        _refused(
            "grad_out of integers",
            "'grad_out' must have dtype",
            TypeError,
            grad_out=lambda: torch.ones(1, 4, 3, 8, dtype=torch.int32),
        ),
        _refused(
            "out of another length",
            "'out' must have size 3 for Sq",
            ValueError,
            out=lambda: torch.ones(1, 4, 4, 8),
        ),
        _refused(
            "out in half",
            "'out' must have dtype float32, got float16",
            TypeError,
            out=lambda: torch.ones(1, 4, 3, 8, dtype=torch.float16),
        ),
        _refused(
            "lse of key heads",
            "'lse' must have size 4 for Hq",
            ValueError,
            lse=lambda: torch.ones(1, 2, 3),
        ),
        _refused(
            "lse in bfloat16",
            "'lse' must have dtype float32",
            TypeError,
            lse=lambda: torch.ones(1, 4, 3, dtype=torch.bfloat16),
        ),
        _refused(
            "grad_lse of another length",
            "'grad_lse' must have size 3 for Sq",
            ValueError,
            grad_lse=lambda: torch.ones(1, 4, 5),
        ),
    ),
    benchmarks=BACKWARD,
    doc="""
The gradients of `attention_forward`, from its inputs, its outputs and the gradient `grad_out` of
`out`. With the scores `s` and weights `p` of that page, computed again from `lse`:

- `p[i, j] = exp(s[i, j] - lse[i])` for the visible pairs, else 0
- `delta[i] = sum(grad_out[i] * out[i]) - grad_lse[i]`; without `grad_lse` that term is absent
- `ds[i, j] = p[i, j] * (dot(grad_out[i], v[j]) - delta[i])`, times
  `1 - tanh(scale * dot(q[i], k[j]) / softcap)^2` when `softcap > 0`
- `grad_v[j] = sum_i p[i, j] grad_out[i]`, `grad_k[j] = scale * sum_i ds[i, j] q[i]`, summed over
  the query heads that share the key head; `grad_q[i] = scale * sum_j ds[i, j] k[j]`

(Dao, "FlashAttention-2", 2023.) Tensors and options are those of `attention_forward`; `grad_out`
and `out` are `[B, Hq, Sq, Dv]` in the dtype of `q`, `lse` and `grad_lse` `[B, Hq, Sq]` in float32.
The gradients have the shapes, dtypes and memory orders of `q`, `k` and `v`. A query that sees no
key has the gradient 0.

Sinks enter through `lse` and `out` alone; `attention_forward` gives their gradient too:
`grad_sinks[h] = -sum(exp(sinks[h] - lse) * delta)`. Where a gradient of `mask` or `alibi_slopes` is
asked for, the reference is differentiated instead (and counted as such).

Scores, weights and sums are float32; the bfloat16 kernels multiply bfloat16 pairs and round `p` and
`ds` to bfloat16 before the last three products, as PyTorch does. The sums of `grad_q` are those of
chunks of keys whose number depends on Sk alone: within a native variant the results depend neither
on the number of threads nor on the rest of the batch. NaN and infinity propagate as in the formula;
those of hidden pairs may or may not. D or Dv of 0 or above 256 run the reference; so does float32
on a GPU, where sums are taken in a fixed order as well.
""",
)
