"""``kpt::packed_linear``: a linear layer whose weight ``pack_weight`` has packed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.linears import ACTIVATIONS, GATES, linear
from kernel_pytorch.ops.packed_linear_errors import ERROR_CASES
from kernel_pytorch.ops.packing import (
    FORMATS,
    GROUP_SIZES,
    dequantize,
    group_count,
    pack,
    packed_shape,
    quantize,
    scale_shape,
)
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out, cases

COMPUTE = ("weight_only", "int8")
MAX_INT8_K = 32768
"""Sums of int8 products, zero point included, fit 32 bits up to here."""


def _check(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None,
    activation: str,
    group_size: int,
    compute: str,
) -> None:
    k = x.shape[-1]
    layout = FORMATS[format]
    if group_size not in (GROUP_SIZES if layout.groups else (-1,)):
        others = ", 32, 64 or 128" if layout.groups else ""
        raise ValueError(
            f"packed_linear: argument 'group_size' must be -1 (one scale per output){others} for "
            f"format '{format}', got {group_size}"
        )
    n = scale.shape[-1]
    if tuple(scale.shape) != scale_shape(format, n, k, group_size):
        expected = f"[{group_count(k, group_size)}, N]" if layout.groups else "[N]"
        raise ValueError(
            f"packed_linear: argument 'scale' must have shape {expected} for format '{format}', "
            f"got shape {list(scale.shape)}"
        )
    if out_features != n:
        raise ValueError(
            f"packed_linear: argument 'out_features' must be {n} like the size of 'scale', "
            f"got {out_features}"
        )
    dtype = layout.dtype
    if packed.dtype != dtype and not (packed.dtype == torch.float64 and dtype.is_floating_point):
        raise TypeError(
            f"packed_linear: argument 'packed' must have dtype {_short(dtype)} for format "
            f"'{format}', got {_short(packed.dtype)}"
        )
    shapes = [packed_shape(format, n, k)]
    if layout.groups:
        shapes.append(packed_shape(format, n, k, group_count(k, group_size)))
    if tuple(packed.shape) not in shapes:
        raise ValueError(
            f"packed_linear: argument 'packed' must have shape "
            f"{' or '.join(str(list(s)) for s in shapes)}, "
            f"as pack_weight makes it from a weight [{n}, {k}] in format '{format}', got shape "
            f"{list(packed.shape)}"
        )
    if activation in GATES and n % 2 != 0:
        raise ValueError(
            f"packed_linear: argument 'out_features' must be even for activation '{activation}', "
            f"got {n}"
        )
    if compute == "int8":
        if format not in ("int8", "int4"):
            raise ValueError(
                f"packed_linear: argument 'format' must be 'int8' or 'int4' for compute 'int8', "
                f"got '{format}'"
            )
        if k > MAX_INT8_K:
            raise ValueError(
                f"packed_linear: argument 'x' must have at most {MAX_INT8_K} features for "
                f"compute 'int8', got shape {list(x.shape)}"
            )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _infer(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None,
    activation: str,
    group_size: int,
    compute: str,
) -> Out:
    shape = list(x.shape)
    shape[-1] = out_features // 2 if activation in GATES else out_features
    return Out(shape, x.dtype)


def _quantized_rows(x: torch.Tensor) -> torch.Tensor:
    """``x`` as ``compute="int8"`` sees it: each row rounded to 256 steps, in float32.

    The gradient passes straight through the rounding.
    """
    rows = F.pad(x.detach().float(), (0, 1))  # the range always holds 0, also of an empty row
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    step = high / 255 - low / 255
    step = torch.where((low.abs() + high).isfinite(), step, torch.nan)
    flat = step < torch.finfo(torch.float32).tiny
    safe = torch.where(flat, 1.0, step)
    zero = (-low / safe).round()
    codes = ((rows * (1 / safe)).round() + zero).clamp(0, 255)
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    seen = torch.where(flat, 0.0, step).to(wide) * (codes - zero).to(wide)
    return seen[..., :-1].to(x.dtype) + (x - x.detach())


def _eager(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    group_size: int = -1,
    compute: str = "weight_only",
) -> torch.Tensor:
    weight = dequantize(packed, scale, format, x.shape[-1], x.dtype, group_size)
    return linear(_quantized_rows(x) if compute == "int8" else x, weight, bias, activation)


def _reference(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    group_size: int = -1,
    compute: str = "weight_only",
) -> torch.Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    wide_bias = None if bias is None else bias.to(wide.dtype)
    result = _eager(
        wide, packed, scale, out_features, format, wide_bias, activation, group_size, compute
    )
    return result.to(x.dtype)


def _cost(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    group_size: int = -1,
    compute: str = "weight_only",
) -> Cost:
    rows = x.numel() // max(1, x.shape[-1])
    features = out_features // (2 if activation in GATES else 1)
    rate = "int8" if compute == "int8" else "bf16" if x.dtype == torch.bfloat16 else "fp32"
    return Cost(
        flops=2.0 * x.numel() * out_features,
        read_bytes=x.nbytes + packed.nbytes + scale.nbytes,
        write_bytes=rows * features * x.itemsize,
        compute=rate,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    options = {
        "format": "bf16",
        "activation": "none",
        "compute": "weight_only",
        "group_size": -1,
        **case.options,
    }
    format, activation = options["format"], options["activation"]
    # Zero points are part of `packed`: no argument tells of them.
    symmetric = format != "int4" or "bias" not in case.given
    k = case.sizes["K"]
    n = case.sizes["N"] * (2 if activation in GATES else 1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(*case.lead, k).to(dtype)
    exact = dtype == torch.float64
    weight = normal(n, k) / max(1, k) ** 0.5
    group_size = options["group_size"]
    stored = quantize(
        weight.double() if exact else weight, format, None, group_size, symmetric=symmetric
    )
    bias = normal(n).to(dtype) if "bias" in case.given else None
    scale = stored.scale.double() if exact else stored.scale
    return [x, pack(stored, format), scale, n, format, bias, activation, group_size], {
        "compute": options["compute"]
    }


def _unpacked(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    out_features: int,
    format: str,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    group_size: int = -1,
    compute: str = "weight_only",
) -> tuple[Any, ...]:
    weight = dequantize(packed, scale, format, x.shape[-1], x.dtype, group_size)
    return x, weight, bias, activation


def _row(
    m: int,
    n: int,
    k: int,
    format: str,
    activation: str,
    compute: str = "weight_only",
    group_size: int = -1,
) -> Benchmark:
    options = {
        "format": format,
        "activation": activation,
        "compute": compute,
        "group_size": group_size,
    }
    case = Case(sizes={"N": n, "K": k}, options=options, given=("bias",), lead=(m,))
    how = format if group_size == -1 else f"{format} g{group_size}"
    how += " int8 compute" if compute == "int8" else ""
    return Benchmark(
        name=f"{how} {n}x{k} M={m} {activation}",
        case=case,
        dtype=torch.float32 if format == "fp32" else torch.bfloat16,
        eager=linear,
        eager_inputs=_unpacked,
    )


_WAYS: tuple[dict[str, Any], ...] = (
    *({"format": f} for f in FORMATS),
    {"format": "int8", "compute": "int8"},
    {"format": "int4", "group_size": 32},
    {"format": "int4", "group_size": 128},
    {"format": "int4", "group_size": 64, "compute": "int8"},
)


def _with(activations: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{**way, "activation": a} for way in _WAYS for a in activations]


PACKED_LINEAR = OpSpec(
    name="packed_linear",
    family="gemm",
    schema=(
        "(Tensor x, Tensor packed, Tensor scale, int out_features, str format, "
        'Tensor? bias=None, str activation="none", int group_size=-1, *, '
        'str compute="weight_only") -> Tensor'
    ),
    dims={"x": "... K", "packed": "P E", "scale": "...G N", "bias": "N"},
    arg_dtypes={
        "packed": tuple(f.dtype for f in FORMATS.values()),
        "scale": (torch.float32,),
    },
    choices={"format": tuple(FORMATS), "activation": ACTIVATIONS, "compute": COMPUTE},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "K"),
    cases=cases(
        sizes=[{"N": 2, "K": 64}, {"N": 7, "K": 133}, {"N": 65, "K": 63}],
        options=_with(ACTIVATIONS),
        given=[("bias",)],
        leads=[(3,), (2, 17)],
    )
    + cases(
        sizes=[
            {"N": 0, "K": 5},
            {"N": 5, "K": 0},
            {"N": 1, "K": 1},
            {"N": 16, "K": 130},
            {"N": 129, "K": 257},
        ],
        options=_with(("none", "geglu")),
        leads=[(), (0,), (1,), (40,)],
    )
    + cases(
        sizes=[{"N": 40, "K": 4200}, {"N": 200, "K": 96}],
        options=_with(("none", "gelu", "swiglu")),
        given=[("bias",)],
        leads=[(1,), (33,), (150,)],
    ),
    error_cases=ERROR_CASES,
    benchmarks=(
        *(
            _row(m, 4096, 4096, f, activation)
            for f in ("bf16", "fp32", "int8", "fp8_e4m3")
            for m in (1, 16, 128, 512)
            for activation in ("none", "gelu")
        ),
        _row(1, 4096, 4096, "fp8_e5m2", "none"),
        *(_row(m, 4096, 4096, "int8", "none", "int8") for m in (1, 16, 128, 512)),
        *(_row(m, 4096, 4096, "int4", "none", group_size=128) for m in (1, 16, 128, 512)),
        _row(1, 4096, 4096, "int4", "none", group_size=32),
        *(_row(m, 4096, 4096, "int4", "none", "int8", 128) for m in (16, 128, 512)),
        *(
            _row(m, n, k, f, activation, compute)
            for f, compute in (("bf16", "weight_only"), ("int8", "int8"))
            for n, k, activation in (
                (1152, 384, "none"),
                (384, 384, "none"),
                (1536, 384, "gelu"),
                (384, 1536, "none"),
            )
            for m in (16, 128, 4096)
        ),
    ),
    doc="""
`y = act(x @ W.T + bias)` with `W` as `pack_weight` left it: `packed` and `scale` are its two
results, `out_features` and `format` what it was made from. Gated activations as in `linear_act`:
`W` has the gate's rows first and `y` half of `out_features`.

`x` is `[..., K]` in float32, float16 or bfloat16, `bias` `[out_features]` in the dtype of `x`,
the result in the dtype of `x`. Any of the sizes may be 0. `packed` holds `K` only up to its
padding, so `x` is held against that.

In int4 `scale` is `[groups, N]` and the weights are `(c - zero_point) * scale` of their group
(`pack_weight`); the formulas below then hold for each group, and the groups are added up.

`compute="weight_only"`: `y = act(scale[n] * sum_k x[m, k] * q[n, k] + bias[n])` with `q` decoded
exactly. For bfloat16 `x` the products are of bfloat16 pairs summed in float32, which take subnormal
numbers as 0; for float32 and float16 `x`, and for `fp32` weights, everything is float32. Rounded
once, to the dtype of `x`.

`compute="int8"` (formats `int8` and `int4`, `K` at most 32768): each row of `x` is rounded on the
fly to 256 steps between `lo = min(x, 0)` and `hi = max(x, 0)`: in float32, to nearest even,
`s = hi / 255 - lo / 255`, `z = round(-lo / s)`, `u = clamp(round(x * (1 / s)) + z, 0, 255)` and
`y = act(scale[n] * s * (sum_k u q - z sum_k q) + bias[n])` (int4: `s` times the sum over the
groups). The sums over `k` are exact integers. A row of `x` with a NaN or an infinity gives a row of
NaN. Its gradient passes straight through the rounding.

A row of the result depends neither on the number of threads nor on the other rows. Weight-only
kernels sum few rows (at most 16) in another order than many, so the last bits may change when the
number of rows crosses that.

Gradients go to `x`, `bias` and, where it is read, `scale`; packed weights are constants. Autocast
leaves the operator alone: it computes in the dtype of `x`.
""",
)
