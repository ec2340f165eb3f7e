"""``kpt::act_mul_backward``: the gradient of ``kpt::act_mul``."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import gradients
from kernel_pytorch.ops.activations import (
    EAGER,
    EAGER_BACKWARD,
    GATE_KINDS,
    REFERENCE_BACKWARD,
    wide,
)
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _check(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> None:
    if gate_up.shape[-1] != 2 * grad_out.shape[-1]:
        raise ValueError(
            f"act_mul_backward: argument 'gate_up' must have a last dimension of twice grad_out's "
            f"{grad_out.shape[-1]}, got shape {list(gate_up.shape)}"
        )


def _infer(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> Out:
    return Out(gate_up.shape, gate_up.dtype)


def _eager(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    grad_gate = EAGER_BACKWARD[kind](grad_out * up, gate)
    return torch.cat((grad_gate, grad_out * EAGER[kind](gate)), dim=-1)


def _reference(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> torch.Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    grad = wide(grad_out)
    grad_gate = REFERENCE_BACKWARD[kind](grad * up, gate)
    return torch.cat((grad_gate, grad * EAGER[kind](gate)), dim=-1).to(gate_up.dtype)


def _cost(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> Cost:
    return Cost(read_bytes=grad_out.nbytes + gate_up.nbytes, write_bytes=gate_up.nbytes)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    n = case.sizes["N"]
    grad, gate_up = (torch.randn((*case.lead, k * n), generator=generator) for k in (1, 2))
    return [grad.to(dtype), gate_up.to(dtype), case.options["kind"]], {}


def _recorded(grad_out: torch.Tensor, gate_up: torch.Tensor, kind: str) -> tuple[Any, ...]:
    def forward(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return EAGER[kind](gate) * up

    outputs, leaves = gradients.recorded(forward, (gate_up,))
    return outputs, leaves, (grad_out,)


ACT_MUL_BACKWARD = OpSpec(
    name="act_mul_backward",
    family="activation",
    schema="(Tensor grad_out, Tensor gate_up, str kind) -> Tensor",
    dims={"grad_out": "...M N", "gate_up": "...M W"},
    choices={"kind": GATE_KINDS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    build_inputs=_build,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=cases(
        sizes=[{"N": n} for n in (0, 1, 7, 16, 33, 129, 1024, 4099)],
        options=[{"kind": kind} for kind in GATE_KINDS],
        leads=[(), (3,), (2, 5), (0,)],
    ),
    error_cases=(
        ErrorCase(
            name="not twice as wide",
            call=lambda op: op(torch.ones(2, 4), torch.ones(2, 7), "silu"),
            error=ValueError,
            match="act_mul_backward: argument 'gate_up' must have a last dimension of twice",
        ),
        ErrorCase(
            name="unknown kind",
            call=lambda op: op(torch.ones(2, 4), torch.ones(2, 8), "swiglu"),
            error=ValueError,
            match="act_mul_backward: argument 'kind' must be one of .*'silu'.*got 'swiglu'",
        ),
        ErrorCase(
            name="other rows",
            call=lambda op: op(torch.ones(2, 4), torch.ones(3, 8), "silu"),
            error=ValueError,
            match="act_mul_backward: argument 'gate_up' must have leading dimensions",
        ),
    ),
    benchmarks=(
        Benchmark(
            name="silu 512x(2x4096)",
            case=Case(sizes={"N": 4096}, options={"kind": "silu"}, lead=(512,)),
            dtype=torch.bfloat16,
            hot=True,
            eager=gradients.replay,
            eager_inputs=_recorded,
        ),
    ),
    doc="""
The gradient of `act_mul`: with `gate = gate_up[..., :N]` and `up = gate_up[..., N:]`, the first
half of the result is `grad_out * up * d act(gate) / d gate`, the second `grad_out * act(gate)`.

`grad_out` is `[..., N]`, `gate_up` and the result `[..., 2 N]`. Computed in float32 and rounded
once.
""",
)
