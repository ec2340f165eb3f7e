"""Rows that time a step of training: the forward pass and the gradients of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.bench.inputs import Call, Inputs
from kernel_pytorch.ops.spec import Cost, OpSpec

__all__ = ["step_of", "sum_of", "trainable"]


def trainable(spec: OpSpec, inputs: Inputs) -> Inputs:
    """The same inputs, asking for the gradients that ``spec`` can give."""
    named = spec.backward_of if spec.backward_of is not None else spec.tensor_arguments
    places = [i for i, a in enumerate(spec.arguments) if a.name in named]

    def leaves(call: Call) -> Call:
        args = tuple(
            value.detach().requires_grad_()
            if i in places and isinstance(value, torch.Tensor)
            else value
            for i, value in enumerate(call.args)
        )
        return Call(args, call.kwargs)

    return inputs._replace(
        kpt=[leaves(call) for call in inputs.kpt], eager=[leaves(call) for call in inputs.eager]
    )


def step_of(function: Callable[..., Any], first: Call) -> Callable[..., Any]:
    """``function`` and then the gradients of its inputs, from output gradients that are there."""

    def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
        return result if isinstance(result, tuple) else (result,)

    grads = [torch.randn_like(o) for o in outputs_of(function(*first.args, **first.kwargs))]

    def step(*args: Any, **kwargs: Any) -> Any:
        outputs = outputs_of(function(*args, **kwargs))
        leaves = [t for t in args if isinstance(t, torch.Tensor) and t.requires_grad]
        return torch.autograd.grad(outputs, leaves, grads)

    return step


def sum_of(forward: Cost, backward: Cost) -> Cost:
    """The cost of both."""
    return Cost(
        flops=forward.flops + backward.flops,
        read_bytes=forward.read_bytes + backward.read_bytes,
        write_bytes=forward.write_bytes + backward.write_bytes,
        compute=forward.compute,
    )
