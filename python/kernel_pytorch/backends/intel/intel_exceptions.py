"""Intel's names in the tree of :mod:`kernel_pytorch.backends.base_exceptions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kernel_pytorch.backends import base_exceptions as base

__all__ = [
    "AMXNotSupportedError",
    "DPCPPError",
    "IPEXNotInstalledError",
    "IntelBackendError",
    "IntelXPUError",
    "InvalidXPUArchitectureError",
    "OneDNNError",
    "SYCLCompilationError",
    "XPUConfigurationError",
    "XPUDeviceError",
    "XPUMemoryAllocationError",
    "XPUNotAvailableError",
    "XPUOptimizationError",
    "XPUOutOfMemoryError",
]

Details = Mapping[str, Any] | None


class IntelBackendError(base.BackendError):
    """Base of what has no class of its own."""


IntelXPUError = IntelBackendError


class XPUNotAvailableError(base.DeviceNotAvailableError):
    """No Intel GPU can be used."""

    def __init__(self, message: str = "Intel XPU is not available") -> None:
        super().__init__("intel", message)


class IPEXNotInstalledError(base.DeviceNotAvailableError):
    """Intel Extension for PyTorch was asked for by name. It has ended (2.8 was the last): torch's
    own XPU devices need nothing of it."""

    def __init__(
        self,
        message: str = "Intel Extension for PyTorch (IPEX) is not installed. It has ended and is "
        "not needed: use torch's own XPU build (pip install torch, from PyTorch's index for XPU)",
    ) -> None:
        super().__init__("intel", message)


class XPUDeviceError(base.DeviceError):
    """An operation on a GPU failed."""

    def __init__(self, message: str, device_id: int = 0, details: Details = None) -> None:
        super().__init__(device_id, f"xpu:{device_id}", message)
        self.details.update(details or {})


class XPUOutOfMemoryError(base.OutOfMemoryError):
    """A GPU has too little memory left."""

    def __init__(
        self,
        requested_bytes: int,
        available_bytes: int,
        device_id: int = 0,
        details: Details = None,
    ) -> None:
        super().__init__(requested_bytes, available_bytes, f"xpu:{device_id}")
        self.details.update(details or {})
        self.requested_bytes = requested_bytes
        self.device_id = device_id


class XPUMemoryAllocationError(base.MemoryAllocationError):
    """An allocation failed for another reason than a lack of memory."""

    def __init__(self, message: str, size_bytes: int = 0, details: Details = None) -> None:
        super().__init__("Intel XPU allocation", message)
        self.details.update({"size_bytes": size_bytes, **(details or {})})
        self.size_bytes = size_bytes


class OneDNNError(IntelBackendError):
    """oneDNN failed."""

    def __init__(self, message: str, operation: str | None = None, details: Details = None) -> None:
        super().__init__(f"oneDNN: {message}", {"operation": operation, **(details or {})})
        self.operation = operation


class SYCLCompilationError(base.KernelCompilationError):
    """A SYCL or OpenCL kernel did not compile."""

    def __init__(
        self, message: str, kernel_name: str | None = None, details: Details = None
    ) -> None:
        super().__init__(kernel_name or "", "ocloc", message)
        self.details.update(details or {})


class DPCPPError(base.CompilationError):
    """Intel's compiler failed."""

    def __init__(self, message: str, details: Details = None) -> None:
        super().__init__("icpx", message)
        self.details.update(details or {})


class XPUOptimizationError(base.OptimizationError):
    """A model could not be optimised; it is as it was."""

    def __init__(
        self, message: str, optimization_type: str | None = None, details: Details = None
    ) -> None:
        super().__init__(optimization_type or "Intel XPU", message)
        self.details.update(details or {})


class AMXNotSupportedError(IntelBackendError):
    """The device has no AMX."""

    def __init__(self, message: str = "Intel AMX is not supported on this CPU/XPU") -> None:
        super().__init__(message)


class InvalidXPUArchitectureError(base.InvalidArchitectureError):
    """No such architecture of Intel's."""

    def __init__(self, architecture: str, supported: Iterable[str] | None = None) -> None:
        super().__init__(architecture, supported or ())


class XPUConfigurationError(base.ConfigurationError):
    """A setting has a value that cannot be."""

    def __init__(
        self, message: str, config_key: str | None = None, details: Details = None
    ) -> None:
        super().__init__(config_key or "", None, message)
        self.details.update(details or {})
