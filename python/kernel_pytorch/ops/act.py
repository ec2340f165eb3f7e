"""``kpt::act``: an elementwise activation function."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import EAGER, KINDS, wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(x: torch.Tensor, kind: str) -> Out:
    return Out(x.shape, x.dtype)


def _eager(x: torch.Tensor, kind: str) -> torch.Tensor:
    return EAGER[kind](x)


def _reference(x: torch.Tensor, kind: str) -> torch.Tensor:
    return EAGER[kind](wide(x)).to(x.dtype)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    return {"x": torch.ops.kpt.act_backward(grads[0], inputs["x"], inputs["kind"])}


def _cost(x: torch.Tensor, kind: str) -> Cost:
    return Cost(read_bytes=x.nbytes, write_bytes=x.nbytes)


ACT = OpSpec(
    name="act",
    family="activation",
    schema="(Tensor x, str kind) -> Tensor",
    dims={"x": "..."},
    choices={"kind": KINDS},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="act_backward",
    backward_call=_backward,
    saved=("x",),
    row_dims=0,
    out_overload=True,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=cases(
        sizes=[{}],
        options=[{"kind": kind} for kind in KINDS],
        leads=[
            (),
            (0,),
            (1,),
            (7,),
            (64,),
            (3, 0),
            (5, 33),
            (8, 4096),
            (17, 1024),
            (2, 3, 129),
            (2, 1, 4, 31),
        ],
    ),
    error_cases=(
        ErrorCase(
            name="unknown kind",
            call=lambda op: op(torch.ones(3), "softplus"),
            error=ValueError,
            match="act: argument 'kind' must be one of .*'relu'.*got 'softplus'",
        ),
        ErrorCase(
            name="integer input",
            call=lambda op: op(torch.ones(3, dtype=torch.int32), "relu"),
            error=TypeError,
            match="act: argument 'x' must have dtype float32 or float16 or bfloat16, got int32",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"{kind} {m}x{n}{' out=' if out else ''}",
            case=Case(sizes={}, options={"kind": kind}, lead=(m, n)),
            dtype=dtype,
            use_out=out,
            hot=not out,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for kind, m, n, out in (
            ("gelu", 512, 1024, False),
            ("silu", 512, 1024, False),
            ("gelu", 4096, 4096, True),
        )
    ),
    doc="""
Elementwise activation, computed in float32 and rounded once.

| kind | formula |
|---|---|
| relu | max(x, 0) |
| gelu | x * Phi(x), Phi the normal distribution (erf form) |
| gelu_tanh | 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) |
| silu | x * sigmoid(x) |
| sigmoid | 1 / (1 + exp(-x)) |
| tanh | tanh(x) |
| quick_gelu | x * sigmoid(1.702 x) |

NaN gives NaN; infinities give what the formula gives in float64, so gelu, silu and their kin of
-inf are NaN. With `out=`, `out` may be `x` itself. The gradient is `act_backward`.
""",
)
