"""``kpt::int8_gemm``: the product of two scaled int8 matrices, summed exactly."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernel_pytorch.ops.linears import linear
from kernel_pytorch.ops.scaled_factors import check_scale, dequantized, make_scale, wide
from kernel_pytorch.ops.spec import FLOATS, Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

_MAX_K = 2**17 - 1
"""Up to here sums of int8 products fit 32 bits (kernels/gemm/int8_gemm.h)."""


def _check(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
    zero_point_a: torch.Tensor | None,
) -> None:
    check_scale("int8_gemm", "scale_a", scale_a, [(), (a.shape[0],)])
    check_scale("int8_gemm", "scale_b", scale_b, [(), (b.shape[0],)])
    if a.shape[1] > _MAX_K:
        raise ValueError(
            f"int8_gemm: argument 'a' must have at most {_MAX_K} columns, got shape {list(a.shape)}"
        )


def _infer(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
    zero_point_a: torch.Tensor | None,
) -> Out:
    return Out([a.shape[0], b.shape[0]], out_dtype)


def _reference(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    zero_point_a: torch.Tensor | None = None,
) -> torch.Tensor:
    dtype = wide(a, scale_a)
    shifted = a.to(dtype)
    if zero_point_a is not None:
        shifted = shifted - zero_point_a.to(dtype)[:, None]
    x = dequantized(shifted, scale_a, dtype)
    weight = dequantized(b, scale_b, dtype)
    result = linear(x, weight, None if bias is None else bias.to(dtype))
    return result if dtype == torch.float64 else result.to(out_dtype)


def _cost(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    zero_point_a: torch.Tensor | None = None,
) -> Cost:
    return Cost(
        flops=2.0 * a.numel() * b.shape[0],
        read_bytes=a.nbytes + b.nbytes + scale_a.nbytes + scale_b.nbytes,
        write_bytes=a.shape[0] * b.shape[0] * out_dtype.itemsize,
        compute="int8",
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    # The sizes A and B: one more than the ranks of the scales.
    options = {"out_dtype": torch.bfloat16, **case.options}
    m, k, n = math.prod(case.lead), case.sizes["K"], case.sizes["N"]

    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)

    a, b = codes(m, k), codes(n, k)
    scale_a = make_scale((() if case.sizes["A"] == 1 else (m,)), generator)
    scale_b = make_scale((() if case.sizes["B"] == 1 else (n,)), generator)
    bias = torch.randn(n, generator=generator) if "bias" in case.given else None
    zero = None
    if "zero_point_a" in case.given:
        zero = torch.randint(-130, 130, (m,), generator=generator, dtype=torch.int32)
    if dtype == torch.float64:
        a, b, scale_a, scale_b = a.double(), b.double(), scale_a.double(), scale_b.double()
        bias = None if bias is None else bias.double()
    return [a, b, scale_a, scale_b], {"bias": bias, **options, "zero_point_a": zero}


def _plain(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    **_: Any,
) -> tuple[Any, ...]:
    """The same layer in ``out_dtype`` throughout."""
    x = dequantized(a, scale_a, torch.float32).to(out_dtype)
    return x, dequantized(b, scale_b, torch.float32).to(out_dtype)


def _for_int_mm(a: torch.Tensor, b: torch.Tensor, *_: torch.Tensor, **__: Any) -> tuple[Any, ...]:
    return a, b.t()


def _row(m: int, given: tuple[str, ...] = (), peer: str = "F.linear") -> Benchmark:
    case = Case(sizes={"N": 4096, "K": 4096, "A": 2, "B": 2}, given=given, lead=(m,))
    name = f"4096x4096 M={m}" + (" zero points" if given else "")
    return Benchmark(
        name=name if peer == "F.linear" else f"{name} / {peer}",
        case=case,
        dtype=torch.int8,
        eager=linear if peer == "F.linear" else torch._int_mm,
        eager_inputs=_plain if peer == "F.linear" else _for_int_mm,
    )


def _codes(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.int8)


def _refused(
    name: str, match: str, error: type[Exception] = ValueError, **changed: Any
) -> ErrorCase:
    """A good call with ``changed`` arguments; M = 3, N = 5, K = 7."""

    def call(op: Any) -> Any:
        given = {
            "a": _codes(3, 7),
            "b": _codes(5, 7),
            "scale_a": torch.ones(3),
            "scale_b": torch.ones(5),
            **changed,
        }
        return op(**given)

    return ErrorCase(name=name, call=call, error=error, match=f"int8_gemm: argument {match}")


def _sizes(shapes: list[tuple[int, int]], scales: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"N": n, "K": k, "A": a, "B": b} for n, k in shapes for a, b in scales]


_ANY_SCALES = [(a, b) for a in (1, 2) for b in (1, 2)]
_ANY_GIVEN: list[tuple[str, ...]] = [(), ("bias",), ("zero_point_a",), ("bias", "zero_point_a")]

INT8_GEMM = OpSpec(
    name="int8_gemm",
    family="gemm",
    schema=(
        "(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, *, Tensor? bias=None, "
        "ScalarType out_dtype=bfloat16, Tensor? zero_point_a=None) -> Tensor"
    ),
    dims={"a": "M K", "b": "N K", "bias": "N", "zero_point_a": "M"},
    dtypes=(torch.int8,),
    arg_dtypes={
        "b": (torch.int8,),
        "scale_a": (torch.float32,),
        "scale_b": (torch.float32,),
        "bias": FLOATS,
        "zero_point_a": (torch.int32,),
    },
    choices={"out_dtype": FLOATS},
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
        options=[{"out_dtype": torch.float32}],
        given=_ANY_GIVEN,
        leads=[(3,), (37,)],
    )
    + cases(
        sizes=_sizes([(70, 200)], _ANY_SCALES),
        options=[{"out_dtype": d} for d in FLOATS],
        given=_ANY_GIVEN,
        leads=[(2,), (9,)],
    )
    + cases(
        sizes=_sizes([(0, 5), (5, 0), (1, 1), (130, 257)], [(1, 1), (2, 2)]),
        given=_ANY_GIVEN,
        leads=[(0,), (1,), (5,)],
    )
    + cases(
        sizes=_sizes([(40, 4200), (300, 96)], [(2, 2)]),
        options=[{"out_dtype": torch.float32}],
        given=_ANY_GIVEN,
        leads=[(1,), (33,), (150,)],
    ),
    error_cases=(
        _refused("other inner size", "'b' must have size 7 for K", b=_codes(5, 8)),
        _refused("a of one dimension", "'a' must have 2 dimensions", a=_codes(7)),
        _refused("b of three dimensions", "'b' must have 2 dimensions", b=_codes(1, 5, 7)),
        _refused("a unsigned", "'a' must have dtype int8", TypeError, a=_codes(3, 7).byte()),
        _refused("b unsigned", "'b' must have dtype int8", TypeError, b=_codes(5, 7).byte()),
        _refused("a not quantized", "'a' must have dtype int8", TypeError, a=torch.ones(3, 7)),
        _refused("a transposed", "'a' must have a dense last dimension", a=_codes(7, 3).t()),
        _refused("b transposed", "'b' must have a dense last dimension", b=_codes(7, 5).t()),
        _refused(
            "a too wide",
            "'a' must have at most 131071 columns",
            a=_codes(3, 1).expand(3, 131072).contiguous(),
            b=_codes(5, 1).expand(5, 131072).contiguous(),
        ),
        *(
            _refused(
                f"scale_a {list(shape)}",
                r"'scale_a' must have one of the shapes \[\], \[3\], got shape",
                scale_a=torch.ones(shape),
            )
            for shape in ((1,), (5,), (3, 1), (1, 3))
        ),
        *(
            _refused(
                f"scale_b {list(shape)}",
                r"'scale_b' must have one of the shapes \[\], \[5\], got shape",
                scale_b=torch.ones(shape),
            )
            for shape in ((1,), (3,), (5, 1), (1, 5))
        ),
        _refused(
            "scale_a in float16",
            "'scale_a' must have dtype float32, got float16",
            TypeError,
            scale_a=torch.ones(3).half(),
        ),
        _refused("short bias", "'bias' must have (shape|size)", bias=torch.ones(4)),
        _refused("short zero point", "'zero_point_a' must have", zero_point_a=torch.ones(2).int()),
        _refused("one zero point", "'zero_point_a' must have", zero_point_a=torch.ones(()).int()),
        _refused(
            "zero point in int8",
            "'zero_point_a' must have dtype int32, got int8",
            TypeError,
            zero_point_a=_codes(3),
        ),
        _refused("integer result", "'out_dtype' must be one of", out_dtype=torch.int32),
        _refused("b elsewhere", "'b' must be on cpu", b=_codes(5, 7).to("meta")),
    ),
    benchmarks=(
        *(_row(m) for m in (1, 4, 16, 64, 128, 512, 4096)),
        *(_row(m, ("zero_point_a",)) for m in (16, 512)),
        *(_row(m, peer="_int_mm") for m in (1, 16, 512)),
    ),
    doc="""
`out[m, n] = scale_a[m] * scale_b[n] * sum_k (a[m, k] - zero_point_a[m]) * b[n, k] + bias[n]`.

`a` is `[M, K]` and `b` `[N, K]` int8, as stored: nothing is packed beforehand. Scales are float32:
`scale_a` `[]` or one per row, `[M]`; `scale_b` `[]` or one per row of `b`, `[N]`. `zero_point_a` is
int32 `[M]`, for asymmetric activations; any values. `bias` is `[N]` in float32, float16 or
bfloat16, the result `[M, N]` in `out_dtype`. `K` is at most 131071; any size may be 0, and over
`K = 0` the sum is the bias. `quantize_int8` makes such activations.

Sums of products are exact 32-bit integers, the zero points' part is exact too; then scales and bias
follow in float32, and the result is rounded once. So a row depends on nothing but its own row of
`a`, and all native variants sum alike. The result carries no gradient: its factors are codes.
""",
)
