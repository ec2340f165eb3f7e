"""What the backward operators share: PyTorch's own gradients, to be compared and timed with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["autograd_of", "recorded", "replay"]


def recorded(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor | None]
) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
    """``function(*inputs)`` with its graph: the outputs, and those of the inputs that are tensors
    as leaves of it."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
        result = function(*leaves)
        return (
            result if isinstance(result, tuple) else (result,),
            [t for t in leaves if t is not None],
        )


def replay(
    outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The gradients of ``leaves``, from a graph that stays for the next call."""
    with torch.inference_mode(False):
        return torch.autograd.grad(outputs, leaves, grads, retain_graph=True)


def autograd_of(
    function: Callable[..., Any],
    inputs: Sequence[torch.Tensor | None],
    grads: Sequence[torch.Tensor],
) -> list[torch.Tensor | None]:
    """The gradients of ``inputs`` by PyTorch's autograd; None for those that are None."""
    outputs, leaves = recorded(function, inputs)
    with torch.inference_mode(False):
        found = iter(torch.autograd.grad(outputs, leaves, [g.detach().clone() for g in grads]))
    return [None if t is None else next(found) for t in inputs]
