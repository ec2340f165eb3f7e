"""``kpt::dequantize_fp8``: fp8 and its scales to float32, float16 or bfloat16."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import quantization as q
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


def _granularity(x_q: torch.Tensor, scale: torch.Tensor) -> str:
    if scale.dim() == 0:
        return "tensor"
    if scale.dim() == x_q.dim() - 1:
        return "row"
    if scale.dim() < 2 or x_q.dim() < 2 or scale.shape[-2] == x_q.shape[-2]:
        return "block1x128"
    return "block128x128"


def _check(x_q: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> None:
    wanted = q.scale_shape(x_q.shape, _granularity(x_q, scale))
    if tuple(scale.shape) != wanted:
        shapes = [list(q.scale_shape(x_q.shape, g)) for g in q.GRANULARITIES[: 2 + x_q.dim()]]
        raise ValueError(
            f"dequantize_fp8: argument 'scale' must have a shape of those that scale 'x_q' "
            f"{list(x_q.shape)}, {', '.join(map(str, shapes))}, got {list(scale.shape)}"
        )


def _infer(x_q: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> Out:
    return Out(x_q.shape, dtype)


def _reference(
    x_q: torch.Tensor, scale: torch.Tensor, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    if scale.dtype == torch.float64:
        return x_q.double() * q.expanded(scale, x_q)
    return (x_q.float() * q.expanded(scale, x_q)).to(dtype)


def _eager(
    x_q: torch.Tensor, scale: torch.Tensor, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return (x_q.float() * q.expanded(scale, x_q)).to(dtype)


def _eager_one_scale(
    x_q: torch.Tensor, scale: torch.Tensor, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return x_q.to(dtype) * scale.to(dtype)


def _cost(x_q: torch.Tensor, scale: torch.Tensor, *, dtype: torch.dtype = torch.float32) -> Cost:
    return Cost(read_bytes=x_q.numel() + scale.nbytes, write_bytes=x_q.numel() * dtype.itemsize)


# A case says which by the size G.
_GRANULARITY_OF = {2: "tensor", 3: "row", 4: "block1x128", 5: "block128x128"}


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    granularity = _GRANULARITY_OF[case.sizes["G"]]
    square = granularity == "block128x128"
    shape = (*(case.lead or ((1,) if square else ())), case.sizes["K"])
    wanted = dtype if dtype in q.FP8 else torch.float8_e4m3fn
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    x_q = codes.view(wanted)
    x_q = torch.where(x_q.float().isfinite(), codes, 0).view(wanted)  # PyTorch compares NaN badly
    scale = torch.rand(q.scale_shape(shape, granularity), generator=generator) * 0.02 + 0.001
    if dtype == torch.float64:
        x_q, scale = x_q.double(), scale.double()
    return [x_q, scale], {"dtype": case.options.get("dtype", torch.float32)}


_X = torch.ones(4, 200).to(torch.float8_e4m3fn)


def _refused(name: str, match: str, *args: Any, error: type[Exception] = ValueError) -> ErrorCase:
    return ErrorCase(
        name=name,
        call=lambda op: op(*args),
        error=error,
        match=f"dequantize_fp8: argument {match}",
    )


DEQUANTIZE_FP8 = OpSpec(
    name="dequantize_fp8",
    family="quant",
    schema="(Tensor x_q, Tensor scale, *, ScalarType dtype=float32) -> Tensor",
    dims={"x_q": "... K"},
    dtypes=q.FP8,
    arg_dtypes={"scale": (torch.float32,)},
    choices={"dtype": FLOATS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    differentiable=False,
    tolerance=Tolerance(exact=True),
    out_overload=True,
    build_inputs=_build,
    free_sizes=("K",),
    # The scales of other rows are another tensor.
    row_dims=1,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(sizes=[{"K": 5, "G": 2}], leads=[(3,)])
        + cases(
            sizes=[{"K": k, "G": g} for k in (1, 7, 64, 129, 300, 4100) for g in _GRANULARITY_OF],
            options=[{"dtype": d} for d in FLOATS],
            leads=[(3, 2), (131,)],
        )
        + cases(sizes=[{"K": 0, "G": g} for g in _GRANULARITY_OF])
        + cases(
            sizes=[{"K": k, "G": g} for k in (64, 9000) for g in (2, 3, 4)],
            options=[{"dtype": FLOATS[2]}],
            leads=[(), (0,)],
        )
        + cases(
            sizes=[{"K": 33, "G": 5}],
            options=[{"dtype": FLOATS[1]}],
            leads=[(2, 129), (1,), (128,), (256,)],
        )
    ),
    error_cases=(
        _refused(
            "no dimensions", "'x_q' must have at least 1 dimensions", _X[0, 0], _X.new_ones(())
        ),
        _refused(
            "x_q of integers",
            "'x_q' must have dtype float8_e4m3fn or float8_e5m2, got int8",
            torch.ones(4, 200, dtype=torch.int8),
            torch.tensor(1.0),
            error=TypeError,
        ),
        _refused(
            "x_q of floats",
            "'x_q' must have dtype float8_e4m3fn or float8_e5m2, got float32",
            torch.ones(4, 200),
            torch.tensor(1.0),
            error=TypeError,
        ),
        _refused(
            "scale in bfloat16",
            "'scale' must have dtype float32, got bfloat16",
            _X,
            torch.tensor(1.0).bfloat16(),
            error=TypeError,
        ),
        *(
            _refused(
                f"scale {list(shape)}",
                r"'scale' must have a shape of those that scale 'x_q' \[4, 200\], \[\], \[4\], "
                r"\[4, 2\], \[1, 2\], got",
                _X,
                torch.ones(shape),
            )
            for shape in ((1,), (200,), (4, 1), (1, 1), (4, 200), (2, 2), (1, 4, 2))
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"1024x4096 {granularity} to {str(out).removeprefix('torch.')} out=",
            case=Case(sizes={"K": 4096, "G": g}, options={"dtype": out}, lead=(1024,)),
            dtype=torch.float8_e4m3fn,
            eager=_eager_one_scale if granularity == "tensor" else None,
            use_out=True,
        )
        for out in (FLOATS[2], FLOATS[0])
        for g, granularity in _GRANULARITY_OF.items()
    ),
    doc="""
`out = x_q * scale`: the inverse of `quantize_fp8`.

`x_q` is `[..., K]` in `float8_e4m3fn` or `float8_e5m2`, `dtype` the result's: float32, float16 or
bfloat16. The product is taken in float32 and then rounded to `dtype`: the values of
`(x_q.float() * scale).to(dtype)`. (The one exception: with the hardware's conversion to bfloat16,
results below `2^-126` are 0.)

What shares a scale is read from the shape of `scale` (float32). Its rank decides: `[]` scales
everything; one dimension less than `x_q`, `[...]`, scales rows; with as many dimensions it is
`[..., M, ceil(K / 128)]` for 128 neighbours in a row where its next to last size is `x_q`'s, else
`[..., ceil(M / 128), ceil(K / 128)]` for squares. With one row both mean the same, so no shape has
two meanings. A scale `[1]` is none of these: use `[]`.

NaN and, in E5M2, infinity propagate. `out` must not overlap `x_q`.
""",
)
