"""``kpt::fused_norm_quantize``: a norm of rows (of a sum, if wanted), quantized in one pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import norms
from kernel_pytorch.ops import quantization as q
from kernel_pytorch.ops.quantization_errors import call_errors, fused_errors, scale_errors
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases

_OP = "fused_norm_quantize"


def _norm(
    h: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm: str,
    eps: float,
) -> torch.Tensor:
    if norm == "layer":
        return F.layer_norm(h, h.shape[-1:], weight, bias, eps)
    return F.rms_norm(h, h.shape[-1:], weight, eps)


def _check(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    norm: str,
    eps: float,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
) -> None:
    if bias is not None and norm == "rms":
        raise ValueError(
            f"{_OP}: argument 'bias' must be None for norm 'rms', got shape {list(bias.shape)}"
        )
    q.check_fused(_OP, x, x.shape, dtype, granularity, scale)


def _infer(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    norm: str,
    eps: float,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
) -> tuple[Out, Out, Out]:
    return (
        Out(x.shape, dtype),
        Out(q.scale_shape(x.shape, granularity), torch.float32),
        Out((0,) if residual is None else x.shape, x.dtype),
    )


def _reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    norm: str = "rms",
    eps: float = 1e-6,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "row",
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    h = x if residual is None else x + residual
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    w, b = (None if p is None else p.to(wide) for p in (weight, bias))
    y = _norm(h.to(wide), w, b, norm, eps)
    y_q, used = q.quantize_unrounded(y, dtype, granularity, scale)
    return y_q, used, x.new_empty(0) if residual is None else h


def _eager(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    norm: str = "rms",
    eps: float = 1e-6,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "row",
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    h = x if residual is None else x + residual
    w, b = norms.in_dtype_of(x, weight, bias)
    y = _norm(h, w, b, norm, eps)
    y_q, used = q.quantize_eagerly(y, dtype, granularity, scale)
    return y_q, used, x.new_empty(0) if residual is None else h


def _cost(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    **options: Any,
) -> Cost:
    tensors = 1 if residual is None else 2
    return Cost(read_bytes=tensors * x.nbytes, write_bytes=x.numel() + (tensors - 1) * x.nbytes)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    shape = (*case.lead, case.sizes["K"])

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    def on_grid(*sizes: int) -> torch.Tensor:
        # Sums of two are exact in every dtype: the operator rounds them to its own before the norm,
        # which a yardstick in float64 cannot know.
        return (normal(*sizes).clamp(-3.9, 3.9) * 16).round() / 16

    with_residual = "residual" in case.given
    x = on_grid(*shape) if with_residual else normal(*shape)
    weight, bias = (normal(shape[-1]) if n in case.given else None for n in ("weight", "bias"))
    residual = on_grid(*shape) if with_residual else None
    options: dict[str, Any] = {
        "norm": "rms",
        "eps": 1e-6,
        "dtype": torch.float8_e4m3fn,
        "granularity": "row",
        "scale": None,
        **case.options,
    }
    if "scale" in case.given:
        options["scale"] = q.some_scale(shape, options["granularity"], dtype, generator)
    return [x, weight, bias, residual], options


_LAYER = {"norm": "layer"}
_TENSOR = {"granularity": "tensor"}
_BLOCK = {"granularity": "block1x128"}
_INT8 = {"dtype": torch.int8}
_E5M2 = {"dtype": torch.float8_e5m2}
_ALL = ("weight", "bias", "residual", "scale")


def _call(op: Any, x: torch.Tensor, **options: Any) -> Any:
    return op(x, **options)


FUSED_NORM_QUANTIZE = OpSpec(
    name=_OP,
    family="quant",
    schema=(
        "(Tensor x, Tensor? weight=None, Tensor? bias=None, Tensor? residual=None, *, "
        "str norm='rms', float eps=1e-6, ScalarType dtype=float8_e4m3fn, str granularity='row', "
        "Tensor? scale=None) -> (Tensor y_q, Tensor scale, Tensor new_residual)"
    ),
    dims={"x": "...M K", "weight": "K", "bias": "K", "residual": "...M K"},
    arg_dtypes={
        "weight": norms.PARAM_DTYPES,
        "bias": norms.PARAM_DTYPES,
        "scale": (torch.float32,),
    },
    choices={
        "norm": ("rms", "layer"),
        "dtype": (*q.FP8, torch.int8),
        "granularity": ("tensor", "row", "block1x128"),
    },
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    differentiable=False,
    # A scale carries the roundings of the one number that is its group's largest.
    tolerance=Tolerance(integers=0.02, other_floors={1: 4.0}),
    build_inputs=_build,
    free_sizes=("K",),
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(sizes=[{"K": 5}], options=[{**_LAYER, **_TENSOR}], given=[_ALL], leads=[(3,)])
        + cases(
            sizes=[{"K": k} for k in (1, 7, 129, 384, 5003)],
            options=[{**n, **o} for n in ({}, _LAYER) for o in ({}, _BLOCK, _INT8)],
            given=[("weight",), ("weight", "residual")],
            leads=[(3,)],
        )
        + cases(
            sizes=[{"K": 64}, {"K": 300}],
            options=[_TENSOR, {}, _BLOCK, {**_TENSOR, **_INT8}, {**_TENSOR, **_E5M2}],
            given=[("scale",), ("weight", "scale"), ("residual", "scale")],
            leads=[(2, 5)],
        )
        + cases(
            sizes=[{"K": 33}, {"K": 256}],
            options=[{**_LAYER, **_E5M2}, {**_LAYER, "eps": 0.1}],
            given=[(), ("weight", "bias"), ("weight", "bias", "residual")],
            leads=[(), (0,), (4,)],
        )
    ),
    error_cases=(
        *call_errors(_OP, _call),
        *scale_errors(_OP, _call, ("row", "block1x128", "tensor")),
        *fused_errors(_OP, _call),
        ErrorCase(
            name="bias of an RMS norm",
            call=lambda op: op(torch.ones(2, 8), None, torch.ones(8)),
            error=ValueError,
            match=f"{_OP}: argument 'bias' must be None for norm 'rms'",
        ),
        ErrorCase(
            name="weight of another size",
            call=lambda op: op(torch.ones(2, 8), torch.ones(7)),
            error=ValueError,
            match=f"{_OP}: argument 'weight' must have size 8 for K",
        ),
        ErrorCase(
            name="residual of another shape",
            call=lambda op: op(torch.ones(2, 8), None, None, torch.ones(3, 8)),
            error=ValueError,
            match=f"{_OP}: argument 'residual' must have leading dimensions",
        ),
        ErrorCase(
            name="residual of another dtype",
            call=lambda op: op(torch.ones(2, 8), None, None, torch.ones(2, 8).half()),
            error=TypeError,
            match=f"{_OP}: argument 'residual' must have dtype float32, got float16",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"1024x4096 {name}",
            case=Case(sizes={"K": 4096}, options=options, given=given, lead=(1024,)),
            dtype=torch.bfloat16,
        )
        for name, options, given in (
            ("rms row", {}, ("weight",)),
            ("rms block1x128", _BLOCK, ("weight",)),
            ("rms residual row int8", _INT8, ("weight", "residual")),
            ("layer row", _LAYER, ("weight", "bias")),
        )
    ),
    doc="""
`y = rms_norm(h)` or `layer_norm(h)` of the last dimension of `h = x` or `h = x + residual`, and
`y_q`, `scale` with `y = y_q * scale` but for the rounding: the input of an fp8 or int8 product,
without `y` in memory.

`x` and `residual` are `[..., K]`; `weight` and `bias` (layer norm only) `[K]`, of `x`'s dtype or
float32. `h` is rounded to `x`'s dtype, as in `add_rms_norm`, and is the third output; without
`residual` that is empty, `[0]`. `y` is not rounded before it is quantized.

`dtype` is `float8_e4m3fn`, `float8_e5m2` or `int8` (symmetric). Scales are those of `quantize_fp8`
and `quantize_int8`: `[...]` for `granularity="row"`, `[..., ceil(K / 128)]` for `"block1x128"` (fp8
only), `[]` for `"tensor"`, which must be given. A given `scale` is used as it is, and returned.
Saturation, NaN and infinities as there: a row of `h` with NaN or an infinity gives NaN (int8: scale
NaN).

The outputs carry no gradient. A row does not depend on other rows.
""",
)
