"""NVIDIA's names in the tree of :mod:`kernel_pytorch.backends.base_exceptions`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernel_pytorch.backends import base_exceptions as base
from kernel_pytorch.backends.base_exceptions import (
    KernelLaunchError,
    MemoryAllocationError,
    raise_or_warn,
)

__all__ = [
    "CUDADeviceError",
    "CUDANotAvailableError",
    "ConfigurationError",
    "FP8CompilationError",
    "FlashAttentionError",
    "InvalidArchitectureError",
    "InvalidComputeCapabilityError",
    "KernelLaunchError",
    "MemoryAllocationError",
    "ModelOptimizationError",
    "NVIDIABackendError",
    "OutOfMemoryError",
    "raise_or_warn",
]


class NVIDIABackendError(base.BackendError):
    """Something about NVIDIA GPUs that has no class of its own."""


class CUDANotAvailableError(base.DeviceNotAvailableError):
    """No NVIDIA GPU can be used."""

    def __init__(self, message: str = "CUDA not available") -> None:
        super().__init__("nvidia", message)


class CUDADeviceError(base.DeviceError):
    """An operation on a GPU failed."""

    def __init__(self, device_id: int = 0, operation: str = "", error_message: str = "") -> None:
        super().__init__(device_id, operation, error_message)


class FP8CompilationError(base.CompilationError):
    """A model cannot be made to compute in FP8."""

    def __init__(self, error_message: str) -> None:
        super().__init__("fp8", error_message)


class FlashAttentionError(NVIDIABackendError):
    """An attention call cannot be served."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(f"flash attention: {operation}: {error_message}", {"operation": operation})
        self.operation = operation


class OutOfMemoryError(base.OutOfMemoryError):
    """A GPU has too little memory left."""

    def __init__(
        self,
        message: str = "",
        required_bytes: int | None = None,
        available_bytes: int | None = None,
    ) -> None:
        super().__init__(required_bytes, available_bytes, "cuda", message)


class InvalidComputeCapabilityError(NVIDIABackendError, ValueError):
    """A GPU is too old for what was asked for."""

    def __init__(self, compute_capability: str, required: str) -> None:
        super().__init__(
            f"compute capability {compute_capability}: {required} or later is needed",
            {"compute_capability": compute_capability, "required": required},
        )


class ModelOptimizationError(base.ModelOptimizationError):
    """A model could not be optimised; it is as it was."""

    def __init__(
        self, model_name: str = "", optimization_type: str = "", error_message: str = ""
    ) -> None:
        super().__init__(model_name, optimization_type, error_message)


class InvalidArchitectureError(base.InvalidArchitectureError):
    """No such architecture of NVIDIA's."""

    def __init__(self, architecture: str, supported: Iterable[str] | None = None) -> None:
        super().__init__(architecture, supported or ())


class ConfigurationError(base.ConfigurationError):
    """A setting has a value that cannot be."""

    def __init__(self, parameter: str = "", value: Any = None, reason: str = "") -> None:
        super().__init__(parameter, value, reason)
