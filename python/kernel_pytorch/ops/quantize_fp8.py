"""``kpt::quantize_fp8``: a tensor to fp8 with scales, measured or given."""

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


def _check(
    x: torch.Tensor,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
    stochastic_seed: int | None,
    return_amax: bool,
) -> None:
    q.check_scale("quantize_fp8", "scale", scale, x, granularity)
    if return_amax and scale is None:
        raise ValueError(
            "quantize_fp8: argument 'return_amax' must be False without a given scale: a measured "
            "one tells amax, got True"
        )


def _infer(
    x: torch.Tensor,
    dtype: torch.dtype,
    granularity: str,
    scale: torch.Tensor | None,
    stochastic_seed: int | None,
    return_amax: bool,
) -> tuple[Out, Out]:
    return Out(x.shape, dtype), Out(q.scale_shape(x.shape, granularity), torch.float32)


def _reference(
    x: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "tensor",
    scale: torch.Tensor | None = None,
    stochastic_seed: int | None = None,
    return_amax: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    # In float32 whatever x is: the scale and the one rounding of x / scale are so defined.
    x = x.float()
    amax = q.amax_of(x, granularity)
    scale = q.fp8_scale(amax, dtype) if scale is None else scale.float()
    scaled = x * (1.0 / q.expanded(scale, x))
    if stochastic_seed is None:
        x_q = q.round_fp8(scaled, dtype)
    else:
        x_q = q.round_fp8_stochastic(scaled, dtype, stochastic_seed)
    return x_q, amax if return_amax else scale.clone()


def _eager(
    x: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    granularity: str = "tensor",
    scale: torch.Tensor | None = None,
    stochastic_seed: int | None = None,
    return_amax: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    if granularity != "tensor" or stochastic_seed is not None or return_amax or x.numel() == 0:
        return _reference(
            x,
            dtype=dtype,
            granularity=granularity,
            scale=scale,
            stochastic_seed=stochastic_seed,
            return_amax=return_amax,
        )
    if scale is None:
        scale = x.abs().amax().float() / q.largest(dtype)
    return q.round_fp8(x.float() / scale, dtype), scale


def _eager_row(x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(dim=-1).float() / 448.0
    return q.round_fp8(x.float() / scale[..., None], torch.float8_e4m3fn), scale


def _eager_block(x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = x.unflatten(-1, (-1, q.BLOCK))
    scale = blocks.abs().amax(dim=-1).float() / 448.0
    scaled = (blocks.float() / scale[..., None]).flatten(-2)
    return q.round_fp8(scaled, torch.float8_e4m3fn), scale


def _eager_square(x: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    m, k = x.shape
    blocks = x.view(m // q.BLOCK, q.BLOCK, k // q.BLOCK, q.BLOCK)
    scale = blocks.abs().amax(dim=(1, 3), keepdim=True).float() / 448.0
    scaled = (blocks.float() / scale).view(m, k)
    return q.round_fp8(scaled, torch.float8_e4m3fn), scale[:, 0, :, 0]


def _cost(x: torch.Tensor, **options: Any) -> Cost:
    # A scale of the whole tensor is known only after the whole tensor was read.
    twice = options["granularity"] == "tensor" and options["scale"] is None
    return Cost(read_bytes=x.nbytes * (2 if twice else 1), write_bytes=x.numel())


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    square = case.options.get("granularity") == "block128x128"
    shape = (*(case.lead or ((1,) if square else ())), case.sizes["K"])
    x = torch.randn(shape, generator=generator)
    # Magnitudes of many binades, so that subnormal codes come up and given scales saturate.
    x = (x * torch.exp2(torch.randint(-8, 3, shape, generator=generator))).to(dtype)
    options: dict[str, Any] = {
        "dtype": torch.float8_e4m3fn,
        "granularity": "tensor",
        "scale": None,
        "stochastic_seed": None,
        "return_amax": False,
        **case.options,
    }
    if "scale" in case.given:
        scale = torch.rand(q.scale_shape(shape, options["granularity"]), generator=generator)
        options["scale"] = (scale * 0.02 + 0.001).to(
            torch.float64 if dtype == torch.float64 else torch.float32
        )
    return [x], options


_SIZES = tuple({"K": k} for k in (1, 7, 64, 129, 300, 4100))
_LEADS: tuple[tuple[int, ...], ...] = ((3,), (2, 130), (0,))
_E5M2 = {"dtype": torch.float8_e5m2}

QUANTIZE_FP8 = OpSpec(
    name="quantize_fp8",
    family="quant",
    schema=(
        "(Tensor x, *, ScalarType dtype=float8_e4m3fn, str granularity='tensor', "
        "Tensor? scale=None, int? stochastic_seed=None, bool return_amax=False) "
        "-> (Tensor x_q, Tensor scale)"
    ),
    dims={"x": "... K"},
    arg_dtypes={"scale": (torch.float32,)},
    choices={"dtype": q.FP8, "granularity": q.GRANULARITIES},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    differentiable=False,
    tolerance=Tolerance(exact=True),
    build_inputs=_build,
    free_sizes=("K",),
    # Rows share a scale unless the granularity says otherwise.
    row_dims=None,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(sizes=[{"K": 5}], given=[("scale",)], leads=[(3,)])
        + cases(
            sizes=_SIZES,
            options=[{"granularity": g} for g in q.GRANULARITIES],
            leads=_LEADS,
        )
        + cases(
            sizes=[{"K": 64}, {"K": 129}],
            options=[{"granularity": g, **_E5M2} for g in q.GRANULARITIES],
            leads=_LEADS[:2],
        )
        + cases(
            sizes=[{"K": 7}, {"K": 300}],
            options=[
                {"granularity": g, "return_amax": amax}
                for g in q.GRANULARITIES
                for amax in (False, True)
            ],
            given=[("scale",)],
            leads=_LEADS[:2],
        )
        + cases(
            sizes=[{"K": 7}, {"K": 1027}],
            options=[{"granularity": g, "stochastic_seed": 7} for g in q.GRANULARITIES]
            + [{**_E5M2, "stochastic_seed": -1}],
            leads=_LEADS[:2],
        )
        + cases(sizes=[{"K": 0}], options=[{"granularity": g} for g in q.GRANULARITIES])
        + cases(
            sizes=[{"K": 64}, {"K": 9000}],
            options=[{}, {"granularity": "row"}, {"granularity": "block1x128"}],
            leads=[()],
        )
    ),
    error_cases=(
        *call_errors("quantize_fp8", lambda op, x, **options: op(x, **options)),
        *scale_errors("quantize_fp8", lambda op, x, **options: op(x, **options), q.GRANULARITIES),
        ErrorCase(
            name="amax without a scale",
            call=lambda op: op(torch.ones(2, 8), return_amax=True),
            error=ValueError,
            match="quantize_fp8: argument 'return_amax' must be False without a given scale",
        ),
        ErrorCase(
            name="squares of a vector",
            call=lambda op: op(torch.ones(8), granularity="block128x128"),
            error=ValueError,
            match="quantize_fp8: argument 'x' must have at least 2 dimensions for granularity",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"1024x4096 {granularity}{' static' if given else ''}",
            case=Case(
                sizes={"K": 4096}, options={"granularity": granularity}, given=given, lead=(1024,)
            ),
            dtype=dtype,
            eager=eager,
        )
        for dtype in (FLOATS[2], FLOATS[0])
        for granularity, given, eager in (
            ("tensor", ("scale",), None),
            ("tensor", (), None),
            ("row", (), _eager_row),
            ("block1x128", (), _eager_block),
            ("block128x128", (), _eager_square),
        )
    ),
    doc="""
`x_q = fp8(x / scale)` and `scale`, with `x = x_q * scale` but for the rounding.

`x` is `[..., K]`; `dtype` is the format, `float8_e4m3fn` or `float8_e5m2` (OCP 8-bit floating point
specification). `granularity` says what shares a scale, and its shape:

| `granularity` | shares a scale | `scale` (float32) |
|---|---|---|
| `tensor` | everything | `[]` |
| `row` | the last dimension | `[...]` |
| `block1x128` | 128 neighbours in a row | `[..., ceil(K / 128)]` |
| `block128x128` | squares of the last two dimensions | `[..., ceil(M / 128), ceil(K / 128)]` |

Without a given `scale` it is measured: `scale = amax / largest`, where `amax` is the largest `|x|`
of the group, NaN left out, and `largest` is 448 (E4M3) or 57344 (E5M2); so `amax` is
`scale * largest`. A scale is at least `2^-126`. A group of zeros (also an empty one) gets scale 1.
A group with an infinity gets scale NaN, and its codes are NaN: what overflowed shows.

A given `scale` (a positive, normal number; static or delayed scaling) is used as it is, and
returned. With `return_amax=True` the second output is `amax` of each group in its place, measured
in the same pass: what the history of delayed scaling wants.

`x / scale` is `x * (1 / scale)` in float32, rounded once to nearest even. Rounding saturates: what
is beyond `largest`, infinities included, becomes `largest`. NaN stays NaN, with its sign. With
`scale = 1` this is PyTorch's cast bit for bit wherever that does not overflow.

`stochastic_seed` rounds stochastically instead, so that the mean over seeds is `x / scale`: up in
magnitude when the distance from the lower neighbour, over that between the two, plus a random
fraction of 20 bits (E5M2: 21) reaches 1. The bits of element `i` in row-major order are the top
ones of word `i` of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) with the seed as key:
they depend on neither strides nor threads nor the processor.

The outputs carry no gradient. A row depends on other rows through a shared scale only.
""",
)
