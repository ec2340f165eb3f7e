"""``kpt::pack_weight``: a linear layer's weight, rearranged (and quantized) once."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.packing import FORMATS, pack, packed_shape, quantize
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _check(weight: torch.Tensor, format: str, scale: torch.Tensor | None, group_size: int) -> None:
    if scale is not None and not FORMATS[format].largest:
        raise ValueError(
            f"pack_weight: argument 'scale' must be None for format '{format}', which stores "
            f"weights themselves, got shape {list(scale.shape)}"
        )
    if group_size != -1:
        raise ValueError(
            f"pack_weight: argument 'group_size' must be -1 (one scale per output) for format "
            f"'{format}', got {group_size}"
        )


def _infer(
    weight: torch.Tensor, format: str, scale: torch.Tensor | None, group_size: int
) -> tuple[Out, Out]:
    n, k = weight.shape
    return Out(packed_shape(format, n, k), FORMATS[format].dtype), Out((n,), torch.float32)


def _reference(
    weight: torch.Tensor, format: str, scale: torch.Tensor | None = None, group_size: int = -1
) -> tuple[torch.Tensor, torch.Tensor]:
    stored, scale = quantize(weight, format, scale)
    return pack(stored, format), scale


def _cost(
    weight: torch.Tensor, format: str, scale: torch.Tensor | None = None, group_size: int = -1
) -> Cost:
    panels, elements = packed_shape(format, *weight.shape)
    return Cost(
        read_bytes=weight.nbytes, write_bytes=panels * elements * FORMATS[format].dtype.itemsize
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    n = case.sizes["N"]
    weight = torch.randn((n, case.sizes["K"]), generator=generator).to(dtype)
    scale = None
    if "scale" in case.given:
        # Small ones as well, so that some weights saturate.
        scale = torch.rand(n, generator=generator) * 0.02 + 0.002
        scale = scale.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return [weight, case.options["format"], scale, -1], {}


_WEIGHT = torch.ones(4, 3)
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
        "(Tensor weight, str format, Tensor? scale=None, int group_size=-1) "
        "-> (Tensor packed, Tensor scale)"
    ),
    dims={"weight": "N K", "scale": "N"},
    arg_dtypes={"scale": (torch.float32,)},
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
    ),
    error_cases=(
        ErrorCase(
            name="unknown format",
            call=lambda op: op(_WEIGHT, "int3"),
            error=ValueError,
            match="pack_weight: argument 'format' must be one of 'bf16'.*got 'int3'",
        ),
        ErrorCase(
            name="a dtype's name for a format",
            call=lambda op: op(_WEIGHT, "bfloat16"),
            error=ValueError,
            match="pack_weight: argument 'format' must be one of .*got 'bfloat16'",
        ),
        ErrorCase(
            name="empty format",
            call=lambda op: op(_WEIGHT, ""),
            error=ValueError,
            match="pack_weight: argument 'format' must be one of .*got ''",
        ),
        ErrorCase(
            name="format in capitals",
            call=lambda op: op(_WEIGHT, "INT8"),
            error=ValueError,
            match="pack_weight: argument 'format' must be one of .*got 'INT8'",
        ),
        ErrorCase(
            name="weight without dimensions",
            call=lambda op: op(torch.tensor(1.0), "bf16"),
            error=ValueError,
            match="pack_weight: argument 'weight' must have 2 dimensions",
        ),
        ErrorCase(
            name="weight of one dimension",
            call=lambda op: op(torch.ones(4), "bf16"),
            error=ValueError,
            match="pack_weight: argument 'weight' must have 2 dimensions",
        ),
        ErrorCase(
            name="weight of three dimensions",
            call=lambda op: op(torch.ones(2, 4, 3), "int8"),
            error=ValueError,
            match="pack_weight: argument 'weight' must have 2 dimensions",
        ),
        ErrorCase(
            name="weight of integers",
            call=lambda op: op(_WEIGHT.int(), "int8"),
            error=TypeError,
            match="pack_weight: argument 'weight' must have dtype .*got int32",
        ),
        ErrorCase(
            name="weight already quantized",
            call=lambda op: op(_WEIGHT.to(torch.int8), "int8"),
            error=TypeError,
            match="pack_weight: argument 'weight' must have dtype .*got int8",
        ),
        ErrorCase(
            name="weight in fp8",
            call=lambda op: op(_WEIGHT.to(torch.float8_e4m3fn), "fp8_e4m3"),
            error=TypeError,
            match="pack_weight: argument 'weight' must have dtype .*got float8_e4m3fn",
        ),
        ErrorCase(
            name="complex weight",
            call=lambda op: op(_WEIGHT.to(torch.complex64), "bf16"),
            error=TypeError,
            match="pack_weight: argument 'weight' must have dtype .*got complex64",
        ),
        ErrorCase(
            name="sparse weight",
            call=lambda op: op(_WEIGHT.to_sparse(), "bf16"),
            error=TypeError,
            match="pack_weight: argument 'weight' must be a (strided|dense CPU) tensor",
        ),
        ErrorCase(
            name="transposed weight",
            call=lambda op: op(_WEIGHT.t(), "bf16"),
            error=ValueError,
            match="pack_weight: argument 'weight' must",
        ),
        ErrorCase(
            name="scale for bf16",
            call=lambda op: op(_WEIGHT, "bf16", torch.ones(4)),
            error=ValueError,
            match="pack_weight: argument 'scale' must be None for format 'bf16'",
        ),
        ErrorCase(
            name="scale for fp32",
            call=lambda op: op(_WEIGHT, "fp32", torch.ones(4)),
            error=ValueError,
            match="pack_weight: argument 'scale' must be None for format 'fp32'",
        ),
        ErrorCase(
            name="scale per input",
            call=lambda op: op(_WEIGHT, "int8", torch.ones(3)),
            error=ValueError,
            match="pack_weight: argument 'scale' must have size 4 for N",
        ),
        ErrorCase(
            name="one scale for all",
            call=lambda op: op(_WEIGHT, "fp8_e4m3", torch.tensor(0.5)),
            error=ValueError,
            match="pack_weight: argument 'scale' must have 1 dimensions",
        ),
        ErrorCase(
            name="scale as a column",
            call=lambda op: op(_WEIGHT, "int8", torch.ones(4, 1)),
            error=ValueError,
            match="pack_weight: argument 'scale' must have 1 dimensions",
        ),
        ErrorCase(
            name="scale in bfloat16",
            call=lambda op: op(_WEIGHT, "int8", torch.ones(4).bfloat16()),
            error=TypeError,
            match="pack_weight: argument 'scale' must have dtype float32, got bfloat16",
        ),
        ErrorCase(
            name="scale in float64",
            call=lambda op: op(_WEIGHT, "int8", torch.ones(4).double()),
            error=TypeError,
            match="pack_weight: argument 'scale' must have dtype float32, got float64",
        ),
        ErrorCase(
            name="scale on another device",
            call=lambda op: op(_WEIGHT, "int8", torch.ones(4, device="meta")),
            error=ValueError,
            match="pack_weight: argument 'scale' must be on cpu",
        ),
        ErrorCase(
            name="groups",
            call=lambda op: op(_WEIGHT, "int8", None, 32),
            error=ValueError,
            match="pack_weight: argument 'group_size' must be -1 .*got 32",
        ),
        ErrorCase(
            name="groups of nothing",
            call=lambda op: op(_WEIGHT, "fp8_e4m3", None, 0),
            error=ValueError,
            match="pack_weight: argument 'group_size' must be -1 .*got 0",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"4096x4096 {f}",
            case=Case(sizes={"N": 4096, "K": 4096}, options={"format": f}, lead=()),
            dtype=torch.bfloat16,
        )
        for f in FORMATS
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
| `fp8_e4m3` | uint8 | the codes of the same four | `256 G` |

In int8 a last row holds, as int32, the sum of `q` over the inputs of each output.

`scale` is `[N]` in float32 and multiplies back: `w = q * scale[n]`. For `fp32` and `bf16`, which
store weights themselves, it is ones. For the others it is `max |w[n, :]| / 127` (int8) or `/ 448`
(fp8), with `q = w / scale` in float32 rounded to nearest even, `|q| <= 127` or saturating at 448
(OCP 8-bit floating point specification). A row of zeros gets scale 1. int8 has no NaN: a row with
a NaN or an infinity gets scale NaN; in fp8 a NaN weight stays NaN and a row with an infinity gets
scale NaN. A `scale` that is given is used as it is, and returned.

`group_size` must be -1 (one scale per output). The outputs carry no gradient.
""",
)
