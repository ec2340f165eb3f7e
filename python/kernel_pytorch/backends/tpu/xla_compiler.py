"""Models compiled through XLA, remembered in a bounded cache.

Where there is no TPU nothing is compiled: the model is given back as it is, with a warning.
"""

from __future__ import annotations

import statistics
import time
import warnings
import weakref
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_optimizer import as_inputs
from kernel_pytorch.backends.lru_cache import LRUCache
from kernel_pytorch.backends.strategies import run
from kernel_pytorch.backends.tpu import runtime as tpu
from kernel_pytorch.backends.tpu.tpu_exceptions import (
    XLACompilationError,
    XLACompilationTimeoutError,
)
from kernel_pytorch.core.config import TPUConfig

__all__ = ["XLACompiler"]


class XLACompiler:
    """``torch.compile`` with the runtime's backend; at most ``config.cache_max_size`` results."""

    def __init__(self, config: TPUConfig | None = None) -> None:
        self.config = TPUConfig() if config is None else config
        self._cache: LRUCache[tuple[weakref.ref[nn.Module], Any]] = LRUCache(
            self.config.cache_max_size
        )
        self.compilations = 0

    def _backend(self) -> str | None:
        """torch.compile's backend; None where there is no TPU."""
        return None if tpu.absent() else str(tpu.runtime().compile_backend)

    def compile_model(
        self, model: nn.Module, sample_inputs: Any = None, use_cache: bool = True
    ) -> Any:
        """``model`` compiled, in its mode, for inputs like ``sample_inputs`` (when given, it is
        compiled now, else at its first call).

        Raises XLACompilationError with what the compiler said, XLACompilationTimeoutError when the
        first call took longer than ``config.compilation_timeout_seconds``.
        """
        backend = self._backend()
        if backend is None:
            warnings.warn(
                f"nothing is compiled: {tpu.absent()}; the model runs on the CPU as it is",
                RuntimeWarning,
                stacklevel=2,
            )
            return model
        sample = as_inputs(sample_inputs)
        key = (id(model), model.training, _signature(sample))
        if use_cache:
            known = self._cache.get(key)
            # An id may be another model's by now: the reference says.
            if known is not None and known[0]() is model:
                return known[1]
        compiled: Any = torch.compile(model, backend=backend)
        if sample is not None:
            self._first_call(compiled, model, sample)
        self.compilations += 1
        if use_cache:
            self._cache.set(key, (weakref.ref(model), compiled))
        return compiled

    def _first_call(self, compiled: Any, model: nn.Module, sample: Any) -> None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        started = time.perf_counter()
        try:
            with torch.no_grad():
                run(compiled, sample, device)
            tpu.runtime().sync()
        except Exception as error:  # whatever the compiler raises
            raise XLACompilationError(f"{type(model).__name__}: {error}") from error
        took = time.perf_counter() - started
        if took > self.config.compilation_timeout_seconds:
            raise XLACompilationTimeoutError(
                self.config.compilation_timeout_seconds, f"{type(model).__name__}: {took:.0f} s"
            )

    def optimize_for_inference(self, model: nn.Module, sample_inputs: Any = None) -> Any:
        """:meth:`compile_model` in evaluation mode."""
        return self.compile_model(model.eval(), sample_inputs)

    def optimize_for_training(self, model: nn.Module, sample_inputs: Any = None) -> Any:
        """:meth:`compile_model` in training mode."""
        return self.compile_model(model.train(), sample_inputs)

    def get_compilation_stats(self) -> dict[str, Any]:
        """compilations, the cache's counts, whether a TPU can be used, and the settings."""
        return {
            "total_compilations": self.compilations,
            "compilation_cache": self._cache.get_stats(),
            "xla_available": not tpu.absent(),
            "reason": tpu.absent(),
            "compilation_mode": self.config.compilation_mode.value,
            "cache_max_size": self.config.cache_max_size,
        }

    def clear_cache(self) -> None:
        """Forget the compiled models."""
        self._cache.clear()

    def benchmark_compilation(
        self, model: nn.Module, sample_inputs: Any, num_runs: int = 3
    ) -> dict[str, Any]:
        """Seconds to compile ``model`` anew (min_time, avg_time, max_time, num_runs). Where there
        is no TPU, ``compiled`` is False and the times are those of a call of the model."""
        sample = as_inputs(sample_inputs)
        assert sample is not None
        there = self._backend() is not None
        times = []
        for _ in range(max(1, num_runs)):
            torch.compiler.reset() if there else None
            started = time.perf_counter()
            if there:
                self.compile_model(model, sample, use_cache=False)
            else:
                with torch.no_grad():
                    run(model, sample, torch.device("cpu"))
            times.append(time.perf_counter() - started)
        return {
            "min_time": min(times),
            "avg_time": statistics.fmean(times),
            "max_time": max(times),
            "num_runs": len(times),
            "compiled": there,
        }


def _signature(sample: Any) -> Any:
    """Shapes and dtypes of a sample's tensors."""
    leaves, structure = torch.utils._pytree.tree_flatten(sample)
    kinds = tuple(
        (tuple(v.shape), str(v.dtype)) if isinstance(v, torch.Tensor) else repr(v) for v in leaves
    )
    return kinds, str(structure)
