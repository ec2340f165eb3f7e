"""What the linear layers share: their activations and gates in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import EAGER
from kernel_pytorch.ops.spec import Case

__all__ = [
    "ACTIVATIONS",
    "GATES",
    "GATE_KINDS",
    "check_layer",
    "layer_inputs",
    "linear",
    "output_features",
]

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu")
GATES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"swiglu": F.silu, "geglu": F.gelu}
GATE_KINDS: Mapping[str, str] = {"swiglu": "silu", "geglu": "gelu"}


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


def output_features(weight: torch.Tensor, activation: str) -> Any:
    """The last size of the layer's output (symbolic when the weight's is)."""
    return weight.shape[0] // 2 if activation in GATES else weight.shape[0]


def check_layer(op: str, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> None:
    """Raise ValueError when ``bias``, or a gate, does not fit the rows of ``weight``."""
    if activation in GATES and weight.shape[0] % 2 != 0:
        raise ValueError(
            f"{op}: argument 'weight' must have an even first dimension [2 N, K] for "
            f"activation '{activation}', got shape {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{op}: argument 'bias' must have shape [{weight.shape[0]}] like the rows of "
            f"'weight', got shape {list(bias.shape)}"
        )


def layer_inputs(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, str]:
    """x, weight, bias and activation for a case of sizes N and K; the weight scaled as it is
    initialised, so that outputs are of order one."""
    activation = case.options.get("activation", "none")
    k = case.sizes["K"]
    rows = case.sizes["N"] * (2 if activation in GATES else 1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(*case.lead, k).to(dtype)
    weight = (normal(rows, k) / max(1, k) ** 0.5).to(dtype)
    bias = normal(rows).to(dtype) if "bias" in case.given else None
    return x, weight, bias, activation
