"""``kpt::pack_weight``: a linear layer's weight, rearranged (and quantized) once."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernel_pytorch.ops.pack_weight_errors import ERROR_CASES
from kernel_pytorch.ops.packing import (
    FORMATS,
    GROUP_SIZES,
    LARGEST_ZERO_POINT,
    group_count,
    pack,
    packed_shape,
    quantize,
    scale_shape,
)
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out, cases


def _refuse(argument: str, expected: str, got: object) -> ValueError:
    return ValueError(f"pack_weight: argument '{argument}' must {expected}, got {got}")


def _check(
    weight: torch.Tensor,
    format: str,
    scale: torch.Tensor | None,
    group_size: int,
    zero_point: torch.Tensor | None,
    symmetric: bool,
) -> None:
    layout = FORMATS[format]
    if group_size not in (GROUP_SIZES if layout.groups else (-1,)):
        others = ", 32, 64 or 128" if layout.groups else ""
        raise _refuse(
            "group_size",
            f"be -1 (one scale per output){others} for format '{format}'",
            group_size,
        )
    if scale is not None and not layout.largest:
        raise _refuse(
            "scale",
            f"be None for format '{format}', which stores weights themselves",
            f"shape {list(scale.shape)}",
        )
    shape = scale_shape(format, weight.shape[0], weight.shape[1], group_size)
    for name, tensor in (("scale", scale), ("zero_point", zero_point)):
        if tensor is not None and not layout.groups and name == "zero_point":
            raise _refuse(name, f"be None for format '{format}'", f"shape {list(tensor.shape)}")
        if tensor is not None and tuple(tensor.shape) != shape:
            raise _refuse(
                name,
                f"have shape {list(shape)} for a weight {list(weight.shape)}",
                f"shape {list(tensor.shape)}",
            )
    if zero_point is not None and scale is None:
        raise _refuse(
            "zero_point",
            "be None without 'scale', which it belongs to",
            f"shape {list(zero_point.shape)}",
        )
    if not symmetric and not layout.groups:
        raise _refuse("symmetric", f"be True for format '{format}'", symmetric)
    if not symmetric and scale is not None:
        raise _refuse(
            "symmetric", "be True for a given scale: 'zero_point' belongs to it", symmetric
        )


def _zero_groups(k: int, group_size: int, zero_point: torch.Tensor | None, symmetric: bool) -> int:
    return 0 if symmetric and zero_point is None else group_count(k, group_size)


def _infer(
    weight: torch.Tensor,
    format: str,
    scale: torch.Tensor | None,
    group_size: int,
    zero_point: torch.Tensor | None,
    symmetric: bool,
) -> tuple[Out, Out]:
    n, k = weight.shape
    zero_groups = _zero_groups(k, group_size, zero_point, symmetric)
    return (
        Out(packed_shape(format, n, k, zero_groups), FORMATS[format].dtype),
        Out(scale_shape(format, n, k, group_size), torch.float32),
    )


def _reference(
    weight: torch.Tensor,
    format: str,
    scale: torch.Tensor | None = None,
    group_size: int = -1,
    zero_point: torch.Tensor | None = None,
    symmetric: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    if zero_point is not None and (zero_point > LARGEST_ZERO_POINT).any():
        raise _refuse("zero_point", f"be at most {LARGEST_ZERO_POINT}", int(zero_point.max()))
    stored = quantize(weight, format, scale, group_size, zero_point, symmetric)
    return pack(stored, format), stored.scale


def _cost(
    weight: torch.Tensor,
    format: str,
    scale: torch.Tensor | None = None,
    group_size: int = -1,
    zero_point: torch.Tensor | None = None,
    symmetric: bool = True,
) -> Cost:
    outs = _infer(weight, format, scale, group_size, zero_point, symmetric)
    written = sum(math.prod(o.shape) * o.dtype.itemsize for o in outs)
    return Cost(read_bytes=weight.nbytes, write_bytes=written)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    n, k = case.sizes["N"], case.sizes["K"]
    format, group_size = case.options["format"], case.options.get("group_size", -1)
    weight = torch.randn((n, k), generator=generator).to(dtype)
    scale = zero_point = None
    shape = scale_shape(format, n, k, group_size)
    if "scale" in case.given:
        # Small ones as well, so that some weights saturate.
        scale = torch.rand(shape, generator=generator) * 0.02 + 0.002
        scale = scale * (10 if FORMATS[format].groups else 1)
        scale = scale.to(torch.float64 if dtype == torch.float64 else torch.float32)
    if "zero_point" in case.given:
        zero_point = torch.randint(0, LARGEST_ZERO_POINT + 1, shape, generator=generator)
        zero_point = zero_point.to(torch.uint8)
    options = {"zero_point": zero_point, "symmetric": case.options.get("symmetric", True)}
    return [weight, format, scale, group_size], options


_BENCHMARKED: tuple[dict[str, Any], ...] = (
    *({"format": f} for f in FORMATS),
    {"format": "int4", "group_size": 128},
)
_SIZES = tuple(
    {"N": n, "K": k}
    for n, k in (
        (0, 5),
        (5, 0),
        (1, 1),
        (2, 64),
        (3, 4),
        (7, 33),
        (16, 63),
        (31, 65),
        (33, 2),
        (40, 127),
        (63, 31),
        (64, 16),
        (64, 64),
        (65, 17),
        (65, 130),
        (66, 3),
        (96, 96),
        (100, 258),
        (127, 7),
        (128, 128),
        (129, 200),
        (130, 515),
        (192, 48),
        (200, 61),
        (257, 9),
        (20, 4099),
    )
)

PACK_WEIGHT = OpSpec(
    name="pack_weight",
    family="gemm",
    schema=(
        "(Tensor weight, str format, Tensor? scale=None, int group_size=-1, *, "
        "Tensor? zero_point=None, bool symmetric=True) -> (Tensor packed, Tensor scale)"
    ),
    dims={"weight": "N K", "scale": "... N", "zero_point": "... N"},
    arg_dtypes={"scale": (torch.float32,), "zero_point": (torch.uint8,)},
    choices={"format": tuple(FORMATS)},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_reference,
    differentiable=False,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "K"),
    # A row of the first output is a panel: 64 rows of the weight.
    row_dims=None,
    cases=cases(
        sizes=_SIZES,
        options=[{"format": f} for f in FORMATS],
        leads=[()],
    )
    + cases(
        sizes=_SIZES,
        options=[{"format": f} for f, layout in FORMATS.items() if layout.largest],
        given=[("scale",)],
        leads=[()],
    )
    + cases(
        sizes=[{"N": n, "K": k} for n in (12, 62, 70, 320) for k in (5, 32, 66, 1030)],
        options=[{"format": f} for f in FORMATS],
        leads=[()],
    )
    + cases(
        sizes=_SIZES[::2],
        options=[
            {"format": "int4", "group_size": g, "symmetric": s}
            for g in GROUP_SIZES
            for s in (True, False)
        ],
        leads=[()],
    )
    + cases(
        sizes=_SIZES[1::3],
        options=[{"format": "int4", "group_size": g} for g in GROUP_SIZES],
        given=[("scale",), ("scale", "zero_point")],
        leads=[()],
    ),
    error_cases=ERROR_CASES,
    benchmarks=tuple(
        Benchmark(
            name=f"4096x4096 {' '.join(map(str, options.values()))}",
            case=Case(sizes={"N": 4096, "K": 4096}, options=options, lead=()),
            dtype=torch.bfloat16,
        )
        for options in _BENCHMARKED
    ),
    doc="""
The weight of a linear layer in the layout that `packed_linear` reads, made once. The result is an
ordinary tensor with one documented layout per format, the same on every processor: save it on one
machine, use it on another.

`weight` is `[N, K]` as in `nn.Linear`, in float32, float16 or bfloat16; any size may be 0.
`packed` is `[P, E]`: `P = ceil(N / 64)` panels of 64 outputs, each a table of dwords `[G][64]`
whose column `n` belongs to output `64 p + n`. What lies past `N` and `K` is zero. `G` is the number
of dwords that hold `K`, rounded up to 16.

| format | `packed` | a dword of row `g` holds | `E` |
|---|---|---|---|
| `fp32` | float32 | `w[g]` | `64 G` |
| `bf16` | bfloat16 | `w[2g], w[2g+1]` | `128 G` |
| `int8` | int8 | `q[4g], q[4g+2], q[4g+1], q[4g+3]` | `256 (G + 1)` |
| `fp8_e4m3`, `fp8_e5m2` | uint8 | the codes of the same four | `256 G` |
| `int4` | uint8 | `q[8g]` to `q[8g+7]`, 4 bits each | `256 G`, or `256 G + 64 groups` |

In int8 a last row holds, as int32, the sum of `q` over the inputs of each output. In int4 the low
halves of a dword's bytes are what row `2g` of int8 would hold, the high halves what its row `2g+1`
would, in two's complement; zero points follow the table as bytes `[groups][64]`.

`scale` is `[N]` in float32 and multiplies back: `w = q * scale[n]`. For `fp32` and `bf16`, which
store weights themselves, it is ones. For int8 and fp8 it is `max |w[n, :]|` over 127 (int8), 448
(e4m3) or 57344 (e5m2), with `q = w / scale` in float32 rounded to nearest even, `|q| <= 127` or
saturating at the largest finite value (OCP 8-bit floating point specification). A row of zeros gets
scale 1. int8 has no NaN: a row with a NaN or an infinity gets scale NaN; in fp8 a NaN weight stays
NaN and a row with an infinity gets scale NaN. A `scale` that is given is used as it is, and
returned.

`group_size` is -1, one scale per output; in int4 it may be 32, 64 or 128 as well: inputs that share
a scale (the last group may be shorter).

**int4** is what published 4-bit checkpoints hold. With `groups = ceil(K / group_size)` (1 for -1),
`scale` is `[groups, N]`, `zero_point` `[groups, N]` in uint8, `c` the unsigned code from 0 to 15
and `q = c - 8`:

    w = (c - zero_point) * scale,    c = clamp(round(w / scale + zero_point), 0, 15)

- `symmetric=True`: the zero point is 8 and not stored; `scale = max |w| / 7.5` over the group.
- `symmetric=False`: `lo = min(w, 0)`, `hi = max(w, 0)` over the group, `scale = hi / 15 - lo / 15`,
  `zero_point = round(-lo / scale)`.
- `scale` given, with or without `zero_point` (0 to 16): both are used as they are. A checkpoint's
  codes come back exactly when its weight, dequantized, is packed with its own scales and zeros:

      # AWQ, GPTQ: codes [K, N], scales and zeros [groups, N], all unpacked from their int32 words
      zeros = zeros.to(torch.uint8)
      each = torch.arange(K) // group_size
      w = ((codes - zeros[each].float()) * scales.float()[each]).t().contiguous()
      packed, scale = torch.ops.kpt.pack_weight(
          w, "int4", scales.float(), group_size, zero_point=zeros)
      # torchao keeps scales as [N, groups]: pass them .t().contiguous()

A group of zeros gets scale 1 (and zero point 0 where there is one), a group with a NaN or an
infinity scale NaN. The zero points travel inside `packed`; `packed_linear` needs nothing else.

The outputs carry no gradient.
""",
)
