"""What the elementwise activation operators share: their functions in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

__all__ = ["EAGER", "EAGER_BACKWARD", "GATE_KINDS", "KINDS", "REFERENCE_BACKWARD", "wide"]

EAGER: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
KINDS = tuple(EAGER)
GATE_KINDS = ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")
"""Those of ``act_mul``."""


def _quick_gelu_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(1.702 * x)
    return grad * (s + 1.702 * x * s * (1 - s))


_aten = torch.ops.aten

# What autograd runs for each, as plain functions: usable below autograd too.
EAGER_BACKWARD: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relu": lambda grad, x: _aten.threshold_backward(grad, x, 0),
    "gelu": lambda grad, x: _aten.gelu_backward(grad, x),
    "gelu_tanh": lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    "silu": lambda grad, x: _aten.silu_backward(grad, x),
    "sigmoid": lambda grad, x: _aten.sigmoid_backward(grad, torch.sigmoid(x)),
    "tanh": lambda grad, x: _aten.tanh_backward(grad, torch.tanh(x)),
    "quick_gelu": _quick_gelu_backward,
}


def _silu_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return grad * (s * (1 + x * (1 - s)))


# The same in operations that can be differentiated again (aten's silu_backward cannot).
REFERENCE_BACKWARD: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    **EAGER_BACKWARD,
    "silu": _silu_backward,
}


def wide(t: torch.Tensor) -> torch.Tensor:
    """``t`` in the dtype that references compute in: float64 as it is, else float32."""
    return t if t.dtype == torch.float64 else t.float()
