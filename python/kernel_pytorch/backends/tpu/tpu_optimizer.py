"""The TPU optimizer in its older form: a result with backend, compiler and measurements."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_optimizer import as_inputs
from kernel_pytorch.backends.base_types import OptimizationLevel
from kernel_pytorch.backends.strategies import run
from kernel_pytorch.backends.tpu.tpu_backend import TPUBackend
from kernel_pytorch.backends.tpu.tpu_exceptions import TPUConfigurationError, TPUValidationError
from kernel_pytorch.backends.tpu.xla_compiler import XLACompiler
from kernel_pytorch.core.config import KernelPyTorchConfig

__all__ = ["TPUOptimizationResult", "TPUOptimizer"]

_CALLS = 5


@dataclass
class TPUOptimizationResult:
    """What was done, and how fast it is on the sample."""

    optimized_model: nn.Module
    backend: TPUBackend
    compiler: XLACompiler
    optimization_time: float
    """Seconds."""
    memory_usage: dict[str, Any] = field(default_factory=dict)
    performance_metrics: dict[str, Any] = field(default_factory=dict)
    """latency_ms (median of calls on the sample) when there is one; never assumed."""
    optimizations_applied: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class TPUOptimizer:
    """Levels of :class:`~kernel_pytorch.backends.tpu.levels.TPULevels`."""

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        self.backend = TPUBackend(self.config)
        self.compiler = XLACompiler(self.config.hardware.tpu)
        self._done = 0
        self._seconds = 0.0

    def optimize(
        self,
        model: nn.Module,
        sample_inputs: Any = None,
        optimization_level: str = "balanced",
    ) -> TPUOptimizationResult:
        """``model`` with what the level does in its mode.

        TPUConfigurationError (a ValueError) for an unknown level; with
        ``config.hardware.tpu.enable_strict_validation`` TPUValidationError (a ValueError) when the
        model fails on the sample or gives what is not finite.
        """
        return self._run(model, sample_inputs, optimization_level)

    def _apply_optimization_level(self, model: nn.Module, level: str, sample: Any = None) -> Any:
        try:
            chosen = OptimizationLevel(level)
        except ValueError as error:
            raise TPUConfigurationError(
                "optimization_level", level, f"Unknown optimization level: {error}"
            ) from error
        return self.backend.optimizer.optimize(model, chosen, sample)[1]

    def _run(self, model: nn.Module, sample_inputs: Any, level: str) -> TPUOptimizationResult:
        started = time.perf_counter()
        sample = as_inputs(sample_inputs)
        result = self._apply_optimization_level(model, level, sample)
        metrics: dict[str, Any] = dict(result.metrics)
        if sample is not None:
            metrics |= self._measured(model, sample)
        took = time.perf_counter() - started
        self._done += 1
        self._seconds += took
        return TPUOptimizationResult(
            optimized_model=model,
            backend=self.backend,
            compiler=self.compiler,
            optimization_time=took,
            memory_usage=self.backend.get_memory_stats(),
            performance_metrics=metrics,
            optimizations_applied=result.optimizations_applied,
            warnings=result.warnings,
        )

    def _measured(self, model: nn.Module, sample: Any) -> dict[str, Any]:
        strict = self.config.hardware.tpu.enable_strict_validation
        try:
            with torch.no_grad():
                output = run(model, sample, self.backend.device)
                times = [self._call(model, sample) for _ in range(_CALLS)]
        except Exception as error:  # whatever the model raises
            if strict:
                raise TPUValidationError("sample inputs", f"the model fails: {error}") from error
            return {"sample_error": str(error)}
        tensors = [
            t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)
        ]
        finite = all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())
        if strict and not finite:
            raise TPUValidationError("outputs", "they are not finite on the sample")
        return {"latency_ms": statistics.median(times) * 1e3, "outputs_finite": finite}

    def _call(self, model: nn.Module, sample: Any) -> float:
        started = time.perf_counter()
        run(model, sample, self.backend.device)
        self.backend.synchronize()
        return time.perf_counter() - started

    def optimize_for_inference(
        self, model: nn.Module, sample_inputs: Any = None
    ) -> TPUOptimizationResult:
        """:meth:`optimize` at "aggressive", in evaluation mode."""
        return self._run(model.eval(), sample_inputs, "aggressive")

    def optimize_for_training(
        self, model: nn.Module, sample_inputs: Any = None
    ) -> TPUOptimizationResult:
        """:meth:`optimize` at "balanced", in training mode."""
        return self._run(model.train(), sample_inputs, "balanced")

    def get_optimization_stats(self) -> dict[str, Any]:
        """total_optimizations, total_time (seconds), and the compiler's counts."""
        return {
            "total_optimizations": self._done,
            "total_time": self._seconds,
            "compilation": self.compiler.get_compilation_stats(),
        }

    def clear_cache(self) -> None:
        """Forget compiled and prepared models."""
        self.compiler.clear_cache()
        self.backend.clear_cache()
