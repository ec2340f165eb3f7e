"""What a module is, told by its type and checked by its behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LinearWeights", "NormWeights", "activation_kind", "as_linear", "as_norm", "hook_reason"]

_FORMULAS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}
_ACTIVATION_WORDS = ("act", "elu", "silu", "swish")


@dataclass(frozen=True, kw_only=True)
class LinearWeights:
    """``x W^T + b`` with W [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class NormWeights:
    """A norm over the last dimension; ``kind`` is the operator's name."""

    kind: str
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float


def hook_reason(module: nn.Module) -> str:
    """Why the module's inside cannot be bypassed; "" when it can."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, which would no longer run"
    if module._backward_hooks or module._backward_pre_hooks:
        return "it has backward hooks, which would no longer run"
    if "forward" in module.__dict__:
        return "its forward is already replaced on the instance"
    return ""


def as_linear(module: nn.Module) -> LinearWeights | None:
    """The weights of ``nn.Linear`` and of Hugging Face's ``Conv1D`` (weight [in, out]); subclasses
    count only if they kept the forward."""
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        if "weight" not in module._parameters:  # parametrized or weight-normed
            return None
        return LinearWeights(weight=module.weight, bias=module.bias)
    if (
        type(module).__name__ == "Conv1D"
        and type(module).__module__ == "transformers.pytorch_utils"
    ):
        return LinearWeights(weight=module.weight.t(), bias=module.bias)
    return None


def as_norm(module: nn.Module) -> NormWeights | None:
    """The weights of ``nn.LayerNorm``, ``nn.RMSNorm``, and of RMS norms as Hugging Face models
    define them (told by name and attributes, then checked against the formula)."""
    if type(module).forward is nn.LayerNorm.forward and len(module.normalized_shape) == 1:
        return NormWeights(
            kind="layer_norm", weight=module.weight, bias=module.bias, eps=module.eps
        )
    if type(module).forward is nn.RMSNorm.forward and len(module.normalized_shape) == 1:
        if module.eps is None:
            return None  # eps then depends on the input's dtype
        return NormWeights(kind="rms_norm", weight=module.weight, bias=None, eps=module.eps)
    if not type(module).__name__.endswith("RMSNorm") or list(module._parameters) != ["weight"]:
        return None
    weight = module._parameters["weight"]
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or weight.dim() != 1 or not isinstance(eps, float) or module._modules:
        return None
    return _checked_rms_norm(module, weight, eps)


def _checked_rms_norm(module: nn.Module, weight: torch.Tensor, eps: float) -> NormWeights | None:
    # The name promises little: some scale by (1 + weight). Small inputs make a wrong eps show.
    x = torch.linspace(-2.0, 3.0, weight.numel() * 2).view(2, -1)
    x = (x * torch.tensor([[1.0], [eps**0.5]])).to(weight.dtype)
    with torch.no_grad():
        wide = x.double()
        expected = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()
        try:
            got = type(module).forward(module, x).double()
        except Exception:
            return None
    tolerance = 8 * torch.finfo(weight.dtype).eps
    if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
        return None
    return NormWeights(kind="rms_norm", weight=weight, bias=None, eps=eps)


def activation_kind(function: object) -> str | None:
    """The kernels' name of an activation module or function, found by evaluating it."""
    if isinstance(function, nn.Module):
        name = type(function).__name__.lower()
        if list(function.parameters()) or not any(w in name for w in _ACTIVATION_WORDS):
            return None
        if hook_reason(function):
            return None
    elif function not in (F.relu, F.gelu, F.silu, torch.relu):
        return None
    x = torch.linspace(-8.0, 8.0, 257)
    with torch.no_grad():
        try:
            got = function(x.clone())  # type: ignore[operator]
        except Exception:
            return None
    if not isinstance(got, torch.Tensor) or got.shape != x.shape or got.dtype != x.dtype:
        return None
    for kind, formula in _FORMULAS.items():
        if torch.allclose(got, formula(x), rtol=1e-5, atol=1e-6):
            return kind
    return None
