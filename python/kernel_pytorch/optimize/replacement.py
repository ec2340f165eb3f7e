"""What runs in place of a module's ``forward``, on that one instance.

A replacement is set as the instance attribute ``forward``: the module stays where it is, with its
class, name, parameters, state dict, hooks and tied weights, and removing the attribute restores the
original bit for bit. Calls that a replacement does not cover run the module's original code, which
is recorded (``kernel_pytorch.explain()``), warned of once, and refused in strict mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict

__all__ = ["LeafReplacement", "Replacement", "installed", "tensors_in"]


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors inside nested tuples, lists and mappings (model outputs are mappings)."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "items") and hasattr(value, "keys"):
        for _, item in value.items():
            yield from tensors_in(item)


def installed(module: nn.Module) -> Replacement | None:
    """The replacement that is installed on ``module``."""
    found = module.__dict__.get("forward")
    return found if isinstance(found, Replacement) else None


class Replacement:
    """Base: guards, fingerprint of the weights that were packed, install and remove.

    ``steps`` are its kernel calls with their packed weights; ``sources`` the modules whose weights
    were packed or baked in. ``run`` does the work, in evaluation and without gradients.
    """

    kind = "replacement"

    def __init__(
        self, module: nn.Module, steps: dict[str, nn.Module], sources: list[nn.Module]
    ) -> None:
        self.module = module
        self.steps = {name: step.eval() for name, step in steps.items()}
        self.sources = sources
        self._fingerprint: tuple[tuple[int, int], ...] | None = self._weights_now()
        self._warned: set[str] = set()

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the operators it calls, in order, each once."""
        return tuple(dict.fromkeys(str(step.op) for step in self.steps.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, in addition to the module's own."""
        return sum(b.nbytes for b in self.packed_tensors().values())

    def packed_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors it computes with: "<step>.<buffer>"."""
        return {
            f"{name}.{key}": tensor
            for name, step in self.steps.items()
            for key, tensor in step.named_buffers()
        }

    def run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def refuse(self, *args: Any, **kwargs: Any) -> str:
        """Why this call must run the original; "" when it need not."""
        return ""

    def repeatable(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """A call like this one of the original, with its output, that changes no argument."""
        return args, kwargs, output

    def run_original(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, of its class."""
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reason = self._common_reason(args, kwargs) or self.refuse(*args, **kwargs)
        if not reason:
            return self.run(*args, **kwargs)
        name = f"{self.kind} ({type(self.module).__name__})"
        refuse_if_strict(name, "cpu", reason)
        record(DispatchRecord(name, "cpu", "original", "", reason))
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"{name} ran its original code: {reason}", RuntimeWarning, stacklevel=2)
        return self.run_original(*args, **kwargs)

    def _common_reason(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        # An exported graph is what it is: its training flag means nothing.
        if self.module.training and not isinstance(self.module, fx.GraphModule):
            return "the module is in training mode"
        if torch.is_grad_enabled() and self._needs_grad(args, kwargs):
            return "a gradient is needed; wrap inference in torch.inference_mode()"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on; choose the precision in optimize() instead"
        if torch.compiler.is_compiling():
            return ""
        if self._fingerprint is None:
            self._fingerprint = self._weights_now()
        elif self._fingerprint != self._weights_now():
            return "its weights changed after they were packed; revert and optimize again"
        return ""

    def _needs_grad(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(p.requires_grad for p in self._source_parameters()) or any(
            t.requires_grad for t in tensors_in((args, tuple(kwargs.values())))
        )

    def _source_parameters(self) -> list[torch.Tensor]:
        return [p for m in self.sources for p in m._parameters.values() if p is not None]

    def _weights_now(self) -> tuple[tuple[int, int], ...]:
        return tuple(
            # A tensor made in inference mode counts no versions.
            (p.data_ptr(), 0 if p.is_inference() else p._version)
            for p in self._source_parameters()
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model has its weights elsewhere: it takes its fingerprint at its first call.
        return {**self.__dict__, "_fingerprint": None}

    def install(self) -> None:
        """Make the module call this. Raises ValueError if its forward is already replaced."""
        if "forward" in self.module.__dict__:
            raise ValueError(f"{type(self.module).__name__}: its forward is already replaced")
        self.module.__dict__["forward"] = self

    def remove(self) -> None:
        """Give the module its own forward back."""
        if self.module.__dict__.get("forward") is self:
            del self.module.__dict__["forward"]


class LeafReplacement(Replacement):
    """One step in place of a module that takes one tensor and gives one of the same dtype."""

    def __init__(
        self, module: nn.Module, step: nn.Module, kind: str, dtypes: tuple[torch.dtype, ...]
    ) -> None:
        super().__init__(module, {"step": step}, [module])
        self.kind = kind
        self.dtypes = dtypes
        self.run = step.forward  # type: ignore[method-assign]

    def refuse(self, *args: Any, **kwargs: Any) -> str:
        if len(args) != 1 or kwargs:
            return "it is called with other arguments than one tensor"
        x = args[0]
        if not isinstance(x, torch.Tensor) or x.layout is not torch.strided or x.is_nested:
            return "the input is not a dense tensor"
        if x.device.type != "cpu":
            return f"the input is on {x.device}"
        if x.dtype not in self.dtypes:
            wanted = " or ".join(map(str, self.dtypes))
            return f"the input is {x.dtype}, the module was optimized for {wanted}"
        return ""
