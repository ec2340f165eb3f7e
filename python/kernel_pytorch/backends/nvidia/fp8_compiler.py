"""Linear layers of a model in FP8: weights stored as e4m3, activations quantized row by row.

On one instance and reversibly: a layer keeps its parameters, and runs its own code where FP8 would
be wrong (training, a gradient is needed, its weights changed).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_optimizer import as_inputs
from kernel_pytorch.backends.nvidia.nvidia_exceptions import FP8CompilationError
from kernel_pytorch.backends.strategies import run
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.enums import NVIDIAArchitecture
from kernel_pytorch.optimize.measure import Timing, paired

__all__ = ["FP8CompilationResult", "FP8Compiler", "FP8Forward"]

_HAS_FP8 = (NVIDIAArchitecture.ADA, NVIDIAArchitecture.HOPPER, NVIDIAArchitecture.BLACKWELL)
# Dense FP8 tensor-core rate over the bf16 one: NVIDIA's L4, H100 and B200 data sheets.
_PEAK_RATIO = 2.0
_SECONDS = 1.0


class FP8Forward:
    """What an FP8 layer runs instead of ``nn.Linear.forward``: row-wise e4m3 on both sides."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        with torch.no_grad():
            weight = linear.weight.detach()
            self.weight, self.scale = torch.ops.kpt.quantize_fp8(weight, granularity="row")
        self._made_from: tuple[int, int] | None = self._state()

    def _state(self) -> tuple[int, int]:
        weight = self.linear.weight
        return weight.data_ptr(), 0 if weight.is_inference() else weight._version

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights lie elsewhere: it runs its own code until it is prepared itself.
        return {**self.__dict__, "_made_from": None}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        linear = self.linear
        needs_grad = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in linear.parameters())
        )
        if linear.training or needs_grad or self._made_from != self._state():
            return nn.Linear.forward(linear, x)
        rows, scale = torch.ops.kpt.quantize_fp8(
            x.reshape(-1, linear.in_features), granularity="row"
        )
        bias = None if linear.bias is None else linear.bias.detach()
        out: torch.Tensor = torch.ops.kpt.fp8_gemm(
            rows, self.weight, scale, self.scale, bias=bias, out_dtype=x.dtype
        )
        return out.reshape(*x.shape[:-1], linear.out_features)

    @property
    def nbytes(self) -> int:
        """Of the FP8 weights and their scales, beside the layer's own."""
        return self.weight.nbytes + self.scale.nbytes


@dataclass
class FP8CompilationResult:
    """What :meth:`FP8Compiler.compile_with_fp8` did."""

    compiled_model: nn.Module
    fp8_layers: set[str] = field(default_factory=set)
    """Names of the layers that compute in FP8."""
    compilation_mode: str = "inference"
    warnings: list[str] = field(default_factory=list)


class FP8Compiler:
    """FP8 where the configuration's architecture has it: Ada, Hopper, Blackwell."""

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        self._fp8_supported = self.config.hardware.nvidia.architecture in _HAS_FP8

    def prepare_for_fp8(self, model: nn.Module, for_inference: bool = False) -> nn.Module:
        """Lets the linear layers of ``model`` compute in FP8 in evaluation; returns it.

        Unchanged where the architecture has no FP8. ``for_inference=False`` was metadata-only and
        is deprecated: it changes nothing.

        Raises FP8CompilationError when a layer's weights cannot be quantized; no layer then is.
        """
        if not self._fp8_supported:
            return model
        if not for_inference:
            warnings.warn(
                "prepare_for_fp8(for_inference=False) is deprecated: it was metadata-only, and "
                "changes nothing; train with kernel_pytorch.precision's FP8 modules",
                DeprecationWarning,
                stacklevel=2,
            )
            return model
        made: list[tuple[nn.Linear, FP8Forward]] = []
        for name, layer in _linears(model):
            if "forward" in layer.__dict__:
                continue
            try:
                made.append((layer, FP8Forward(layer)))
            except (RuntimeError, TypeError, ValueError) as error:
                raise FP8CompilationError(f"layer {name!r}: {error}") from error
        for layer, forward in made:
            layer.__dict__["forward"] = forward
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Give every layer its own code back; returns ``model``."""
        for _, layer in _linears(model):
            if isinstance(layer.__dict__.get("forward"), FP8Forward):
                del layer.__dict__["forward"]
        return model

    def compile_with_fp8(
        self,
        model: nn.Module,
        sample_inputs: torch.Tensor | None = None,
        for_inference: bool = False,
    ) -> FP8CompilationResult:
        """:meth:`prepare_for_fp8` with a report; ``sample_inputs``, when given, must pass through.

        Raises FP8CompilationError when the prepared model fails on them; it then is as it was.
        """
        mode = "inference" if for_inference else "training"
        said = []
        if not self._fp8_supported:
            name = self.config.hardware.nvidia.architecture.value
            said.append(f"architecture {name!r} has no FP8: the model is unchanged")
        elif not for_inference:
            said.append("training in FP8 is not what this class does: the model is unchanged")
        else:
            self.prepare_for_fp8(model.eval(), for_inference=True)
            sample = as_inputs(sample_inputs)
            if sample is not None:
                try:
                    with torch.no_grad():
                        run(model, sample, next(model.parameters()).device)
                except Exception as error:  # whatever the model raises: it must stay usable
                    self.revert(model)
                    raise FP8CompilationError(f"the model fails on the sample: {error}") from error
        return FP8CompilationResult(
            compiled_model=model,
            fp8_layers={n for n, layer in _linears(model) if _in_fp8(layer)},
            compilation_mode=mode,
            warnings=said,
        )

    def get_fp8_stats(self, model: nn.Module) -> dict[str, Any]:
        """total_layers (linear), fp8_layers, and the bytes of the FP8 weights."""
        layers = [layer for _, layer in _linears(model)]
        return {
            "total_layers": len(layers),
            "fp8_layers": sum(_in_fp8(layer) for layer in layers),
            "fp8_bytes": sum(
                layer.__dict__["forward"].nbytes for layer in layers if _in_fp8(layer)
            ),
            "fp8_supported": self._fp8_supported,
        }

    def estimate_speedup(
        self, model: nn.Module, sample_inputs: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """How much faster FP8 can make ``model``.

        With ``sample_inputs`` it is measured on this machine, in pairs (``measured`` True).
        Without, ``estimated_speedup`` is only the bound by Amdahl's law: ``base_speedup``, the
        ratio of the tensor cores' peak rates in FP8 and 16 bits, for the share of the parameters
        that linear layers hold.
        """
        base = _PEAK_RATIO if self._fp8_supported else 1.0
        total = sum(p.numel() for p in model.parameters())
        linear = sum(p.numel() for _, layer in _linears(model) for p in layer.parameters())
        share = linear / total if total else 0.0
        found: dict[str, Any] = {
            "base_speedup": base,
            "linear_share": share,
            "estimated_speedup": 1.0 / (1.0 - share + share / base),
            "measured": False,
        }
        if sample_inputs is not None and self._fp8_supported:
            timing = self._measure(model, as_inputs(sample_inputs))
            found |= {
                "estimated_speedup": timing.speedup,
                "interval": [timing.low, timing.high],
                "measured": True,
            }
        return found

    def _measure(self, model: nn.Module, sample: Any) -> Timing:
        device = next(model.parameters()).device
        modes = [(m, m.training) for m in model.modules()]
        prepared = any(_in_fp8(layer) for _, layer in _linears(model))
        model.eval()
        self.prepare_for_fp8(model, for_inference=True)
        forwards = [
            (layer, layer.__dict__["forward"]) for _, layer in _linears(model) if _in_fp8(layer)
        ]

        def switch(on: bool) -> None:
            for layer, forward in forwards:
                layer.__dict__.pop("forward", None)
                if on:
                    layer.__dict__["forward"] = forward

        def call() -> None:
            run(model, sample, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        try:
            with torch.no_grad():
                return paired(call, call, _SECONDS, switch)
        finally:
            switch(prepared)
            for module, training in modes:
                module.training = training


def _linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear]


def _in_fp8(layer: nn.Module) -> bool:
    return isinstance(layer.__dict__.get("forward"), FP8Forward)
