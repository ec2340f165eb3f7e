"""``kpt::softmax``: softmax of a scaled tensor over the last dimension."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(x: torch.Tensor, scale: float) -> Out:
    return Out(x.shape, x.dtype)


def _eager(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return torch.softmax(x if scale == 1.0 else x * scale, dim=-1)


def _reference(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return torch.softmax(wide(x) * scale, dim=-1).to(x.dtype)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    return {"x": torch.ops.kpt.softmax_backward(grads[0], outputs[0], inputs["scale"])}


def _cost(x: torch.Tensor, scale: float = 1.0) -> Cost:
    return Cost(read_bytes=x.nbytes, write_bytes=x.nbytes)


SOFTMAX = OpSpec(
    name="softmax",
    family="activation",
    schema="(Tensor x, float scale=1.0) -> Tensor",
    dims={"x": "... N"},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="softmax_backward",
    backward_call=_backward,
    saved=("out",),
    out_overload=True,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(
            sizes=[{"N": n} for n in (0, 1, 2, 7, 16, 33, 64, 129, 384, 1000, 1024, 4096, 9001)],
            options=[{}, {"scale": 0.125}],
            leads=[(3,), (2, 3), (0,), ()],
        )
        + cases(sizes=[{"N": 65}, {"N": 9001}], options=[{"scale": -2.0}, {"scale": 0.0}])
    ),
    error_cases=(
        ErrorCase(
            name="no dimensions",
            call=lambda op: op(torch.tensor(1.0)),
            error=ValueError,
            match="softmax: argument 'x' must have at least 1 dimensions",
        ),
        ErrorCase(
            name="integer input",
            call=lambda op: op(torch.ones(3, dtype=torch.int32)),
            error=TypeError,
            match="softmax: argument 'x' must have dtype float32 or float16 or bfloat16, got int32",
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=name, case=Case(sizes={"N": n}, lead=(m,)), dtype=dtype, use_out=out, hot=not out
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, m, n, out in (
            ("512x1024", 512, 1024, False),
            ("4096x4096 out=", 4096, 4096, True),
        )
    )
    + tuple(
        Benchmark(
            name=f"{m}x{n} forward+backward",
            case=Case(sizes={"N": n}, lead=(m,)),
            dtype=dtype,
            hot=hot,
            backward_cost=lambda x, *_: Cost(read_bytes=2 * x.nbytes, write_bytes=x.nbytes),
        )
        for dtype in (torch.bfloat16, torch.float32)
        for m, n, hot in ((512, 1024, True), (4096, 4096, False))
    ),
    doc="""
`out = exp(scale * x - max) / sum(exp(scale * x - max))` over the last dimension, `max` the row's
largest `scale * x`.

`x` is `[..., N]`; `scale` may have any sign. Computed in float32 and rounded once. As in PyTorch,
`-inf` gives 0 beside a finite element, and a row that is all `-inf`, has `+inf` or has NaN is all
NaN. With `out=`, `out` may be `x` itself.
""",
)
