"""The TPU's names in the tree of :mod:`kernel_pytorch.backends.base_exceptions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel_pytorch.backends import base_exceptions as base
from kernel_pytorch.backends.base_exceptions import raise_or_warn

__all__ = [
    "TPUBackendError",
    "TPUCacheError",
    "TPUCheckpointError",
    "TPUConfigurationError",
    "TPUDeviceError",
    "TPUDistributedError",
    "TPUMemoryError",
    "TPUMemoryPoolError",
    "TPUModelPreparationError",
    "TPUNotAvailableError",
    "TPUOptimizationError",
    "TPUOutOfMemoryError",
    "TPUValidationError",
    "XLACompilationError",
    "XLACompilationTimeoutError",
    "raise_or_warn",
]

INSTALL = "pip install torch-tpu libtpu"


class TPUBackendError(base.BackendError):
    """Base of what the TPU backend raises."""


class TPUNotAvailableError(base.DeviceNotAvailableError, TPUBackendError):
    """There is no TPU, or no package that drives it."""

    def __init__(self, message: str = "TPU/PyTorch-XLA not available") -> None:
        super().__init__("tpu", message)


class XLACompilationError(base.CompilationError, TPUBackendError):
    """XLA refused a model."""

    def __init__(self, error_message: str) -> None:
        super().__init__("xla", error_message)


class XLACompilationTimeoutError(XLACompilationError):
    """XLA took longer than it may."""

    def __init__(self, timeout_seconds: float, error_message: str = "") -> None:
        super().__init__(error_message or f"took longer than {timeout_seconds} s")
        self.timeout_seconds = timeout_seconds


class TPUMemoryError(base.MemoryError, TPUBackendError):
    """Something about a TPU's memory."""

    def __init__(self, message: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details)


class TPUOutOfMemoryError(TPUMemoryError, base.OutOfMemoryError):
    """A TPU has too little memory left."""

    def __init__(
        self, required_bytes: int | None = None, available_bytes: int | None = None
    ) -> None:
        base.OutOfMemoryError.__init__(self, required_bytes, available_bytes, "tpu")


class TPUMemoryPoolError(base.MemoryPoolError, TPUBackendError):
    """A pool does not exist, or cannot take what it was given."""


class TPUCacheError(TPUBackendError):
    """A cache of compiled models cannot be used."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(f"cache: {operation}: {error_message}", {"operation": operation})


class TPUModelPreparationError(TPUBackendError):
    """A model cannot be placed on a TPU."""

    def __init__(self, model_name: str, error_message: str) -> None:
        super().__init__(f"{model_name}: {error_message}", {"model_name": model_name})


class TPUOptimizationError(base.OptimizationError, TPUBackendError):
    """A model could not be optimised; it is as it was."""


class TPUValidationError(TPUBackendError, ValueError):
    """A check of strict validation failed."""

    def __init__(self, validation_type: str, error_message: str) -> None:
        super().__init__(f"{validation_type}: {error_message}", {"type": validation_type})


class TPUDistributedError(TPUBackendError):
    """A collective operation failed."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(f"{operation}: {error_message}", {"operation": operation})


class TPUCheckpointError(TPUBackendError):
    """A checkpoint cannot be written or read."""

    def __init__(self, operation: str, checkpoint_path: str, error_message: str) -> None:
        super().__init__(
            f"{operation} {checkpoint_path}: {error_message}",
            {"operation": operation, "checkpoint_path": checkpoint_path},
        )


class TPUConfigurationError(base.ConfigurationError, TPUBackendError):
    """A setting has a value that cannot be."""


class TPUDeviceError(base.DeviceError, TPUBackendError):
    """An operation on a TPU failed."""
