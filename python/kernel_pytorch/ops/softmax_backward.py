"""``kpt::softmax_backward``: the gradient of ``kpt::softmax``."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import gradients
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(grad_out: torch.Tensor, out: torch.Tensor, scale: float) -> Out:
    return Out(out.shape, out.dtype)


def _eager(grad_out: torch.Tensor, out: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    grad = torch.ops.aten._softmax_backward_data(grad_out, out, -1, out.dtype)
    return grad if scale == 1.0 else grad * scale


def _reference(grad_out: torch.Tensor, out: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    g, y = wide(grad_out), wide(out)
    return (scale * y * (g - (g * y).sum(-1, keepdim=True))).to(out.dtype)


def _cost(grad_out: torch.Tensor, out: torch.Tensor, scale: float = 1.0) -> Cost:
    return Cost(read_bytes=2 * out.nbytes, write_bytes=out.nbytes)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """``out`` as softmax leaves it: rows of probabilities."""
    shape = (*case.lead, case.sizes["N"])
    grad, x = (torch.randn(shape, generator=generator) for _ in range(2))
    return [grad.to(dtype), torch.softmax(x, -1).to(dtype), case.options.get("scale", 1.0)], {}


def _recorded(grad_out: torch.Tensor, out: torch.Tensor, scale: float) -> tuple[Any, ...]:
    outputs, leaves = gradients.recorded(lambda x: torch.softmax(x, -1), (out,))
    return outputs, leaves, (grad_out,)


SOFTMAX_BACKWARD = OpSpec(
    name="softmax_backward",
    family="activation",
    schema="(Tensor grad_out, Tensor out, float scale=1.0) -> Tensor",
    dims={"grad_out": "...M N", "out": "...M N"},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    build_inputs=_build,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=cases(
        sizes=[{"N": n} for n in (0, 1, 2, 7, 16, 33, 64, 129, 384, 1000, 1024, 4096, 9001)],
        options=[{}, {"scale": 0.125}],
        leads=[(3,), (2, 3), (0,), ()],
    ),
    error_cases=(
        ErrorCase(
            name="no dimensions",
            call=lambda op: op(torch.tensor(1.0), torch.tensor(1.0)),
            error=ValueError,
            match="softmax_backward: argument 'grad_out' must have at least 1 dimensions",
        ),
        ErrorCase(
            name="another shape",
            call=lambda op: op(torch.ones(3), torch.ones(4)),
            error=ValueError,
            match="softmax_backward: argument 'out' must have size 3 for N",
        ),
        ErrorCase(
            name="mixed dtypes",
            call=lambda op: op(torch.ones(3), torch.ones(3).half()),
            error=TypeError,
            match="softmax_backward: argument 'out' must have dtype float32, got float16",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name="512x1024",
            case=Case(sizes={"N": 1024}, lead=(512,)),
            dtype=dtype,
            hot=True,
            eager=gradients.replay,
            eager_inputs=_recorded,
        )
        for dtype in (torch.bfloat16, torch.float32)
    ),
    doc="""
`grad_x = scale * out * (grad_out - sum(grad_out * out))` over the last dimension, with `out` the
result of `softmax(x, scale)`.

`grad_out` and `out` are `[..., N]` of one dtype. Computed in float32 and rounded once.
""",
)
