"""What the gradients of the norms share: the parts of their formulas, cases and rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops import gradients, norms
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, Out, cases

__all__ = [
    "benchmarks",
    "cost",
    "eager",
    "error_cases",
    "make_cases",
    "of_layer_norm",
    "of_rms_norm",
    "param_out",
    "sum_over_rows",
    "training_rows",
    "wanted",
    "widened",
]


def param_out(x: torch.Tensor, param: torch.Tensor | None) -> Out:
    """The gradient of a parameter; empty when it is not asked for."""
    return Out((0,), x.dtype) if param is None else Out(param.shape, param.dtype)


def wanted(grad: torch.Tensor | None, x: torch.Tensor, param: torch.Tensor | None) -> torch.Tensor:
    """``grad`` as :func:`param_out` declares it."""
    if grad is None or param is None:
        return x.new_empty(0)
    return grad.to(param.dtype)


def widened(x: torch.Tensor, *tensors: torch.Tensor | None) -> list[Any]:
    """All in float64 when ``x`` is that, else in float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [None if t is None else t.to(dtype) for t in (x, *tensors)]


def sum_over_rows(t: torch.Tensor) -> torch.Tensor:
    """The sum over all dimensions but the last."""
    return t.sum(tuple(range(t.dim() - 1))) if t.dim() > 1 else t


def eager(
    norm: Callable[..., torch.Tensor],
    grad_y: torch.Tensor,
    x: torch.Tensor,
    *params: torch.Tensor | None,
    grad_new_residual: torch.Tensor | None,
) -> list[torch.Tensor | None]:
    """PyTorch's gradients of ``norm(x, *params)``."""

    def run(x: torch.Tensor, *params: torch.Tensor | None) -> torch.Tensor:
        return norm(x, *norms.in_dtype_of(x, *params))

    found = gradients.autograd_of(run, (x, *params), (grad_y,))
    if grad_new_residual is not None and found[0] is not None:
        found[0] = found[0] + grad_new_residual
    return found


def cost(grad_y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> Cost:
    """Two or three tensors of ``x``'s size are read and one is written."""
    read = 2 if kwargs.get("grad_new_residual") is None else 3
    return Cost(read_bytes=read * x.nbytes, write_bytes=x.nbytes)


def make_cases(params: tuple[str, ...]) -> tuple[Case, ...]:
    """Cases of the gradient of a norm with these parameters."""
    both = (*params, "grad_new_residual")
    # Rows in several chunks; in chunks of several blocks.
    tall = [{"N": 7}, {"N": 33}], [(70,), (5, 61), (4500,)]
    return (
        cases(sizes=norms.SIZES, given=[(), params], leads=norms.LEADS)
        + cases(sizes=norms.SIZES, given=[both], leads=[(3,), ()])
        + cases(sizes=tall[0], given=[params], leads=tall[1])
        + cases(
            sizes=[{"N": 65}, {"N": 1024}],
            given=[("weight",), both],
            options=[{"eps": 0.1}, {"weight_grad": False}],
        )
    )


def error_cases(op: str) -> tuple[ErrorCase, ...]:
    """Refused calls of the gradient of a norm."""
    x = torch.ones(2, 8)
    return (
        ErrorCase(
            name="no dimensions",
            call=lambda run: run(torch.tensor(1.0), torch.tensor(1.0)),
            error=ValueError,
            match=f"{op}: argument 'grad_y' must have at least 1 dimensions",
        ),
        ErrorCase(
            name="x of another shape",
            call=lambda run: run(x, torch.ones(3, 8)),
            error=ValueError,
            match=f"{op}: argument 'x' must have leading dimensions",
        ),
        ErrorCase(
            name="mixed dtypes",
            call=lambda run: run(x, x.half()),
            error=TypeError,
            match=f"{op}: argument 'x' must have dtype float32, got float16",
        ),
        ErrorCase(
            name="weight of another size",
            call=lambda run: run(x, x, torch.ones(7)),
            error=ValueError,
            match=f"{op}: argument 'weight' must have size 8 for N",
        ),
        ErrorCase(
            name="half weight for a float input",
            call=lambda run: run(x, x, torch.ones(8, dtype=torch.float16)),
            error=TypeError,
            match=f"{op}: argument 'weight' must have dtype float32",
        ),
        ErrorCase(
            name="grad_new_residual of another shape",
            call=lambda run: run(x, x, grad_new_residual=torch.ones(8)),
            error=ValueError,
            match=f"{op}: argument 'grad_new_residual' must have leading dimensions",
        ),
    )


def benchmarks(norm: Callable[..., torch.Tensor], params: tuple[str, ...]) -> tuple[Benchmark, ...]:
    """The gradient in cache, against PyTorch's from a graph that is there already."""

    def record(grad_y: torch.Tensor, x: torch.Tensor, *rest: Any, **kwargs: Any) -> tuple[Any, ...]:
        outputs, leaves = gradients.recorded(norm, (x, *rest[: len(params)]))
        return outputs, leaves, (grad_y,)

    return tuple(
        Benchmark(
            name="512x1024",
            case=Case(sizes={"N": 1024}, given=params, lead=(512,)),
            dtype=dtype,
            hot=True,
            eager=gradients.replay,
            eager_inputs=record,
        )
        for dtype in (torch.bfloat16, torch.float32)
    )


def training_rows(params: tuple[str, ...]) -> tuple[Benchmark, ...]:
    """Forward and backward together, of a norm."""

    def backward_cost(x: torch.Tensor, *args: Any, **kwargs: Any) -> Cost:
        return Cost(read_bytes=2 * x.nbytes, write_bytes=x.nbytes)

    return tuple(
        Benchmark(
            name=f"{m}x{n} forward+backward",
            case=Case(sizes={"N": n}, given=params, lead=(m,)),
            dtype=dtype,
            hot=hot,
            backward_cost=backward_cost,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for m, n, hot in ((512, 1024, True), (4096, 4096, False))
    )


def of_rms_norm(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    """The gradients of ``rms_norm``, and of ``add_rms_norm`` where there are two outputs."""
    grad_x, grad_weight = torch.ops.kpt.rms_norm_backward(
        grads[0],
        inputs["x"] if len(outputs) == 1 else outputs[1],
        inputs["weight"],
        inputs["eps"],
        grad_new_residual=grads[1] if len(outputs) == 2 else None,
        weight_grad="weight" in needed,
    )
    return {"x": grad_x, "residual": grad_x, "weight": grad_weight}


def of_layer_norm(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    """The gradients of ``layer_norm``, and of ``add_layer_norm`` where there are two outputs."""
    grad_x, grad_weight, grad_bias = torch.ops.kpt.layer_norm_backward(
        grads[0],
        inputs["x"] if len(outputs) == 1 else outputs[1],
        inputs["weight"],
        inputs["bias"] if "bias" in needed else None,
        inputs["eps"],
        grad_new_residual=grads[1] if len(outputs) == 2 else None,
        weight_grad="weight" in needed,
    )
    return {"x": grad_x, "residual": grad_x, "weight": grad_weight, "bias": grad_bias}
