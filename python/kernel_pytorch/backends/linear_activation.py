"""A linear layer and the activation after it as one operator, on one instance, reversibly.

``torch.ops.kpt.linear_act`` reads the layer's own parameters at each call and has gradients: what
is true in inference is true in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.pairs import PairForward, find_pairs

__all__ = ["FusedLinearActivation", "fuse_linear_activation"]

_PAIRS: dict[type, tuple[type, ...]] = {nn.Linear: (nn.GELU, nn.SiLU, nn.ReLU)}


def _kind(activation: Any) -> str:
    if isinstance(activation, nn.GELU):
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    return {nn.SiLU: "silu", nn.ReLU: "relu"}[type(activation)]


class FusedLinearActivation:
    """One pair; :meth:`remove` gives both their own code back."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        self.linear, self.activation = linear, activation
        self.kind = _kind(activation)
        self._on_linear = PairForward(self, first=True)
        self._on_activation = PairForward(self, first=False)

    def call(self, first: bool, x: torch.Tensor) -> torch.Tensor:
        if not first:
            return x
        linear = self.linear
        fused: torch.Tensor = torch.ops.kpt.linear_act(x, linear.weight, linear.bias, self.kind)
        return fused

    def install(self) -> None:
        self._on_linear.install(self.linear)
        self._on_activation.install(self.activation)

    def remove(self) -> None:
        self._on_linear.remove(self.linear)
        self._on_activation.remove(self.activation)


def fuse_linear_activation(model: nn.Module) -> list[FusedLinearActivation]:
    """Fuse every linear layer of ``model`` with the GELU, SiLU or ReLU that alone reads it; returns
    the pairs. Raises RuntimeError when the model's code cannot be traced."""
    fused = [FusedLinearActivation(a, b) for a, b in find_pairs(model, _PAIRS)]
    for pair in fused:
        pair.install()
    return fused
