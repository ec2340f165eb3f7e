"""Linear layers with an activation, a row's result independent of the other rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ActivatedLinear", "activate", "activation_named", "gated"]

_GATES = {"swiglu": "silu", "geglu": "gelu"}
_KERNELS = ("relu", "gelu", "gelu_tanh", "silu")
_OTHER_NAMES = {"swish": "silu"}


def activation_named(name: str, owner: str) -> str:
    """The operators' name of an activation; ValueError, in the name of ``owner``, if unknown."""
    found = _OTHER_NAMES.get(name, name)
    known = ("none", *_KERNELS, "mish", *_GATES)
    if found not in known:
        raise ValueError(
            f"{owner}: activation_fn must be one of {', '.join(known)}, swish, got {name!r}"
        )
    return found


def gated(activation: str) -> bool:
    """Whether the activation multiplies the two halves of twice as many features."""
    return activation in _GATES


def activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation of ``x``, which for a gate is ``[..., 2 n]``."""
    if activation == "none":
        return x
    if activation == "mish":
        return F.mish(x)
    if activation in _GATES:
        y: torch.Tensor = torch.ops.kpt.act_mul(x, _GATES[activation])
    else:
        y = torch.ops.kpt.act(x, activation)
    return y


class ActivatedLinear(nn.Linear):
    """``activation(x W^T + b)`` by ``kpt::linear_act``; a gate has twice the rows in ``W``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rows = 2 * out_features if gated(activation) else out_features
        super().__init__(in_features, rows, bias, device=device, dtype=dtype)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if self.activation == "mish":
            return F.mish(torch.ops.kpt.linear_act(x, self.weight, self.bias, "none"))
        y: torch.Tensor = torch.ops.kpt.linear_act(x, self.weight, self.bias, self.activation)
        return y
