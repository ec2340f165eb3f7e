"""Modules over the kernels, and kernels of your own beside a reference.

An import path of earlier versions. ``optimize_with_custom_kernels`` replaces what it is told to,
:func:`kernel_pytorch.optimize` what is measured to be faster.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from kernel_pytorch.attention import (
    FlashAttentionV3,
    FusedLinearGELU,
    FusedLinearSiLU,
    create_flash_attention_v3,
    create_fused_ffn_layer,
)
from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict
from kernel_pytorch.precision.multihead import ConvertedMultiheadAttention, can_convert

__all__ = [
    "CustomKernelWrapper",
    "FlashAttentionV3",
    "FusedLinearGELU",
    "FusedLinearGELUKernel",
    "FusedLinearSiLU",
    "create_flash_attention_v3",
    "create_fused_ffn_layer",
    "create_kernel_optimized_module",
    "optimize_with_custom_kernels",
    "print_kernel_optimization_results",
    "validate_kernel_correctness",
]

FusedLinearGELUKernel = FusedLinearGELU

_FUSED = {"linear_gelu": (nn.GELU, FusedLinearGELU), "linear_silu": (nn.SiLU, FusedLinearSiLU)}
_TARGETS = (*_FUSED, "attention")


class CustomKernelWrapper(nn.Module):
    """``kernel_function`` as a module; where it raises, ``fallback_function`` runs instead.

    That is recorded with the reason (``kernel_pytorch.explain()``) and refused in strict mode.
    Without a fallback the kernel's own error reaches the caller.
    """

    def __init__(
        self,
        kernel_function: Callable[..., Any],
        fallback_function: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        for name, function in (("kernel", kernel_function), ("fallback", fallback_function)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"CustomKernelWrapper: argument '{name}_function' must be callable, got "
                    f"{type(function).__name__}"
                )
        self.kernel_function = kernel_function
        self.fallback_function = fallback_function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        name = getattr(self.kernel_function, "__name__", type(self.kernel_function).__name__)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        try:
            result = self.kernel_function(*args, **kwargs)
        except Exception as error:
            if self.fallback_function is None:
                raise
            reason = f"{type(error).__name__}: {error}"
            refuse_if_strict(name, device, reason)
            result = self.fallback_function(*args, **kwargs)
            record(DispatchRecord(name, device, "reference", "", reason))
            return result
        record(DispatchRecord(name, device, "native", "custom", ""))
        return result


def validate_kernel_correctness(
    custom_kernel: Callable[..., Any],
    pytorch_reference: Callable[..., Any],
    test_inputs: Sequence[Any],
    tolerance: float = 1e-5,
) -> dict[str, Any]:
    """Both on each of ``test_inputs`` (a tensor, or a tuple of arguments).

    Returns ``is_correct``, ``max_error`` (the largest difference, relative to the reference's
    largest magnitude where that is above 1) and ``errors``, one for each input. A shape that
    differs, NaN or infinity where the reference has none, counts as an infinite error. ValueError
    without inputs: nothing would be shown.
    """
    if not test_inputs:
        raise ValueError("validate_kernel_correctness: argument 'test_inputs' must not be empty")
    errors = []
    for inputs in test_inputs:
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        got, want = custom_kernel(*args), pytorch_reference(*args)
        errors.append(_difference(got, want))
    largest = max(errors)
    return {"is_correct": largest <= tolerance, "max_error": largest, "errors": errors}


def _difference(got: torch.Tensor, want: torch.Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    got, want = got.detach().double(), want.detach().double()
    same = (got == want) | (got.isnan() & want.isnan())
    gap = torch.where(same, 0.0, (got - want).abs()).nan_to_num(float("inf"))
    size = torch.where(want.isfinite(), want.abs(), 0.0)
    if gap.numel() == 0:
        return 0.0
    return float(gap.max()) / max(1.0, float(size.max()))


def optimize_with_custom_kernels(
    model: nn.Module,
    optimization_targets: Sequence[str] = ("linear_gelu", "attention"),
    validation_mode: bool = True,
) -> nn.Module:
    """A copy of ``model`` with modules over the kernels, which share nothing with the original.

    "linear_gelu" and "linear_silu": an ``nn.Linear`` and the activation after it in an
    ``nn.Sequential``. "attention": ``nn.MultiheadAttention``, called as before.
    ``validation_mode`` compares each fused layer with what it replaces on random input, and raises
    ValueError where they differ by more than 1e-4 (1e-2 in half precision).
    """
    for target in optimization_targets:
        if target not in _TARGETS:
            raise ValueError(
                f"optimize_with_custom_kernels: a target must be one of {', '.join(_TARGETS)}, got "
                f"{target!r}"
            )
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential):
            for target in optimization_targets:
                if target in _FUSED:
                    _fuse(parent, *_FUSED[target], validation_mode)
        for name, child in parent.named_children():
            if type(child) is not nn.MultiheadAttention or "attention" not in optimization_targets:
                continue
            if not can_convert(child):
                setattr(parent, name, ConvertedMultiheadAttention(child, lambda linear: linear))
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fast path reads the weights of the module that was there.
                    parent.activation_relu_or_gelu = 0
    return model


def _fuse(
    parent: nn.Sequential, activation: type[nn.Module], fused: type[nn.Linear], check: bool
) -> None:
    """Each linear layer and ``activation`` right after it becomes one; the latter's place is then
    an ``nn.Identity``, so that the names of the state dict stay."""
    names = list(parent._modules)
    for first, second in itertools.pairwise(names):
        linear, act = parent._modules[first], parent._modules[second]
        exact = getattr(act, "approximate", "none") == "none"
        if type(linear) is not nn.Linear or type(act) is not activation or not exact:
            continue
        has_bias = linear.bias is not None
        made = fused(linear.in_features, linear.out_features, has_bias, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        made.train(linear.training)
        if check:
            x = torch.randn(8, linear.in_features).to(linear.weight)
            with torch.no_grad():
                found = _difference(made(x), act(linear(x)))
            if found > (1e-4 if x.dtype == torch.float32 else 1e-2):
                raise ValueError(
                    f"optimize_with_custom_kernels: {first!r} fused differs by {found:.1e}"
                )
        parent._modules[first], parent._modules[second] = made, nn.Identity()


def create_kernel_optimized_module(module_type: str, **kwargs: Any) -> nn.Module:
    """A module by name: "linear_gelu", "linear_silu", "attention" or "ffn"; ``kwargs`` are its."""
    makers: dict[str, Callable[..., nn.Module]] = {
        "linear_gelu": FusedLinearGELU,
        "linear_silu": FusedLinearSiLU,
        "attention": FlashAttentionV3,
        "ffn": create_fused_ffn_layer,
    }
    if module_type not in makers:
        raise ValueError(
            f"create_kernel_optimized_module: module_type must be one of {', '.join(makers)}, got "
            f"{module_type!r}"
        )
    return makers[module_type](**kwargs)


def print_kernel_optimization_results(results: dict[str, Any]) -> None:
    """What :func:`validate_kernel_correctness` returned, a line each."""
    for name, value in results.items():
        print(f"{name}: {value}")
