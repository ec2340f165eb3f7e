"""What the linear layers share: their activations and gates in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import EAGER

__all__ = ["ACTIVATIONS", "GATES", "linear"]

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu")
GATES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"swiglu": F.silu, "geglu": F.gelu}


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
) -> torch.Tensor:
    """``F.linear`` and the activation, or the gate of its two halves, after it."""
    y = F.linear(x, weight, bias)
    if activation == "none":
        return y
    if activation in GATES:
        gate, up = y.chunk(2, dim=-1)
        return GATES[activation](gate) * up
    return EAGER[activation](y)
