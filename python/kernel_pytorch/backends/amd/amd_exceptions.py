"""AMD's names in the tree of :mod:`kernel_pytorch.backends.base_exceptions`."""

from __future__ import annotations

from kernel_pytorch.backends import base_exceptions as base
from kernel_pytorch.backends.base_exceptions import raise_or_warn

__all__ = [
    "AMDBackendError",
    "AMDConfigurationError",
    "AMDDeviceError",
    "AMDOptimizationError",
    "HIPCompilationError",
    "HIPKernelError",
    "MIOpenError",
    "MatrixCoreError",
    "ROCBLASError",
    "ROCmMemoryError",
    "ROCmNotAvailableError",
    "raise_or_warn",
]


class AMDBackendError(base.BackendError):
    """Something about AMD GPUs that has no class of its own."""


class ROCmNotAvailableError(base.DeviceNotAvailableError):
    """No AMD GPU can be used."""

    def __init__(self, message: str = "ROCm runtime not available") -> None:
        super().__init__("amd", message)


class HIPCompilationError(base.KernelCompilationError):
    """hipcc refused a kernel."""

    def __init__(self, kernel_name: str, error_message: str) -> None:
        super().__init__(kernel_name, "hipcc", error_message)


class ROCmMemoryError(base.OutOfMemoryError):
    """A GPU has too little memory left."""

    def __init__(self, operation: str, required_mb: float = 0.0, available_mb: float = 0.0) -> None:
        super().__init__(
            int(required_mb * 2**20),
            int(available_mb * 2**20),
            "rocm",
            f"{operation}: {required_mb:.1f} MB are needed, {available_mb:.1f} MB are free",
        )
        self.operation = operation


class MIOpenError(AMDBackendError):
    """MIOpen failed."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(f"MIOpen: {operation}: {error_message}", {"operation": operation})


class ROCBLASError(AMDBackendError):
    """rocBLAS failed."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(f"rocBLAS: {operation}: {error_message}", {"operation": operation})


class AMDDeviceError(base.DeviceError):
    """An operation on a GPU failed."""


class AMDConfigurationError(base.ConfigurationError):
    """A setting has a value that cannot be."""


class MatrixCoreError(AMDBackendError):
    """An architecture has no matrix cores for what was asked for."""

    def __init__(self, operation: str, architecture: str, error_message: str) -> None:
        super().__init__(
            f"matrix cores of {architecture}: {operation}: {error_message}",
            {"operation": operation, "architecture": architecture},
        )


class AMDOptimizationError(base.OptimizationError, ValueError):
    """A model cannot be optimised so; it is as it was."""

    def __init__(self, optimization_level: str, error_message: str) -> None:
        super().__init__(f"level {optimization_level}", error_message)
        self.optimization_level = optimization_level


class HIPKernelError(base.KernelError):
    """A kernel failed on a GPU."""
