"""The exceptions of every backend: one tree under :class:`BackendError`.

Each class also derives from the built-in exception that plain PyTorch raises in its place
(ValueError, RuntimeError, MemoryError), so that code written against those goes on working. The
vendors' trees (``nvidia.nvidia_exceptions`` and its like) only add names below these.
"""

from __future__ import annotations

import builtins
import logging
import warnings
from collections.abc import Iterable
from typing import Any

from kernel_pytorch.core.errors import KernelPyTorchError

__all__ = [
    "BackendError",
    "CompilationError",
    "ConfigurationError",
    "DeviceError",
    "DeviceNotAvailableError",
    "InvalidArchitectureError",
    "KernelCompilationError",
    "KernelError",
    "KernelLaunchError",
    "MemoryAllocationError",
    "MemoryError",
    "MemoryPoolError",
    "ModelOptimizationError",
    "OptimizationError",
    "OutOfMemoryError",
    "ToolNotFoundError",
    "raise_or_warn",
]


class BackendError(KernelPyTorchError):
    """Base of what a backend raises. ``details`` holds the parts of the message as data."""


class DeviceNotAvailableError(BackendError, RuntimeError):
    """There is no such device here, or torch was built without it."""

    def __init__(self, backend: str, reason: str = "") -> None:
        text = f"{backend} is not available" + (f": {reason}" if reason else "")
        super().__init__(text, {"backend": backend, "reason": reason})


class DeviceError(BackendError, RuntimeError):
    """An operation on a device failed, or there is no device of that number."""

    def __init__(self, device_id: int, operation: str, error_message: str) -> None:
        super().__init__(
            f"device {device_id}: {operation}: {error_message}",
            {"device_id": device_id, "operation": operation, "error": error_message},
        )
        self.device_id = device_id
        self.operation = operation


class MemoryError(BackendError, builtins.MemoryError):
    """Something about a device's memory."""


class OutOfMemoryError(MemoryError):
    """What was asked for does not fit, after everything that could be freed was freed."""

    def __init__(
        self,
        required_bytes: int | None = None,
        available_bytes: int | None = None,
        device: str = "unknown",
        message: str = "",
    ) -> None:
        if not message:
            wanted = "" if required_bytes is None else f": {required_bytes} bytes are needed"
            free = "" if available_bytes is None else f", {available_bytes} are free"
            message = f"out of memory on {device}{wanted}{free}"
        super().__init__(
            message,
            {
                "required_bytes": required_bytes,
                "available_bytes": available_bytes,
                "device": device,
            },
        )
        self.required_bytes = required_bytes
        self.available_bytes = available_bytes


class MemoryAllocationError(MemoryError):
    """An allocation failed for another reason than a lack of memory."""

    def __init__(self, operation: str, error_message: str) -> None:
        super().__init__(
            f"{operation}: {error_message}", {"operation": operation, "error": error_message}
        )
        self.operation = operation


class MemoryPoolError(MemoryError):
    """A pool does not exist, or cannot take what it was given."""

    def __init__(self, pool_id: str, operation: str, error_message: str) -> None:
        super().__init__(
            f"pool {pool_id!r}: {operation}: {error_message}",
            {"pool_id": pool_id, "operation": operation, "error": error_message},
        )
        self.pool_id = pool_id


class CompilationError(BackendError, RuntimeError):
    """A compiler refused its input; the message holds what it said."""

    def __init__(self, compiler: str, error_message: str) -> None:
        super().__init__(
            f"{compiler}: {error_message}", {"compiler": compiler, "error": error_message}
        )
        self.compiler = compiler


class ToolNotFoundError(CompilationError):
    """A compiler is not installed; the message says how to get it."""

    def __init__(self, tool: str, install: str) -> None:
        super().__init__(tool, f"not found. Install it: {install}")
        self.install = install


class KernelCompilationError(CompilationError):
    """A kernel's source did not compile."""

    def __init__(self, kernel_name: str, compiler: str, error_message: str) -> None:
        super().__init__(compiler, f"kernel {kernel_name!r}: {error_message}")
        self.details["kernel_name"] = self.kernel_name = kernel_name


class OptimizationError(BackendError, RuntimeError):
    """A step of an optimisation failed; the model is as it was."""

    def __init__(self, optimization_type: str, error_message: str) -> None:
        super().__init__(
            f"{optimization_type}: {error_message}",
            {"optimization_type": optimization_type, "error": error_message},
        )
        self.optimization_type = optimization_type


class ModelOptimizationError(OptimizationError):
    """The same, with the name of the model."""

    def __init__(self, model_name: str, optimization_type: str, error_message: str) -> None:
        super().__init__(optimization_type, f"{model_name}: {error_message}")
        self.details["model_name"] = self.model_name = model_name


class ConfigurationError(BackendError, ValueError):
    """An argument or a setting has a value that cannot be; the message says which can."""

    def __init__(self, parameter: str, value: Any, reason: str) -> None:
        super().__init__(
            f"argument {parameter!r} is {value!r}: {reason}",
            {"parameter": parameter, "value": value, "reason": reason},
        )
        self.parameter = parameter


class InvalidArchitectureError(ConfigurationError):
    """No such architecture."""

    def __init__(self, architecture: str, supported: Iterable[str] = ()) -> None:
        known = [str(s) for s in supported]
        reason = f"expected one of {', '.join(known)}" if known else "unknown architecture"
        super().__init__("architecture", architecture, reason)
        self.details["supported"] = known


class KernelError(BackendError, RuntimeError):
    """A kernel failed on a device."""

    def __init__(self, kernel_name: str, error_code: int | None, error_message: str) -> None:
        code = "" if error_code is None else f" (error {error_code})"
        super().__init__(
            f"kernel {kernel_name!r}{code}: {error_message}",
            {"kernel_name": kernel_name, "error_code": error_code, "error": error_message},
        )
        self.kernel_name = kernel_name
        self.error_code = error_code


class KernelLaunchError(KernelError):
    """A kernel could not be started."""


def raise_or_warn(
    message: str,
    exception_class: type[Exception] = BackendError,
    strict_mode: bool = False,
    log: logging.Logger | None = None,
    **kwargs: Any,
) -> None:
    """Raise ``exception_class(message, **kwargs)`` in strict mode, else warn with ``message``.

    ``log``, when given, gets the warning too.
    """
    if strict_mode:
        raise exception_class(message, **kwargs)
    if log is not None:
        log.warning("%s", message)
    warnings.warn(message, UserWarning, stacklevel=2)
