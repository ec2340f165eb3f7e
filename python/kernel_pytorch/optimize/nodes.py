"""What a node of a traced or exported graph does, whatever way it is written."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from kernel_pytorch.optimize.recognize import (
    LinearWeights,
    NormWeights,
    activation_kind,
    as_linear,
    as_norm,
    hook_reason,
)

__all__ = ["Nodes", "moves_only", "reads_shape"]

_ATEN = torch.ops.aten
_LINEAR = (F.linear, _ATEN.linear.default)
_ATTENTION = (F.scaled_dot_product_attention, _ATEN.scaled_dot_product_attention.default)
_BINARY = {
    "add": (operator.add, operator.iadd, torch.add, _ATEN.add.Tensor),
    "mul": (operator.mul, operator.imul, torch.mul, _ATEN.mul.Tensor),
}
_GELU = (F.gelu, _ATEN.gelu.default)
_ACTIVATIONS = {
    F.relu: "relu",
    torch.relu: "relu",
    _ATEN.relu.default: "relu",
    F.silu: "silu",
    _ATEN.silu.default: "silu",
}
_MOVES = frozenset(
    (
        "chunk",
        "clone",
        "contiguous",
        "expand",
        "flatten",
        "getitem",
        "movedim",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "swapaxes",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    )
)
_SHAPE_READS = frozenset(("dim", "numel", "size", "sym_numel", "sym_size"))


def _name(node: fx.Node) -> str:
    """What a node calls: the name of a tensor's method or of torch's function; "" for others."""
    target = node.target
    if node.op == "call_method":
        return str(target)
    if node.op != "call_function":
        return ""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::")
    name = getattr(target, "__name__", "")
    return name if getattr(torch, name, None) is target or target is operator.getitem else ""


def moves_only(node: fx.Node) -> bool:
    """Whether the node passes on its first argument's elements, at other places."""
    reinterprets = any(isinstance(a, torch.dtype) for a in node.args)
    return _name(node) in _MOVES and not reinterprets


def reads_shape(node: fx.Node) -> bool:
    """Whether the node looks at its argument's shape only."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "device")
    return _name(node) in _SHAPE_READS


class Nodes:
    """Reads nodes of graphs over ``module``."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def _child(self, node: fx.Node) -> nn.Module | None:
        """The child a node calls with one tensor, if it may be bypassed."""
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return None
        if str(node.target).startswith("kpt_") or not isinstance(node.args[0], fx.Node):
            return None
        child = self._module.get_submodule(str(node.target))
        return None if hook_reason(child) or child.training else child

    def _tensor(self, value: Any) -> torch.Tensor | None:
        if isinstance(value, fx.Node) and value.op == "get_attr":
            found = operator.attrgetter(str(value.target))(self._module)
            return found if isinstance(found, torch.Tensor) else None
        return None

    def _arguments(self, node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
        return {**dict(zip(names, node.args)), **node.kwargs}

    def linear(self, node: Any) -> tuple[fx.Node, LinearWeights] | None:
        """(input, weights) of a linear layer."""
        if not isinstance(node, fx.Node):
            return None
        if child := self._child(node):
            weights = as_linear(child)
            return None if weights is None else (node.args[0], weights)  # type: ignore[return-value]
        if node.op == "call_function" and node.target in _LINEAR:
            a = self._arguments(node, ("input", "weight", "bias"))
            weight, bias = self._tensor(a["weight"]), self._tensor(a.get("bias"))
            if weight is None or (a.get("bias") is not None and bias is None):
                return None
            return a["input"], LinearWeights(weight=weight, bias=bias)
        return None

    def activation(self, node: Any) -> tuple[fx.Node, str] | None:
        """(input, kernels' name) of an activation."""
        if not isinstance(node, fx.Node):
            return None
        if child := self._child(node):
            kind = activation_kind(child)
            return None if kind is None else (node.args[0], kind)  # type: ignore[return-value]
        if not node.args or not isinstance(node.args[0], fx.Node):
            return None
        if node.op == "call_function" and node.target in _GELU:
            approximate = node.kwargs.get("approximate", "none")
            if len(node.args) > 1 or approximate not in ("none", "tanh"):
                return None
            return node.args[0], "gelu" if approximate == "none" else "gelu_tanh"
        if node.op == "call_function" and node.target in _ACTIVATIONS:
            if len(node.args) > 1 or any(node.kwargs.values()):
                return None
            return node.args[0], _ACTIVATIONS[node.target]  # type: ignore[index]
        if node.op == "call_method" and node.target == "relu":
            return node.args[0], "relu"
        return None

    def norm(self, node: Any) -> tuple[fx.Node, NormWeights] | None:
        """(input, weights) of a norm over the last dimension."""
        if not isinstance(node, fx.Node):
            return None
        if child := self._child(node):
            weights = as_norm(child)
            return None if weights is None else (node.args[0], weights)  # type: ignore[return-value]
        if node.op == "call_function" and node.target in (F.layer_norm, _ATEN.layer_norm.default):
            names = ("input", "normalized_shape", "weight", "bias", "eps")
            a = self._arguments(node, names)
            weight, bias = self._tensor(a.get("weight")), self._tensor(a.get("bias"))
            known = all(
                a.get(name) is None or tensor is not None
                for name, tensor in (("weight", weight), ("bias", bias))
            )
            if not known or len(a["normalized_shape"]) != 1:
                return None
            return a["input"], NormWeights(
                kind="layer_norm", weight=weight, bias=bias, eps=a.get("eps", 1e-5)
            )
        return None

    def binary(self, node: Any, name: str) -> tuple[fx.Node, fx.Node] | None:
        """Both terms of a sum ("add") or product ("mul") of two tensors."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        if node.target not in _BINARY[name] or node.kwargs or len(node.args) != 2:
            return None
        a, b = node.args
        return (a, b) if isinstance(a, fx.Node) and isinstance(b, fx.Node) else None

    def is_attention(self, node: fx.Node) -> bool:
        """Whether the node is ``scaled_dot_product_attention`` without dropout."""
        if node.op != "call_function" or node.target not in _ATTENTION:
            return False
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        a = self._arguments(node, names)
        return a.get("dropout_p", 0.0) in (0, 0.0) and isinstance(a.get("is_causal", False), bool)

    def is_identity(self, node: fx.Node) -> bool:
        """Whether the node passes its first argument on, in evaluation."""
        if node.op == "call_module":
            child = self._child(node)
            return isinstance(child, (nn.Dropout, nn.Identity))
        if node.op != "call_function" or not node.args:
            return False
        if node.target is F.dropout:
            return self._arguments(node, ("input", "p", "training")).get("training") is False
        if node.target is _ATEN.dropout.default:
            return node.args[2] is False
        return False
