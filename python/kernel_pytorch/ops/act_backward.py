"""``kpt::act_backward``: the gradient of ``kpt::act``."""

from __future__ import annotations

import torch

from kernel_pytorch.ops.activations import EAGER_BACKWARD, KINDS, REFERENCE_BACKWARD, wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(grad_out: torch.Tensor, x: torch.Tensor, kind: str) -> Out:
    return Out(x.shape, x.dtype)


def _eager(grad_out: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    return EAGER_BACKWARD[kind](grad_out, x)


def _reference(grad_out: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    return REFERENCE_BACKWARD[kind](wide(grad_out), wide(x)).to(x.dtype)


def _cost(grad_out: torch.Tensor, x: torch.Tensor, kind: str) -> Cost:
    return Cost(read_bytes=2 * x.nbytes, write_bytes=x.nbytes)


ACT_BACKWARD = OpSpec(
    name="act_backward",
    family="activation",
    schema="(Tensor grad_out, Tensor x, str kind) -> Tensor",
    dims={"grad_out": "...M", "x": "...M"},
    choices={"kind": KINDS},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    row_dims=0,
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
            call=lambda op: op(torch.ones(3), torch.ones(3), "elu"),
            error=ValueError,
            match="act_backward: argument 'kind' must be one of .*'relu'.*got 'elu'",
        ),
        ErrorCase(
            name="another shape",
            call=lambda op: op(torch.ones(3), torch.ones(4), "relu"),
            error=ValueError,
            match="act_backward: argument 'x' must have leading dimensions",
        ),
        ErrorCase(
            name="mixed dtypes",
            call=lambda op: op(torch.ones(3), torch.ones(3).half(), "relu"),
            error=TypeError,
            match="act_backward: argument 'x' must have dtype float32, got float16",
        ),
    ),
    benchmarks=(
        Benchmark(
            name="gelu 512x1024",
            case=Case(sizes={}, options={"kind": "gelu"}, lead=(512, 1024)),
            dtype=torch.bfloat16,
            hot=True,
        ),
    ),
    doc="""
`grad_x = grad_out * d act(x, kind) / dx`, computed in float32 and rounded once. The derivative of
relu at 0 is 0, as in PyTorch.
""",
)
