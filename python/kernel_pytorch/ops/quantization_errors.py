"""Refused calls that the quantization operators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops import quantization as q
from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["call_errors", "fused_errors", "scale_errors"]

Call = Callable[..., Any]
"""``call(op, x, **options)``: the operator on ``x`` with its other arguments legal."""


def call_errors(op: str, call: Call) -> tuple[ErrorCase, ...]:
    """``x`` without dimensions, or of a dtype that is not quantized."""

    def of(dtype: torch.dtype) -> ErrorCase:
        name = str(dtype).removeprefix("torch.")
        return ErrorCase(
            name=f"x of {name}",
            call=lambda run: call(run, torch.ones(2, 8).to(dtype)),
            error=TypeError,
            match=f"{op}: argument 'x' must have dtype float32 or float16 or bfloat16, got {name}",
        )

    return (
        ErrorCase(
            name="no dimensions",
            call=lambda run: call(run, torch.tensor(1.0)),
            error=ValueError,
            match=f"{op}: argument 'x' must have at least 1 dimensions",
        ),
        *(of(dtype) for dtype in (torch.int64, torch.int8, torch.float8_e4m3fn)),
    )


def scale_errors(op: str, call: Call, granularities: tuple[str, ...]) -> tuple[ErrorCase, ...]:
    """A given scale of another shape, dtype or device than ``granularity`` asks for."""
    x = torch.ones(4, 200)

    def shaped(granularity: str, shape: tuple[int, ...]) -> ErrorCase:
        wanted = list(q.scale_shape(x.shape, granularity))
        return ErrorCase(
            name=f"scale {list(shape)} for {granularity}",
            call=lambda run: call(run, x, granularity=granularity, scale=torch.ones(shape)),
            error=ValueError,
            match=rf"{op}: argument 'scale' must have shape \[{str(wanted)[1:-1]}\] for granular",
        )

    wrong = {
        "tensor": ((1,), (4,)),
        "row": ((), (3,), (4, 1)),
        "block1x128": ((4,), (4, 1)),
        "block128x128": ((4, 2), (1, 1)),
    }
    some = granularities[0]
    fitting = q.scale_shape(x.shape, some)
    return (
        *(shaped(g, shape) for g in granularities for shape in wrong[g]),
        ErrorCase(
            name="scale in bfloat16",
            call=lambda run: call(
                run, x, granularity=some, scale=torch.ones(fitting, dtype=torch.bfloat16)
            ),
            error=TypeError,
            match=f"{op}: argument 'scale' must have dtype float32, got bfloat16",
        ),
        ErrorCase(
            name="scale on another device",
            call=lambda run: call(
                run, x, granularity=some, scale=torch.ones(fitting, device="meta")
            ),
            error=ValueError,
            match=f"{op}: argument 'scale' must be on cpu",
        ),
    )


def fused_errors(op: str, call: Call) -> tuple[ErrorCase, ...]:
    """What the fused operators refuse of granularities and formats."""
    x = torch.ones(4, 200)
    return (
        ErrorCase(
            name="one scale that is not given",
            call=lambda run: call(run, x, granularity="tensor"),
            error=ValueError,
            match=f"{op}: argument 'scale' must be given for granularity 'tensor'",
        ),
        ErrorCase(
            name="blocks of int8",
            call=lambda run: call(run, x, granularity="block1x128", dtype=torch.int8),
            error=ValueError,
            match=f"{op}: argument 'granularity' must be one of 'tensor', 'row' for int8",
        ),
        ErrorCase(
            name="squares",
            call=lambda run: call(run, x, granularity="block128x128"),
            error=ValueError,
            match=f"{op}: argument 'granularity' must be one of 'tensor', 'row', 'block1x128', got",
        ),
    )
