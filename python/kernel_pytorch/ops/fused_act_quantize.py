"""``kpt::fused_act_quantize``: an activation, or a gated pair, quantized in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kernel_pytorch.ops import quantization as q
from kernel_pytorch.ops.activations import EAGER, GATE_KINDS, KINDS, wide
from kernel_pytorch.ops.quantization_errors import call_errors, fused_errors, scale_errors
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases

_OP = "fused_act_quantize"


def _shape(x: torch.Tensor, gated: bool) -> Sequence[Any]:
    return (*x.shape[:-1], x.shape[-1] // 2) if gated else x.shape


def _check(
    x: torch.Tensor,
    kind: str,
    gated: bool,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
) -> None:
    if gated and x.shape[-1] % 2 != 0:
        raise ValueError(
            f"{_OP}: argument 'x' must have an even last dimension [..., 2 K] when gated, got "
            f"shape {list(x.shape)}"
        )
    if gated and kind not in GATE_KINDS:
        raise ValueError(
            f"{_OP}: argument 'kind' must be one of {', '.join(map(repr, GATE_KINDS))} when "
            f"gated, got {kind!r}"
        )
    q.check_fused(_OP, x, _shape(x, gated), dtype, granularity, scale)


def _infer(
    x: torch.Tensor,
    kind: str,
    gated: bool,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
) -> tuple[Out, Out]:
    shape = _shape(x, gated)
    return Out(shape, dtype), Out(q.scale_shape(shape, granularity), torch.float32)


def _activated(x: torch.Tensor, kind: str, gated: bool) -> torch.Tensor:
    if not gated:
        return EAGER[kind](x)
    gate, up = x.chunk(2, dim=-1)
    return EAGER[kind](gate) * up


def _reference(
    x: torch.Tensor,
    kind: str,
    *,
    gated: bool = False,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "row",
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.quantize_unrounded(_activated(wide(x), kind, gated), dtype, granularity, scale)


def _eager(
    x: torch.Tensor,
    kind: str,
    *,
    gated: bool = False,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "row",
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.quantize_eagerly(_activated(x, kind, gated), dtype, granularity, scale)


def _cost(x: torch.Tensor, kind: str, **options: Any) -> Cost:
    return Cost(read_bytes=x.nbytes, write_bytes=x.numel() / (2 if options["gated"] else 1))


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    options: dict[str, Any] = {
        "gated": False,
        "dtype": torch.float8_e4m3fn,
        "granularity": "row",
        "scale": None,
        **case.options,
    }
    kind = options.pop("kind")
    shape = (*case.lead, case.sizes["K"])
    x_shape = (*shape[:-1], 2 * shape[-1]) if options["gated"] else shape
    # Far below 0 gelu keeps an absolute error only, and the scale of a row of nothing but such
    # values would make all of that error.
    x = (2 * torch.randn(x_shape, generator=generator)).clamp(min=-3).to(dtype)
    if "scale" in case.given:
        options["scale"] = q.some_scale(shape, options["granularity"], dtype, generator)
    return [x, kind], options


_TENSOR = {"granularity": "tensor"}
_BLOCK = {"granularity": "block1x128"}
_INT8 = {"dtype": torch.int8}
_GATED = {"gated": True}


def _call(op: Any, x: torch.Tensor, **options: Any) -> Any:
    return op(x, "silu", **options)


FUSED_ACT_QUANTIZE = OpSpec(
    name=_OP,
    family="quant",
    schema=(
        "(Tensor x, str kind, *, bool gated=False, ScalarType dtype=float8_e4m3fn, "
        "str granularity='row', Tensor? scale=None) -> (Tensor y_q, Tensor scale)"
    ),
    dims={"x": "... W"},
    arg_dtypes={"scale": (torch.float32,)},
    choices={
        "kind": KINDS,
        "dtype": (*q.FP8, torch.int8),
        "granularity": ("tensor", "row", "block1x128"),
    },
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    differentiable=False,
    tolerance=Tolerance(integers=0.25),
    build_inputs=_build,
    free_sizes=("K",),
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(
            sizes=[{"K": 5}],
            options=[{"kind": "silu", **_TENSOR}],
            given=[("scale",)],
            leads=[(3,)],
        )
        + cases(
            sizes=[{"K": k} for k in (7, 129, 4100)],
            options=[{"kind": kind} for kind in KINDS]
            + [{"kind": kind, **_GATED} for kind in GATE_KINDS],
            leads=[(3,)],
        )
        + cases(
            sizes=[{"K": k} for k in (0, 1, 64, 300)],
            options=[
                {"kind": kind, **gated, **o}
                for kind in ("gelu", "silu")
                for gated in ({}, _GATED)
                for o in (_BLOCK, _INT8, {"dtype": torch.float8_e5m2})
            ],
            leads=[(2, 5)],
        )
        + cases(
            sizes=[{"K": 64}, {"K": 300}],
            options=[{"kind": "relu", **o} for o in (_TENSOR, {}, _BLOCK, {**_TENSOR, **_INT8})],
            given=[("scale",)],
            leads=[(), (0,), (4,)],
        )
    ),
    error_cases=(
        *call_errors(_OP, _call),
        *scale_errors(_OP, _call, ("row", "block1x128", "tensor")),
        *fused_errors(_OP, _call),
        ErrorCase(
            name="odd width of a pair",
            call=lambda op: op(torch.ones(2, 5), "silu", gated=True),
            error=ValueError,
            match=f"{_OP}: argument 'x' must have an even last dimension",
        ),
        ErrorCase(
            name="a kind that gates nothing",
            call=lambda op: op(torch.ones(2, 4), "tanh", gated=True),
            error=ValueError,
            match=f"{_OP}: argument 'kind' must be one of .*'silu'.* when gated, got 'tanh'",
        ),
        ErrorCase(
            name="kind of linear_act",
            call=lambda op: op(torch.ones(2, 4), "swiglu"),
            error=ValueError,
            match=f"{_OP}: argument 'kind' must be one of .*got 'swiglu'",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"1024x4096 {name}",
            case=Case(sizes={"K": 4096}, options=options, lead=(1024,)),
            dtype=torch.bfloat16,
        )
        for name, options in (
            ("silu gated row", {"kind": "silu", **_GATED}),
            ("silu gated block1x128", {"kind": "silu", **_GATED, **_BLOCK}),
            ("silu gated row int8", {"kind": "silu", **_GATED, **_INT8}),
            ("gelu row", {"kind": "gelu"}),
        )
    ),
    doc="""
`y = act(x)`, or with `gated=True` `y = act(gate) * up` of the halves of the last dimension (gate
first), and `y_q`, `scale` with `y = y_q * scale` but for the rounding: the input of the second fp8
or int8 product of an MLP, without `y` in memory.

`x` is `[..., K]`, gated `[..., 2 K]`; `y_q` is `[..., K]`. `kind` is one of those of `act`, gated
of `act_mul`. `y` is computed in float32, as exactly as for float32, and not rounded before it is
quantized.

`dtype` is `float8_e4m3fn`, `float8_e5m2` or `int8` (symmetric). Scales are those of `quantize_fp8`
and `quantize_int8`: `[...]` for `granularity="row"`, `[..., ceil(K / 128)]` for `"block1x128"` (fp8
only), `[]` for `"tensor"`, which must be given. A given `scale` is used as it is, and returned.
Saturation, NaN and infinities as there.

The outputs carry no gradient. A row does not depend on other rows.
""",
)
