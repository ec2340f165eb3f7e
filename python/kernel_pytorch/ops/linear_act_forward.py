"""``kpt::linear_act_forward``: ``kpt::linear_act`` and what its backward needs besides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import linear_act
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.linears import ACTIVATIONS, check_layer, linear, output_features
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out


def _check(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> None:
    check_layer("linear_act_forward", weight, bias, activation)


def _infer(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> tuple[Out, Out]:
    lead = x.shape[:-1]
    return (
        Out([*lead, output_features(weight, activation)], x.dtype),
        Out((0,) if activation == "none" else [*lead, weight.shape[0]], x.dtype),
    )


def _eager(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    t = x.new_empty(0) if activation == "none" else F.linear(x, weight, bias)
    return linear(x, weight, bias, activation), t


def _reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    out, t = _eager(wide(x), wide(weight), None if bias is None else wide(bias), activation)
    return out.to(x.dtype), t.to(x.dtype)


def _cost(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> Cost:
    one = linear_act.LINEAR_ACT.cost(x, weight, bias, activation)
    kept = 0 if activation == "none" else math.prod(x.shape[:-1]) * weight.shape[0] * x.itemsize
    return dataclasses.replace(one, write_bytes=one.write_bytes + kept)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    wanted = ("x", "weight", "bias")
    arguments = (inputs["x"], inputs["weight"], inputs["bias"], inputs["activation"])
    # A second derivative must flow through t as well: it is computed again then.
    kept = inputs["activation"] != "none" and not torch.is_grad_enabled()
    found = torch.ops.kpt.linear_act_backward(
        grads[0],
        *arguments,
        *(name in needed for name in wanted),
        t=outputs[1] if kept else None,
    )
    return {name: g for name, g in zip(wanted, found) if name in needed}


LINEAR_ACT_FORWARD = OpSpec(
    name="linear_act_forward",
    family="gemm",
    schema=(
        '(Tensor x, Tensor weight, Tensor? bias=None, str activation="none") '
        "-> (Tensor out, Tensor t)"
    ),
    dims=linear_act.LINEAR_ACT.dims,
    choices={"activation": ACTIVATIONS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="linear_act_backward",
    backward_call=_backward,
    saved=("x", "weight", "bias", "t"),
    auxiliary=("t",),
    cost=_cost,
    build_inputs=linear_act.LINEAR_ACT.build_inputs,
    free_sizes=("N", "K"),
    row_dims=None,
    cases=linear_act.LINEAR_ACT.cases,
    error_cases=tuple(
        dataclasses.replace(e, match=e.match.replace("linear_act:", "linear_act_forward:"))
        for e in linear_act.LINEAR_ACT.error_cases
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"4096x1024 M={m} gelu",
            case=Case(
                sizes={"N": 4096, "K": 1024},
                options={"activation": "gelu"},
                given=("bias",),
                lead=(m,),
            ),
            dtype=dtype,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for m in (128, 4096)
    ),
    doc="""
`linear_act` (the same bits) and, with an activation, `t = x @ weight.T + bias`, `[..., N]` (gated:
`[..., 2 N]`) rounded to the dtype of `x`; without one `t` is empty, `[0]`. What runs in the place
of `linear_act` where a gradient is wanted: with `t` kept, `linear_act_backward` need not compute it
again. `t` itself carries no gradient.

For less memory between the passes, run a layer under `torch.utils.checkpoint`.
""",
)
