"""Where the CPU backend tells the layers below it how the kernels see the processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["native_cpu", "set_native_cpu"]

_features: Callable[[], Mapping[str, Any]] | None = None


def set_native_cpu(features: Callable[[], Mapping[str, Any]]) -> None:
    """Called once by the CPU backend, whose ``features()`` returns instruction-set flags, cache
    sizes and "isa", the highest level of the kernels that the processor has."""
    global _features
    _features = features


def native_cpu() -> Mapping[str, Any] | None:
    """What the kernels see; None without compiled kernels."""
    if _features is None:
        return None
    try:
        return _features()
    except ImportError:  # NativeUnavailableError
        return None
