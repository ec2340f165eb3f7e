"""``kpt::moe_combine_backward``: the gradients of ``kpt::moe_combine``."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.moe_combine import SIZES, combine_inputs, combine_refusals
from kernel_pytorch.ops.routing import bounded
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out, cases


def _infer(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    row_of: torch.Tensor,
    weights: torch.Tensor,
    want_y: bool,
    want_weights: bool,
) -> tuple[Out, Out]:
    return (
        Out(y.shape if want_y else (0,), y.dtype),
        Out(weights.shape if want_weights else (0,), weights.dtype),
    )


def _gradients(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    row_of: torch.Tensor,
    weights: torch.Tensor,
    want_y: bool,
    want_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    there = row_of >= 0
    rows = row_of.clamp(min=0)
    grad_y, grad_weights = y.new_empty(0), weights.new_empty(0)
    if want_y:
        parts = (weights[..., None] * grad_out[:, None]).to(y.dtype).flatten(0, 1)
        # Choices without a row add to one more, which is then left out.
        places = torch.where(there, rows, len(y)).reshape(-1)
        grad_y = y.new_zeros(len(y) + 1, y.shape[1]).index_add(0, places, parts)[:-1]
    if want_weights:
        found = torch.zeros_like(weights)
        if len(y):
            found = (grad_out[:, None] * y[rows]).sum(-1).to(weights.dtype)
        grad_weights = torch.where(there, found, torch.zeros_like(found))
    return grad_y, grad_weights


def _reference(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    row_of: torch.Tensor,
    weights: torch.Tensor,
    want_y: bool = True,
    want_weights: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    row_of = bounded("moe_combine_backward", "row_of", row_of, -1, len(y), "rows of 'y'")
    grad_y, grad_weights = _gradients(
        wide(grad_out), wide(y), row_of, wide(weights), want_y, want_weights
    )
    return grad_y.to(y.dtype), grad_weights.to(weights.dtype)


def _eager(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    row_of: torch.Tensor,
    weights: torch.Tensor,
    want_y: bool = True,
    want_weights: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    found = _gradients(grad_out, y, row_of, weights.to(y.dtype), want_y, want_weights)
    return found[0], found[1].to(weights.dtype)


def _cost(
    grad_out: torch.Tensor,
    y: torch.Tensor,
    row_of: torch.Tensor,
    weights: torch.Tensor,
    want_y: bool = True,
    want_weights: bool = True,
) -> Cost:
    used = row_of.numel() * y.shape[1]
    return Cost(
        flops=2.0 * used * (want_y + want_weights),
        read_bytes=grad_out.nbytes + want_weights * used * y.itemsize + weights.nbytes,
        write_bytes=want_y * y.nbytes + want_weights * weights.nbytes,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    y, row_of, weights = combine_inputs(case, dtype, generator)
    grad_out = torch.randn((len(row_of), y.shape[1]), generator=generator).to(dtype)
    wanted = [case.options.get(f"want_{name}", True) for name in ("y", "weights")]
    return [grad_out, y, row_of, weights, *wanted], {}


MOE_COMBINE_BACKWARD = OpSpec(
    name="moe_combine_backward",
    family="moe",
    schema=(
        "(Tensor grad_out, Tensor y, Tensor row_of, Tensor weights, bool want_y=True, "
        "bool want_weights=True) -> (Tensor grad_y, Tensor grad_weights)"
    ),
    dims={"grad_out": "T D", "y": "R D", "row_of": "T K", "weights": "T K"},
    arg_dtypes={"row_of": (torch.int64,), "weights": ("grad_out", torch.float32)},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    cost=_cost,
    build_inputs=_build,
    row_dims=None,
    cases=cases(sizes=SIZES, leads=[(1,), (0,), (5,), (70,)])
    + cases(sizes=SIZES[5:6], options=[{"want_y": False}, {"want_weights": False}], leads=[(9,)]),
    error_cases=combine_refusals("moe_combine_backward", lambda: torch.ones(2, 5)),
    benchmarks=(
        Benchmark(
            name="4096 tokens of 1024, 2 choices",
            case=Case(sizes={"E": 8, "top": 2, "D": 1024}, lead=(4096,)),
            dtype=torch.bfloat16,
        ),
    ),
    doc="""
`grad_y[r]` is the sum of `weights[t, j] * grad_out[t]` over the choices with `row_of[t, j] == r`,
in their order, and 0 for a row that none names; `grad_weights[t, j]` is the product of
`grad_out[t]` and `y[row_of[t, j]]`, 0 where `row_of` is -1.

Arguments are those of `moe_combine`; `grad_out` is `[T, D]`. A gradient that is not wanted is not
computed and comes back as an empty tensor `[0]`. Sums are in float32.
""",
)
