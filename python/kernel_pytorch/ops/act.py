"""``kpt::act``: an elementwise activation function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

KINDS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "quick_gelu")

_EAGER = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def _infer(x: torch.Tensor, kind: str) -> Out:
    return Out(x.shape, x.dtype)


def _eager(x: torch.Tensor, kind: str) -> torch.Tensor:
    return _EAGER[kind](x)


def _reference(x: torch.Tensor, kind: str) -> torch.Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    return _EAGER[kind](wide).to(x.dtype)


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
    row_dims=0,
    out_overload=True,
    cost=_cost,
    cases=cases(
        sizes=[{}],
        options=[{"kind": kind} for kind in KINDS],
        leads=[(), (0,), (1,), (7,), (64,), (3, 0), (5, 33), (2, 3, 129), (17, 1024)],
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
    benchmarks=(
        Benchmark(
            name="gelu 512x1024",
            case=Case(sizes={}, options={"kind": "gelu"}, lead=(512, 1024)),
            dtype=torch.bfloat16,
        ),
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

NaN gives NaN; infinities give the limits, as in PyTorch.
""",
)
