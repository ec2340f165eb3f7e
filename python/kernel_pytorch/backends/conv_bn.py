"""Batch normalization folded into the convolution before it, on one instance, reversibly.

In evaluation, ``bn(conv(x))`` is ``conv'(x)`` with the weights of
:func:`torch.nn.utils.fusion.fuse_conv_bn_weights`. The modules stay where they are, with their
parameters and state dict: the convolution's instance gets a ``forward`` that uses the folded
weights, the normalization's instance one that returns its input. Where that would be wrong
(training mode, a parameter's gradient is needed, weights changed since) both run their own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kernel_pytorch.backends.pairs import PairForward, find_pairs

__all__ = ["FoldedConvBn", "find_conv_bn"]

_PAIRS: dict[type, tuple[type, ...]] = {
    nn.Conv1d: (nn.BatchNorm1d,),
    nn.Conv2d: (nn.BatchNorm2d,),
    nn.Conv3d: (nn.BatchNorm3d,),
}


def find_conv_bn(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions of ``model`` whose only reader is a batch normalization with running statistics,
    with that one. Raises RuntimeError when the model's code cannot be traced."""
    return [(c, b) for c, b in find_pairs(model, _PAIRS) if b.running_mean is not None]


class FoldedConvBn:
    """One folded pair; :meth:`remove` gives both their own code back."""

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        self.conv: Any = conv
        self.bn: Any = bn
        with torch.no_grad():
            weight, bias = fuse_conv_bn_weights(
                self.conv.weight,
                self.conv.bias,
                self.bn.running_mean,
                self.bn.running_var,
                self.bn.eps,
                self.bn.weight,
                self.bn.bias,
            )
        self._weight, self._bias = weight.detach(), bias.detach()
        self._made_from: tuple[tuple[int, int], ...] | None = self._state()
        self._on_conv = PairForward(self, first=True)
        self._on_bn = PairForward(self, first=False)

    def _sources(self) -> list[torch.Tensor]:
        tensors = (self.conv.weight, self.conv.bias, self.bn.weight, self.bn.bias)
        return [t for t in (*tensors, self.bn.running_mean, self.bn.running_var) if t is not None]

    def _state(self) -> tuple[tuple[int, int], ...]:
        return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in self._sources())

    @property
    def holds(self) -> bool:
        """Whether a call now may use the folded weights."""
        if self.conv.training or self.bn.training:
            return False
        if torch.is_grad_enabled() and any(t.requires_grad for t in self._sources()):
            return False
        return self._made_from == self._state()

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights lie elsewhere: it runs its own code until it is optimised itself.
        return {**self.__dict__, "_made_from": None}

    def call(self, first: bool, x: torch.Tensor) -> torch.Tensor:
        module = self.conv if first else self.bn
        if not self.holds:
            result: torch.Tensor = type(module).forward(module, x)
        elif first:
            result = self.conv._conv_forward(x, self._weight, self._bias)
        else:
            result = x
        return result

    def install(self) -> None:
        self._on_conv.install(self.conv)
        self._on_bn.install(self.bn)

    def remove(self) -> None:
        self._on_conv.remove(self.conv)
        self._on_bn.remove(self.bn)
