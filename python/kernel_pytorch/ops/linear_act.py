"""``kpt::linear_act``: a linear layer and the activation or gate after it, in one pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.linears import (
    ACTIVATIONS,
    check_layer,
    layer_inputs,
    linear,
    output_features,
)
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _check(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> None:
    check_layer("linear_act", weight, bias, activation)


def _infer(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> Out:
    return Out([*x.shape[:-1], output_features(weight, activation)], x.dtype)


def _reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> torch.Tensor:
    wide_bias = None if bias is None else wide(bias)
    return linear(wide(x), wide(weight), wide_bias, activation).to(x.dtype)


def _cost(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> Cost:
    rows = x.numel() // max(1, x.shape[-1])
    features = output_features(weight, activation)
    return Cost(
        flops=2.0 * rows * weight.numel(),
        read_bytes=x.nbytes + weight.nbytes,
        write_bytes=rows * features * x.itemsize,
        compute="bf16" if x.dtype == torch.bfloat16 else "fp32",
    )


def _backward_cost(x: torch.Tensor, weight: torch.Tensor, *args: Any) -> Cost:
    return Cost(
        flops=4.0 * math.prod(x.shape[:-1]) * weight.numel(),
        read_bytes=x.nbytes + weight.nbytes,
        write_bytes=x.nbytes + weight.nbytes,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    return list(layer_inputs(case, dtype, generator)), {}


_SIZES = (
    {"N": 0, "K": 5},
    {"N": 5, "K": 0},
    {"N": 1, "K": 1},
    {"N": 7, "K": 33},
    {"N": 16, "K": 64},
    {"N": 65, "K": 31},
    {"N": 96, "K": 130},
    {"N": 20, "K": 515},
)


def _row(name: str, m: int, n: int, k: int, dtype: torch.dtype, activation: str) -> Benchmark:
    options = {"activation": activation}
    case = Case(sizes={"N": n, "K": k}, options=options, given=("bias",), lead=(m,))
    return Benchmark(name=f"{name} M={m} {activation}", case=case, dtype=dtype)


LINEAR_ACT = OpSpec(
    name="linear_act",
    family="gemm",
    schema='(Tensor x, Tensor weight, Tensor? bias=None, str activation="none") -> Tensor',
    dims={"x": "... K", "weight": "R K", "bias": "R"},
    choices={"activation": ACTIVATIONS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=linear,
    training="linear_act_forward",
    autocast=True,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "K"),
    cases=cases(
        sizes=_SIZES,
        options=[{"activation": a} for a in ACTIVATIONS],
        given=[(), ("bias",)],
        leads=[(), (3,), (0,), (2, 17)],
    )
    + cases(
        sizes=[{"N": 40, "K": 4200}, {"N": 130, "K": 96}],
        options=[{"activation": a} for a in ("none", "gelu", "swiglu")],
        given=[("bias",)],
        leads=[(1,), (33,), (150,)],
    ),
    error_cases=(
        ErrorCase(
            name="unknown activation",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), None, "softplus"),
            error=ValueError,
            match="linear_act: argument 'activation' must be one of .*'swiglu'.*got 'softplus'",
        ),
        ErrorCase(
            name="other inner size",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 5)),
            error=ValueError,
            match="linear_act: argument 'weight' must have size 3 for K",
        ),
        ErrorCase(
            name="x without dimensions",
            call=lambda op: op(torch.tensor(1.0), torch.ones(4, 1)),
            error=ValueError,
            match="linear_act: argument 'x' must have at least 1 dimensions",
        ),
        ErrorCase(
            name="weight of one dimension",
            call=lambda op: op(torch.ones(2, 3), torch.ones(3)),
            error=ValueError,
            match="linear_act: argument 'weight' must have 2 dimensions",
        ),
        ErrorCase(
            name="weight of three dimensions",
            call=lambda op: op(torch.ones(2, 3), torch.ones(1, 4, 3)),
            error=ValueError,
            match="linear_act: argument 'weight' must have 2 dimensions",
        ),
        ErrorCase(
            name="short bias",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)),
            error=ValueError,
            match="linear_act: argument 'bias' must have (shape|size)",
        ),
        ErrorCase(
            name="bias of half the gated rows",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), torch.ones(2), "swiglu"),
            error=ValueError,
            match="linear_act: argument 'bias' must have (shape|size)",
        ),
        ErrorCase(
            name="odd rows of a gate",
            call=lambda op: op(torch.ones(2, 3), torch.ones(5, 3), None, "geglu"),
            error=ValueError,
            match="linear_act: argument 'weight' must have an even first dimension",
        ),
        ErrorCase(
            name="weight of another dtype",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3).bfloat16()),
            error=TypeError,
            match="linear_act: argument 'weight' must have dtype float32, got bfloat16",
        ),
        ErrorCase(
            name="bias of another dtype",
            call=lambda op: op(torch.ones(2, 3).half(), torch.ones(4, 3).half(), torch.ones(4)),
            error=TypeError,
            match="linear_act: argument 'bias' must have dtype float16, got float32",
        ),
        ErrorCase(
            name="integers",
            call=lambda op: op(torch.ones(2, 3).int(), torch.ones(4, 3).int()),
            error=TypeError,
            match="linear_act: argument 'x' must have dtype",
        ),
        ErrorCase(
            name="weight transposed",
            call=lambda op: op(torch.ones(2, 3), torch.ones(3, 4).t()),
            error=ValueError,
            match="linear_act: argument 'weight' must have a dense last dimension",
        ),
        ErrorCase(
            name="x transposed",
            call=lambda op: op(torch.ones(3, 2).t(), torch.ones(4, 3)),
            error=ValueError,
            match="linear_act: argument 'x' must have a dense last dimension",
        ),
        ErrorCase(
            name="bias of two dimensions",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), torch.ones(1, 4)),
            error=ValueError,
            match="linear_act: argument 'bias' must have",
        ),
        ErrorCase(
            name="bias for a weight without rows",
            call=lambda op: op(torch.ones(2, 3), torch.ones(0, 3), torch.ones(1)),
            error=ValueError,
            match="linear_act: argument 'bias' must have",
        ),
        ErrorCase(
            name="x already quantized",
            call=lambda op: op(
                torch.ones(2, 3).to(torch.float8_e4m3fn), torch.ones(4, 3).to(torch.float8_e4m3fn)
            ),
            error=TypeError,
            match="linear_act: argument 'x' must have dtype",
        ),
        ErrorCase(
            name="complex x",
            call=lambda op: op(torch.ones(2, 3) * 1j, torch.ones(4, 3) * 1j),
            error=TypeError,
            match="linear_act: argument 'x' must have dtype",
        ),
        ErrorCase(
            name="activation in capitals",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), None, "GELU"),
            error=ValueError,
            match="linear_act: argument 'activation' must be one of .*got 'GELU'",
        ),
        ErrorCase(
            name="empty activation",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3), None, ""),
            error=ValueError,
            match="linear_act: argument 'activation' must be one of .*got ''",
        ),
        ErrorCase(
            name="weight in float64",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3).double()),
            error=TypeError,
            match="linear_act: argument 'weight' must have dtype float32, got float64",
        ),
        ErrorCase(
            name="sparse weight",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3).to_sparse()),
            error=TypeError,
            match="linear_act: argument 'weight' must be a (strided|dense CPU) tensor",
        ),
        ErrorCase(
            name="weight on another device",
            call=lambda op: op(torch.ones(2, 3), torch.ones(4, 3, device="meta")),
            error=ValueError,
            match="linear_act: argument 'weight' must be on cpu",
        ),
    ),
    benchmarks=tuple(
        _row(f"{n}x{k}", m, n, k, dtype, activation)
        for dtype in (torch.bfloat16, torch.float32)
        for n, k, activation in (
            (4096, 4096, "none"),
            (4096, 4096, "gelu"),
            (384, 384, "none"),
            (1536, 384, "gelu"),
            (384, 1536, "none"),
        )
        for m in (1, 16, 64, 128, 512, 4096)
    )
    + tuple(
        dataclasses.replace(row, name=f"{row.name} forward+backward", backward_cost=_backward_cost)
        for dtype in (torch.bfloat16, torch.float32)
        for m, n, k in ((4096, 4096, 1024), (128, 4096, 1024), (4096, 1536, 384))
        for row in (_row(f"{n}x{k}", m, n, k, dtype, "gelu"),)
    ),
    doc="""
`t = x @ weight.T + bias`, then `out = act(t)`; for `swiglu` and `geglu`
`out = act(t[..., :N]) * t[..., N:]` with `act` `silu` and `gelu` (Shazeer 2020).

`x` is `[..., K]` in float32, float16 or bfloat16; `weight` `[N, K]` as in `nn.Linear`, for the
gated activations `[2 N, K]` with the gate's rows first; `bias` one value per row of `weight`; the
result `[..., N]` in the dtype of `x`. Any of the sizes may be 0: over `K = 0` the sum is the bias.

Sums and activations are computed in float32 and rounded once: `t` itself is never rounded, so
half-precision results are nearer to the exact ones than those of two separate operators. bfloat16
products are sums of pairs where the CPU has such instructions; these take subnormal numbers as 0.
NaN and infinities come out as from the separate operators in float64.

Within a native variant a row of the result depends neither on the number of threads nor on the
other rows. Variants for few rows sum in another order than those for many, so below AMX the last
bits may change with the number of rows; with AMX in bfloat16 they do not.

Where a gradient is wanted `linear_act_forward` runs in its place.
""",
)
