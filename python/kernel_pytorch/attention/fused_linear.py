"""Linear layers with their activation in the same pass, over ``linear_act``."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["FusedLinearGELU", "FusedLinearSiLU", "create_fused_ffn_layer"]


class _FusedLinear(nn.Linear):
    """``act(x W^T + b)``; an ``nn.Linear`` in everything else (parameters, state dict)."""

    activation = "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        y: torch.Tensor = torch.ops.kpt.linear_act.default(
            x, self.weight, self.bias, self.activation
        )
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


class FusedLinearGELU(_FusedLinear):
    """``gelu(x W^T + b)``, with the exact (erf) GELU."""

    activation = "gelu"


class FusedLinearSiLU(_FusedLinear):
    """``silu(x W^T + b)``."""

    activation = "silu"


def create_fused_ffn_layer(
    in_features: int,
    hidden_features: int,
    out_features: int | None = None,
    activation: str = "gelu",
    bias: bool = True,
) -> nn.Sequential:
    """A feed-forward block: the fused layer, then ``nn.Linear`` to ``out_features`` (default:
    ``in_features``). ValueError for an activation other than "gelu" and "silu"."""
    fused = {"gelu": FusedLinearGELU, "silu": FusedLinearSiLU}.get(activation)
    if fused is None:
        raise ValueError(
            f"create_fused_ffn_layer: activation must be 'gelu' or 'silu', got {activation!r}"
        )
    out_features = in_features if out_features is None else out_features
    return nn.Sequential(
        fused(in_features, hidden_features, bias=bias),
        nn.Linear(hidden_features, out_features, bias=bias),
    )
