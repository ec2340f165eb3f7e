"""``kpt::quantize_int8``: a tensor to int8 with scales (and zero points), measured or given."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import quantization as q
from kernel_pytorch.ops.quantization_errors import call_errors, scale_errors
from kernel_pytorch.ops.spec import (
    FLOATS,
    Benchmark,
    Case,
    Cost,
    ErrorCase,
    OpSpec,
    Out,
    Tolerance,
    cases,
)

_GRANULARITIES = ("tensor", "row")


def _check(
    x: torch.Tensor,
    granularity: str,
    symmetric: bool,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
) -> None:
    q.check_scale("quantize_int8", "scale", scale, x, granularity)
    q.check_scale("quantize_int8", "zero_point", zero_point, x, granularity)
    if (zero_point is not None) != (scale is not None and not symmetric):
        raise ValueError(
            "quantize_int8: argument 'zero_point' must be given with a scale and symmetric=False, "
            f"and only then, got symmetric={symmetric}, "
            f"{'a' if scale is not None else 'no'} scale and "
            f"{'a' if zero_point is not None else 'no'} zero point"
        )


def _infer(
    x: torch.Tensor,
    granularity: str,
    symmetric: bool,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
) -> tuple[Out, Out, Out]:
    shape = q.scale_shape(x.shape, granularity)
    return Out(x.shape, torch.int8), Out(shape, torch.float32), Out(shape, torch.int32)


def _reference(
    x: torch.Tensor,
    *,
    granularity: str = "row",
    symmetric: bool = True,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # In float32 whatever x is: the scale and the one rounding of x / scale are so defined.
    x = x.float()
    if scale is None:
        scale, zero = q.int8_scale(x, granularity, symmetric)
    else:
        scale = scale.float().clone()
        zero = torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point
        zero = zero.to(torch.int32, copy=True)
    scaled = x * (1.0 / q.expanded(scale, x))
    lowest = -127 if symmetric else -128
    return q.round_int8(scaled, q.expanded(zero, x), lowest), scale, zero


def _eager_row(x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(dim=-1).float() / 127.0
    return (x.float() / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def _eager_asymmetric(x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lo, hi = x.amin(dim=-1).float().clamp_max(0), x.amax(dim=-1).float().clamp_min(0)
    scale = (hi - lo) / 255.0
    zero = -128 - (lo / scale).round()
    scaled = (x.float() / scale[..., None]).round() + zero[..., None]
    return scaled.clamp(-128, 127).to(torch.int8), scale, zero.to(torch.int32)


def _cost(x: torch.Tensor, **options: Any) -> Cost:
    twice = options["granularity"] == "tensor" and options["scale"] is None
    return Cost(read_bytes=x.nbytes * (2 if twice else 1), write_bytes=x.numel())


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    shape = (*case.lead, case.sizes["K"])
    x = (torch.randn(shape, generator=generator) + case.sizes.get("mean", 0)).to(dtype)
    options: dict[str, Any] = {
        "granularity": "row",
        "symmetric": True,
        "scale": None,
        "zero_point": None,
        **case.options,
    }
    scales = q.scale_shape(shape, options["granularity"])
    if "scale" in case.given:
        # Small ones as well, so that some elements saturate.
        scale = torch.rand(scales, generator=generator) * 0.03 + 0.005
        options["scale"] = scale.to(torch.float64 if dtype == torch.float64 else torch.float32)
    if "zero_point" in case.given:
        options["zero_point"] = torch.randint(
            -128, 128, scales, generator=generator, dtype=torch.int32
        )
    return [x], options


_SIZES = tuple({"K": k, "mean": mean} for k in (1, 7, 64, 129, 300, 4100) for mean in (-40, 0, 1))
_ASYMMETRIC = {"symmetric": False}
_BOTH = ("scale", "zero_point")


def _call(op: Any, x: torch.Tensor, **options: Any) -> Any:
    return op(x, **options)


def _zero_point_refused(name: str, **options: Any) -> ErrorCase:
    return ErrorCase(
        name=name,
        call=lambda op: op(torch.ones(2, 8), **options),
        error=ValueError,
        match="quantize_int8: argument 'zero_point' must be given with a scale and symmetric=False",
    )


QUANTIZE_INT8 = OpSpec(
    name="quantize_int8",
    family="quant",
    schema=(
        "(Tensor x, *, str granularity='row', bool symmetric=True, Tensor? scale=None, "
        "Tensor? zero_point=None) -> (Tensor x_q, Tensor scale, Tensor zero_point)"
    ),
    dims={"x": "... K"},
    arg_dtypes={"scale": (torch.float32,), "zero_point": (torch.int32,)},
    choices={"granularity": _GRANULARITIES},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_reference,
    differentiable=False,
    tolerance=Tolerance(exact=True),
    build_inputs=_build,
    free_sizes=("K",),
    # Rows share a scale unless the granularity says otherwise.
    row_dims=None,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(
            sizes=[{"K": 5}],
            options=[{"granularity": "tensor", **_ASYMMETRIC}],
            given=[_BOTH],
            leads=[(3,)],
        )
        + cases(
            sizes=_SIZES,
            options=[{}, _ASYMMETRIC, {"granularity": "tensor"}],
            leads=[(3,), (2, 5)],
        )
        + cases(
            sizes=_SIZES[::4],
            options=[{}, {"granularity": "tensor"}],
            given=[("scale",)],
            leads=[(3,), (2, 5), ()],
        )
        + cases(
            sizes=_SIZES[::4],
            options=[_ASYMMETRIC, {"granularity": "tensor", **_ASYMMETRIC}],
            given=[(), _BOTH],
            leads=[(2, 7), ()],
        )
        + cases(
            sizes=[{"K": 0}, {"K": 65}],
            options=[{}, _ASYMMETRIC, {"granularity": "tensor"}],
            leads=[(0,), (4,)],
        )
    ),
    error_cases=(
        *call_errors("quantize_int8", _call),
        *scale_errors("quantize_int8", _call, _GRANULARITIES),
        _zero_point_refused("zero point alone", zero_point=torch.zeros(2, dtype=torch.int32)),
        _zero_point_refused(
            "zero point when symmetric",
            scale=torch.ones(2),
            zero_point=torch.zeros(2, dtype=torch.int32),
        ),
        _zero_point_refused("no zero point when asymmetric", scale=torch.ones(2), symmetric=False),
        ErrorCase(
            name="zero point in int8",
            call=lambda op: op(
                torch.ones(2, 8),
                symmetric=False,
                scale=torch.ones(2),
                zero_point=torch.zeros(2, dtype=torch.int8),
            ),
            error=TypeError,
            match="quantize_int8: argument 'zero_point' must have dtype int32, got int8",
        ),
        ErrorCase(
            name="zero point of another shape",
            call=lambda op: op(
                torch.ones(2, 8),
                symmetric=False,
                scale=torch.ones(2),
                zero_point=torch.zeros(3, dtype=torch.int32),
            ),
            error=ValueError,
            match=r"quantize_int8: argument 'zero_point' must have shape \[2\] for granularity",
        ),
        ErrorCase(
            name="blocks",
            call=lambda op: op(torch.ones(2, 8), granularity="block1x128"),
            error=ValueError,
            match="quantize_int8: argument 'granularity' must be one of 'tensor', 'row', got",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"1024x4096 row{'' if symmetric else ' asymmetric'}",
            case=Case(sizes={"K": 4096}, options={"symmetric": symmetric}, lead=(1024,)),
            dtype=dtype,
            eager=_eager_row if symmetric else _eager_asymmetric,
        )
        for dtype in (FLOATS[2], FLOATS[0])
        for symmetric in (True, False)
    ),
    doc="""
`x_q`, `scale` and `zero_point` with `x = (x_q - zero_point) * scale` but for the rounding: what
`int8_gemm` takes.

`x` is `[..., K]`. `scale` (float32) and `zero_point` (int32) are `[]` for `granularity="tensor"`,
`[...]` for `"row"`, one for each row.

| `symmetric` | `scale` | `zero_point` | `x_q` | from, to |
|---|---|---|---|---|
| `True` | `max(abs(x)) / 127` | 0 | `round(x / scale)` | -127, 127 |
| `False` | `(hi - lo) / 255` | `-128 - round(lo / scale)` | `round(x / scale) + zero` | -128, 127 |

with `lo = min(x, 0)` and `hi = max(x, 0)`, so that zero is exact. `x / scale` is `x * (1 / scale)`
in float32, rounded to nearest even, and `(hi - lo) / 255` is `(hi / 2 - lo / 2) / 127.5`, which
cannot overflow. A scale is at least `2^-126`; a row of zeros (also an empty one) gets scale 1.

int8 has no NaN: a row with NaN or an infinity gets scale NaN, zero point 0 and codes 0, so that all
it is multiplied into is NaN.

A given `scale` (a positive, normal number), with `zero_point` when asymmetric, is used as it is,
and returned; then what is out of range saturates, infinities included, and NaN becomes
`zero_point`.

The outputs carry no gradient. A row depends on other rows through a shared scale only.
""",
)
