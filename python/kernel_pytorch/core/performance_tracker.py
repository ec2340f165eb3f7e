"""The performance of models over time: recorded runs, baselines, regressions, history.

    tracker = PerformanceTracker()
    tracker.record_performance(model, inputs, "encoder")           # the baseline
    current = tracker.record_performance(model, inputs, "encoder")  # after a change
    tracker.warn_if_regression(model, current)

Runs lie with their raw samples in one SQLite file (:mod:`kernel_pytorch.core.performance_store`),
the one that ``kpt bench`` writes to and ``kpt compare`` reads.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch.core import provenance
from kernel_pytorch.core.latency import REFERENCE, Latency, call_of, measure_latency
from kernel_pytorch.core.memory_use import peak_bytes, weight_bytes
from kernel_pytorch.core.performance_history import history_page
from kernel_pytorch.core.performance_store import (
    PAIRED,
    PerformanceMetrics,
    PerformanceStore,
    StoreError,
)
from kernel_pytorch.core.regression import (
    MetricType,
    RegressionResult,
    RegressionSeverity,
    regressions,
    too_busy,
)
from kernel_pytorch.core.stats import median

__all__ = [
    "MetricType",
    "PerformanceMetrics",
    "PerformanceTracker",
    "RegressionResult",
    "RegressionSeverity",
    "StoreError",
    "detect_regression",
    "get_performance_tracker",
    "model_fingerprint",
    "now",
    "track_performance",
]

_MIB = 2**20
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_BASELINE_RUNS = 20


def model_fingerprint(model: nn.Module) -> str:
    """The model's class and 16 hexadecimal digits that stand for its structure: the classes and
    settings of its modules, and names, shapes and dtypes of its tensors. The same in every process
    and for any values of the weights."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        kind = type(module)
        # A module's extra_repr may name objects by their address.
        settings = _ADDRESS.sub("", module.extra_repr())
        digest.update(f"{name}|{kind.__module__}.{kind.__qualname__}|{settings}\n".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}\n".encode())
    return f"{type(model).__name__}_{digest.hexdigest()[:16]}"


def now() -> str:
    """The time as runs hold it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


class PerformanceTracker:
    """Records runs of models and compares them."""

    def __init__(self, storage_path: str | os.PathLike[str] | None = None) -> None:
        """``storage_path``: the store's file, made with its folder when the first run is recorded;
        default :func:`kernel_pytorch.core.performance_store.default_path`.

        Raises StoreError where the file cannot be used.
        """
        self.store = PerformanceStore(storage_path)
        self.storage_path: Path = self.store.path

    @property
    def metrics_history(self) -> dict[str, list[PerformanceMetrics]]:
        """All runs in the store by what was measured, oldest first."""
        found: dict[str, list[PerformanceMetrics]] = {}
        for run in reversed(self.store.find()):
            found.setdefault(run.model_hash, []).append(run)
        return found

    def _compute_model_hash(self, model: nn.Module) -> str:
        return model_fingerprint(model)

    def benchmark_model(
        self,
        model: nn.Module,
        sample_inputs: Any,
        num_iterations: int = 100,
        warmup_iterations: int = 10,
    ) -> tuple[float, float, float]:
        """Median latency in milliseconds, examples per second, MiB of weights and results.

        ``sample_inputs`` is a tensor, a tuple of positional or a mapping of keyword inputs. The
        model runs without gradients and otherwise as it is; the device's work is waited for.
        """
        latency, memory = self._measure(model, sample_inputs, num_iterations, warmup_iterations)
        seconds = median(latency.seconds)
        return 1e3 * seconds, _batch(sample_inputs) / seconds, memory

    @staticmethod
    def _measure(
        model: nn.Module,
        sample_inputs: Any,
        iterations: int,
        warmup: int,
        against: nn.Module | None = None,
    ) -> tuple[Latency, float]:
        call, device = call_of(model, sample_inputs), _device(model, sample_inputs)
        other = None if against is None else call_of(against, sample_inputs)
        latency = measure_latency(call, device, samples=iterations, warmup=warmup, against=other)
        return latency, (weight_bytes(model) + peak_bytes(call, device)) / _MIB

    def record_performance(
        self,
        model: nn.Module,
        sample_inputs: Any,
        model_name: str,
        backend: str = "cpu",
        optimization_level: str = "conservative",
        accuracy: float | None = None,
        additional_metrics: dict[str, Any] | None = None,
        *,
        num_iterations: int = 100,
        warmup_iterations: int = 10,
        against: nn.Module | None = None,
    ) -> PerformanceMetrics:
        """Measures a model as :meth:`benchmark_model` does, and stores the run.

        ``against``: a model to measure in turn with it, as the one that is deployed. Runs that were
        measured against the same model are compared by how they stand to that: the surest way, and
        the only one on a machine that is busy with other things.
        """
        device = _device(model, sample_inputs)
        business = provenance.Business()
        latency, memory = self._measure(
            model, sample_inputs, num_iterations, warmup_iterations, against
        )
        seconds = median(latency.seconds)
        run = PerformanceMetrics(
            model_name=model_name,
            model_hash=model_fingerprint(model),
            timestamp=now(),
            latency_ms=1e3 * seconds,
            throughput=_batch(sample_inputs) / seconds,
            memory_mb=memory,
            backend=backend,
            optimization_level=optimization_level,
            device=str(device),
            batch_size=_batch(sample_inputs),
            accuracy=accuracy,
            additional_metrics=dict(additional_metrics or {}),
            samples=latency.seconds,
            reference=latency.reference,
            reference_name=REFERENCE if against is None else PAIRED + model_fingerprint(against),
            busy=business.share(),
            machine=provenance.machine(device),
            versions=provenance.versions(),
            commit=provenance.commit(),
        )
        return self.store.add(run)

    def get_baseline(
        self, model: nn.Module, backend: str | None = None, optimization_level: str | None = None
    ) -> PerformanceMetrics | None:
        """The run that others are held against: the one last given to :meth:`set_baseline`, else
        the first; None without runs."""
        subject = model_fingerprint(model)
        find = functools.partial(
            self.store.find, subject, backend=backend, level=optimization_level
        )
        runs = find(pinned=True, limit=1) or find()
        return runs[-1] if runs else None

    def set_baseline(self, metrics: PerformanceMetrics) -> None:
        """Holds later runs against this one, which is in the store; ValueError if it is not."""
        self.store.pin(metrics)

    def detect_regression(
        self,
        model: nn.Module,
        current_metrics: PerformanceMetrics,
        baseline: PerformanceMetrics | None = None,
    ) -> list[RegressionResult]:
        """The metrics that are worse than the baseline's beyond noise; see
        :mod:`kernel_pytorch.core.regression`.

        Without ``baseline``: the model's on the same backend, level and machine, together with
        later runs of the same commit and versions, which say how much unchanged runs differ.
        Empty without one, too; and times are not judged when the machine was busy with other work
        (:func:`~kernel_pytorch.core.regression.too_busy`): that is a warning.
        """
        if baseline is not None:
            baselines = [baseline]
        else:
            baselines = self._baselines(model, current_metrics)
        if not baselines:
            return []
        if too_busy(*baselines, current_metrics):
            warnings.warn(
                f"{current_metrics.model_name}: other processes used the machine while it was "
                "measured; its latency was not judged: measure again when it is idle",
                stacklevel=2,
            )
        return regressions(baselines, current_metrics)

    def _baselines(self, model: nn.Module, current: PerformanceMetrics) -> list[PerformanceMetrics]:
        subject = model_fingerprint(model)
        find = functools.partial(
            self.store.find,
            subject,
            backend=current.backend,
            level=current.optimization_level,
            machine=current.machine or None,
        )
        pinned = find(pinned=True, limit=1)
        runs = [r for r in reversed(find()) if r.run_id != current.run_id]
        if not runs:
            return []
        first = pinned[0] if pinned else runs[0]

        def repeats(run: PerformanceMetrics) -> bool:
            same = (run.commit, run.versions) == (first.commit, first.versions)
            # Local changes have no name, so such runs may differ in anything.
            return same and not run.commit.endswith("+") and not too_busy(run)

        later = [
            r
            for r in runs
            if r.run_id > first.run_id
            and (current.run_id == 0 or r.run_id < current.run_id)
            and r.batch_size == first.batch_size
            and repeats(r)
        ]
        return [first, *later[: _BASELINE_RUNS - 1]]

    def warn_if_regression(
        self,
        model: nn.Module,
        current_metrics: PerformanceMetrics,
        baseline: PerformanceMetrics | None = None,
    ) -> None:
        """A UserWarning with all of :meth:`detect_regression`, if there are any."""
        found = self.detect_regression(model, current_metrics, baseline)
        if found:
            lines = "; ".join(r.message for r in found)
            warnings.warn(f"{current_metrics.model_name}: {lines}", UserWarning, stacklevel=2)

    def get_performance_history(
        self, model: nn.Module, limit: int = 10
    ) -> list[PerformanceMetrics]:
        """The model's runs, newest first."""
        return self.store.find(model_fingerprint(model), limit=limit)

    def clear_history(self, model: nn.Module | None = None) -> None:
        """Deletes the runs of a model, or all runs in the store."""
        self.store.delete(None if model is None else model_fingerprint(model))

    def to_html(self, model: nn.Module | None = None) -> str:
        """The history of a model, or of all that was measured, as a page with plots."""
        subject = None if model is None else model_fingerprint(model)
        return history_page(list(reversed(self.store.find(subject))))


def _tensors(sample_inputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(sample_inputs, torch.Tensor):
        yield sample_inputs
    elif isinstance(sample_inputs, Mapping):
        for value in sample_inputs.values():
            yield from _tensors(value)
    elif isinstance(sample_inputs, (tuple, list)):
        for value in sample_inputs:
            yield from _tensors(value)


def _batch(sample_inputs: Any) -> int:
    """The first dimension of the first tensor; 1 without one."""
    first = next(_tensors(sample_inputs), None)
    return int(first.shape[0]) if first is not None and first.dim() > 0 else 1


def _device(model: nn.Module, sample_inputs: Any) -> torch.device:
    """Where the model computes: the device of its first parameter, else of its inputs."""
    for tensor in (*model.parameters(), *model.buffers(), *_tensors(sample_inputs)):
        return tensor.device
    return torch.device("cpu")


_tracker: PerformanceTracker | None = None


def get_performance_tracker() -> PerformanceTracker:
    """The process's tracker, on the default store."""
    global _tracker
    if _tracker is None:
        _tracker = PerformanceTracker()
    return _tracker


def track_performance(
    model: nn.Module, sample_inputs: Any, model_name: str, **kwargs: Any
) -> PerformanceMetrics:
    """:meth:`PerformanceTracker.record_performance` of the process's tracker."""
    return get_performance_tracker().record_performance(model, sample_inputs, model_name, **kwargs)


def detect_regression(
    model: nn.Module, current_metrics: PerformanceMetrics, **kwargs: Any
) -> list[RegressionResult]:
    """:meth:`PerformanceTracker.detect_regression` of the process's tracker."""
    return get_performance_tracker().detect_regression(model, current_metrics, **kwargs)
