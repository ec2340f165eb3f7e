"""``kpt::fp8_gemm``: the product of two scaled fp8 matrices, with bias and activation."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernel_pytorch.ops.fp8_gemm_errors import ERROR_CASES
from kernel_pytorch.ops.linears import ACTIVATIONS, GATES, linear
from kernel_pytorch.ops.quantization import FP8, scale_shape
from kernel_pytorch.ops.scaled_factors import check_scale, dequantized, make_scale, wide
from kernel_pytorch.ops.spec import FLOATS, Benchmark, Case, Cost, OpSpec, Out, cases

_A_KINDS = ("tensor", "row", "block1x128")
_B_KINDS = ("tensor", "row", "block128x128")


def _shapes(shape: Any, kinds: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return [scale_shape(shape, kind) for kind in kinds]


def _check(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
) -> None:
    check_scale("fp8_gemm", "scale_a", scale_a, _shapes(a.shape, _A_KINDS))
    check_scale("fp8_gemm", "scale_b", scale_b, _shapes(b.shape, _B_KINDS))
    if activation in GATES and b.shape[0] % 2 != 0:
        raise ValueError(
            f"fp8_gemm: argument 'b' must have an even first dimension for activation "
            f"'{activation}', got shape {list(b.shape)}"
        )


def _infer(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
) -> Out:
    features = b.shape[0] // 2 if activation in GATES else b.shape[0]
    return Out([a.shape[0], features], out_dtype)


def _reference(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    dtype = wide(a, scale_a)
    x = dequantized(a, scale_a, dtype)
    weight = dequantized(b, scale_b, dtype)
    result = linear(x, weight, None if bias is None else bias.to(dtype), activation)
    return result if dtype == torch.float64 else result.to(out_dtype)


def _cost(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    out_dtype: torch.dtype = torch.bfloat16,
) -> Cost:
    features = b.shape[0] // (2 if activation in GATES else 1)
    return Cost(
        flops=2.0 * a.numel() * b.shape[0],
        read_bytes=a.nbytes + b.nbytes + scale_a.nbytes + scale_b.nbytes,
        write_bytes=a.shape[0] * features * out_dtype.itemsize,
        compute="bf16",
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    # The sizes A and B: one more than the ranks of the scales. Odd N: b is of the other format.
    options = {"activation": "none", "out_dtype": torch.bfloat16, **case.options}
    m, k = math.prod(case.lead), case.sizes["K"]
    n = case.sizes["N"] * (2 if options["activation"] in GATES else 1)
    a_dtype = dtype if dtype in FP8 else FP8[0]
    b_dtype = FP8[(FP8.index(a_dtype) + case.sizes["N"]) % 2]
    # Normal numbers, some of them so small that their codes are subnormal.
    a = torch.randn(m, k, generator=generator).mul_(0.25).to(a_dtype)
    b = torch.randn(n, k, generator=generator).mul_(0.25).to(b_dtype)
    scale_a = make_scale(_shapes(a.shape, _A_KINDS)[case.sizes["A"] - 1], generator)
    scale_b = make_scale(_shapes(b.shape, _B_KINDS)[case.sizes["B"] - 1], generator)
    bias = torch.randn(n, generator=generator).mul_(1e-3) if "bias" in case.given else None
    if dtype == torch.float64:
        a, b, scale_a, scale_b = a.double(), b.double(), scale_a.double(), scale_b.double()
        bias = None if bias is None else bias.double()
    return [a, b, scale_a, scale_b], {"bias": bias, **options}


def _plain(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    out_dtype: torch.dtype = torch.bfloat16,
) -> tuple[Any, ...]:
    """The same layer in ``out_dtype`` throughout."""
    x = dequantized(a, scale_a, torch.float32).to(out_dtype)
    weight = dequantized(b, scale_b, torch.float32).to(out_dtype)
    return x, weight, None if bias is None else bias.to(out_dtype), activation


def _for_scaled_mm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, **_: Any
) -> tuple[Any, ...]:
    return a, b.t(), scale_a, scale_b


def _scaled_mm(*args: torch.Tensor) -> torch.Tensor:
    return torch._scaled_mm(*args, out_dtype=torch.bfloat16)


def _row(m: int, granularity: str, activation: str = "none", peer: str = "F.linear") -> Benchmark:
    rank = ("tensor", "row", "block").index(granularity) + 1
    case = Case(
        sizes={"N": 4096, "K": 4096, "A": rank, "B": rank},
        options={"activation": activation},
        lead=(m,),
    )
    name = f"{granularity} 4096x4096 M={m} {activation}"
    return Benchmark(
        name=name if peer == "F.linear" else f"{name} / {peer}",
        case=case,
        dtype=torch.float8_e4m3fn,
        eager=linear if peer == "F.linear" else _scaled_mm,
        eager_inputs=_plain if peer == "F.linear" else _for_scaled_mm,
    )


def _sizes(shapes: list[tuple[int, int]], scales: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"N": n, "K": k, "A": a, "B": b} for n, k in shapes for a, b in scales]


_ANY_SCALES = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]

FP8_GEMM = OpSpec(
    name="fp8_gemm",
    family="gemm",
    schema=(
        "(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, *, Tensor? bias=None, "
        'str activation="none", ScalarType out_dtype=bfloat16) -> Tensor'
    ),
    dims={"a": "M K", "b": "N K", "bias": "N"},
    dtypes=FP8,
    arg_dtypes={
        "b": FP8,
        "scale_a": (torch.float32,),
        "scale_b": (torch.float32,),
        "bias": FLOATS,
    },
    choices={"activation": ACTIVATIONS, "out_dtype": FLOATS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_reference,
    differentiable=False,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "K"),
    cases=cases(
        sizes=_sizes([(7, 133), (64, 64), (65, 300)], _ANY_SCALES),
        options=[{"out_dtype": torch.float32}, {"activation": "gelu"}],
        given=[(), ("bias",)],
        leads=[(3,), (37,)],
    )
    + cases(
        sizes=_sizes([(70, 200)], [(1, 1), (2, 2), (3, 3)]),
        options=[{"activation": a, "out_dtype": d} for a in ACTIVATIONS for d in FLOATS],
        given=[("bias",)],
        leads=[(2,), (9,)],
    )
    + cases(
        sizes=_sizes([(0, 5), (5, 0), (1, 1), (130, 257)], [(2, 2), (3, 3)]),
        options=[{"activation": a} for a in ("none", "swiglu")],
        leads=[(0,), (1,), (5,)],
    )
    + cases(
        sizes=_sizes([(40, 4200), (300, 96)], [(1, 1), (2, 3), (3, 3)]),
        options=[{"activation": a, "out_dtype": torch.float32} for a in ("none", "geglu")],
        given=[("bias",)],
        leads=[(1,), (33,), (150,)],
    ),
    error_cases=ERROR_CASES,
    benchmarks=(
        *(_row(m, g) for g in ("row", "block") for m in (1, 4, 16, 64, 128, 512, 4096)),
        *(_row(m, "row", "gelu") for m in (16, 512)),
        *(_row(m, "tensor", peer="_scaled_mm") for m in (1, 16, 512)),
    ),
    doc="""
`out = act((scale_a * a) @ (scale_b * b).T + bias)`; for `swiglu` and `geglu` the first half of the
rows of `b` is the gate, as in `linear_act`, and `out` has half as many columns.

`a` is `[M, K]` and `b` `[N, K]`, each in `float8_e4m3fn` or `float8_e5m2`, as stored: nothing is
packed beforehand. `bias` is `[N]` in float32, float16 or bfloat16, the result `[M, N]` in
`out_dtype`. Any of the sizes may be 0: over `K = 0` the sum is the bias.

Scales are float32 and multiply the stored values back. Their shapes say what shares one:

| | `scale_a` | `scale_b` |
| --- | --- | --- |
| the tensor | `[]` | `[]` |
| a row | `[M]` | `[N]` |
| a block | `[M, ceil(K/128)]`: 1 x 128 | `[ceil(N/128), ceil(K/128)]`: 128 x 128 |

Any of one goes with any of the other, in any strides.

Codes are decoded exactly; products are summed in float32, with block scales anew for every 128 of
`K`, and each such sum is scaled as it is added to the others. Activations are computed in float32
and the result is rounded once. NaN and infinities (E5M2) come out as from the dequantized factors.

Within a native variant a row of the result depends neither on the number of threads nor on the
other rows; the variant for few rows (at most 16) sums in another order than the others. The result
carries no gradient: its factors are codes.
""",
)
