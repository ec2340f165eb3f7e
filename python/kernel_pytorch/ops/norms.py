"""What the four norms share: their formulas in eager PyTorch and in higher precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.spec import Cost, ErrorCase

__all__ = [
    "LEADS",
    "PARAM_DTYPES",
    "SIZES",
    "cost",
    "error_cases",
    "in_dtype_of",
    "layer_norm",
    "rms_norm",
    "wide",
]

SIZES = tuple({"N": n} for n in (1, 2, 7, 16, 33, 64, 129, 384, 1000, 1024, 4096, 5003))
LEADS: tuple[tuple[int, ...], ...] = ((3,), (2, 3), (0,), ())
PARAM_DTYPES: tuple[torch.dtype | str, ...] = ("x", torch.float32)


def wide(norm: Callable[..., torch.Tensor], x: torch.Tensor, *params: Any) -> torch.Tensor:
    """``norm(x, *params)`` computed in float64 when ``x`` is that, else in float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return norm(x.to(dtype), *(None if p is None else p.to(dtype) for p in params)).to(x.dtype)


def layer_norm(
    eps: float,
) -> Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor]:
    """``F.layer_norm`` over the last dimension."""
    return lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(eps: float) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """``F.rms_norm`` over the last dimension."""
    return lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, eps)


def in_dtype_of(x: torch.Tensor, *params: torch.Tensor | None) -> list[torch.Tensor | None]:
    """The parameters cast to ``x``'s dtype, as eager PyTorch asks for."""
    return [None if p is None else p.to(x.dtype) for p in params]


def cost(passes: int) -> Callable[..., Cost]:
    """``passes`` tensors of ``x``'s size, half of them (at least one) written."""

    def of(x: torch.Tensor, *args: Any, **kwargs: Any) -> Cost:
        written = max(1, passes // 2)
        return Cost(read_bytes=(passes - written) * x.nbytes, write_bytes=written * x.nbytes)

    return of


def error_cases(op: str, inputs: int) -> tuple[ErrorCase, ...]:
    """Refused calls of a norm whose first ``inputs`` arguments are ``[..., N]``, then weight."""

    def call(**changes: Any) -> Callable[[Callable[..., Any]], Any]:
        tensors = [torch.ones(2, 8) for _ in range(inputs)]
        tensors[0] = changes.get("x", tensors[0])
        weight = changes.get("weight", torch.ones(8))
        return lambda run: run(*tensors, weight)

    return (
        ErrorCase(
            name="no dimensions",
            call=call(x=torch.tensor(1.0)),
            error=ValueError,
            match=f"{op}: argument 'x' must have at least 1 dimensions",
        ),
        ErrorCase(
            name="integer input",
            call=call(x=torch.ones(2, 8, dtype=torch.int64)),
            error=TypeError,
            match=f"{op}: argument 'x' must have dtype float32 or float16 or bfloat16, got int64",
        ),
        ErrorCase(
            name="weight of another size",
            call=call(weight=torch.ones(7)),
            error=ValueError,
            match=f"{op}: argument 'weight' must have size 8 for N",
        ),
        ErrorCase(
            name="weight with two dimensions",
            call=call(weight=torch.ones(1, 8)),
            error=ValueError,
            match=f"{op}: argument 'weight' must have 1 dimensions",
        ),
        ErrorCase(
            name="half weight for a float input",
            call=call(weight=torch.ones(8, dtype=torch.float16)),
            error=TypeError,
            match=f"{op}: argument 'weight' must have dtype float32",
        ),
    )
