"""``kpt::act_mul``: the gate of a gated MLP, ``act(gate) * up``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import EAGER, GATE_KINDS, wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _check(gate_up: torch.Tensor, kind: str) -> None:
    if gate_up.shape[-1] % 2 != 0:
        raise ValueError(
            f"act_mul: argument 'gate_up' must have an even last dimension [..., 2 N], got shape "
            f"{list(gate_up.shape)}"
        )


def _infer(gate_up: torch.Tensor, kind: str) -> Out:
    return Out((*gate_up.shape[:-1], gate_up.shape[-1] // 2), gate_up.dtype)


def _eager(gate_up: torch.Tensor, kind: str) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return EAGER[kind](gate) * up


def _reference(gate_up: torch.Tensor, kind: str) -> torch.Tensor:
    return _eager(wide(gate_up), kind).to(gate_up.dtype)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    return {"gate_up": torch.ops.kpt.act_mul_backward(grads[0], inputs["gate_up"], inputs["kind"])}


def _cost(gate_up: torch.Tensor, kind: str) -> Cost:
    return Cost(read_bytes=gate_up.nbytes, write_bytes=gate_up.nbytes / 2)


ACT_MUL = OpSpec(
    name="act_mul",
    family="activation",
    schema="(Tensor gate_up, str kind) -> Tensor",
    dims={"gate_up": "... W"},
    choices={"kind": GATE_KINDS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="act_mul_backward",
    backward_call=_backward,
    saved=("gate_up",),
    out_overload=True,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=cases(
        sizes=[{"W": w} for w in (0, 2, 14, 32, 66, 258, 2048, 8198)],
        options=[{"kind": kind} for kind in GATE_KINDS],
        leads=[(), (3,), (2, 5), (0,)],
    ),
    error_cases=(
        ErrorCase(
            name="odd width",
            call=lambda op: op(torch.ones(2, 5), "silu"),
            error=ValueError,
            match="act_mul: argument 'gate_up' must have an even last dimension",
        ),
        ErrorCase(
            name="unknown kind",
            call=lambda op: op(torch.ones(2, 4), "swiglu"),
            error=ValueError,
            match="act_mul: argument 'kind' must be one of .*'silu'.*got 'swiglu'",
        ),
        ErrorCase(
            name="no dimensions",
            call=lambda op: op(torch.tensor(1.0), "silu"),
            error=ValueError,
            match="act_mul: argument 'gate_up' must have at least 1 dimensions",
        ),
    ),
    benchmarks=(
        Benchmark(
            name="silu 512x(2x4096)",
            case=Case(sizes={"W": 8192}, options={"kind": "silu"}, lead=(512,)),
            dtype=torch.bfloat16,
            hot=True,
        ),
        *(
            Benchmark(
                name=f"silu {m}x(2x4096) forward+backward",
                case=Case(sizes={"W": 8192}, options={"kind": "silu"}, lead=(m,)),
                dtype=dtype,
                hot=hot,
                backward_cost=lambda gate_up, kind: Cost(
                    read_bytes=1.5 * gate_up.nbytes, write_bytes=gate_up.nbytes
                ),
            )
            for dtype in (torch.bfloat16, torch.float32)
            for m, hot in ((128, True), (4096, False))
        ),
    ),
    doc="""
`out = act(gate) * up`, where `gate = gate_up[..., :N]` and `up = gate_up[..., N:]`: with `silu` the
middle of SwiGLU, with `gelu` of GEGLU, with `sigmoid` of GLU (Shazeer 2020).

`gate_up` is `[..., 2 N]`, the result `[..., N]`. Computed in float32 and rounded once: `act(gate)`
is not rounded before the product. `out` must not overlap `gate_up`.
""",
)
