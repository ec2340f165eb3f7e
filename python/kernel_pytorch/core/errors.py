"""The exceptions this package raises beyond ValueError and TypeError: one tree, by what failed.

Each carries its message, ``details`` for programs, and its ``cause``. Those that report a bad value
are ValueErrors too, so that code written against Python's own exceptions catches them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ArgumentError",
    "CompilationError",
    "ConfigValidationError",
    "ContainerError",
    "DeploymentError",
    "ExportError",
    "FusionError",
    "HardwareCapabilityError",
    "HardwareDetectionError",
    "HardwareError",
    "HardwareNotFoundError",
    "HealthCheckError",
    "InputValidationError",
    "KernelPyTorchError",
    "MetricsError",
    "ModelValidationError",
    "MonitoringError",
    "NativeUnavailableError",
    "OptimizationError",
    "PrecisionError",
    "ServingError",
    "StrictModeError",
    "ValidationError",
    "format_error_chain",
    "raise_or_warn",
]


class KernelPyTorchError(Exception):
    """Base of every exception that is this package's own."""

    def __init__(
        self,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.cause = cause
        if cause is not None:
            self.__cause__ = cause

    def to_dict(self) -> dict[str, Any]:
        """Type, message, details and cause as plain data."""
        return {
            "error_type": type(self).__name__,
            "message": str(self),
            "details": self.details,
            "cause": str(self.__cause__) if self.__cause__ is not None else None,
        }

    def __reduce__(self) -> Any:
        # Python would call the subclass with the message alone.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[KernelPyTorchError], args: tuple[Any, ...], state: dict[str, Any]
) -> KernelPyTorchError:
    try:
        error = kind.__new__(kind)
    except TypeError:  # Python's own MemoryError makes none of a class with more bases
        error = Exception.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class StrictModeError(KernelPyTorchError, RuntimeError):
    """Strict mode is on and a call had no native kernel; the message says why."""


class NativeUnavailableError(KernelPyTorchError, ImportError):
    """A compiled module is missing, does not load here, or belongs to another version."""


class ValidationError(KernelPyTorchError, ValueError):
    """Something given is not what was expected."""


class ArgumentError(ValidationError, AssertionError):
    """A bad argument where earlier versions raised AssertionError: code that catches that still
    does."""


class ConfigValidationError(ValidationError):
    """A configuration has an unknown key or a value that it must not have."""

    def __init__(self, config_name: str, parameter: str, value: Any, reason: str) -> None:
        where = f"{config_name}.{parameter}" if parameter else config_name
        super().__init__(
            f"{where}: {reason}",
            {"config": config_name, "parameter": parameter, "value": value, "reason": reason},
        )
        self.config_name, self.parameter, self.value = config_name, parameter, value
        self.reason = reason


class InputValidationError(ValidationError):
    """An input of a model or function is not what was expected."""

    def __init__(self, input_name: str, expected: str, actual: str, reason: str = "") -> None:
        super().__init__(
            f"{input_name}: expected {expected}, got {actual}{reason and f': {reason}'}",
            {"input": input_name, "expected": expected, "actual": actual, "reason": reason},
        )


class ModelValidationError(ValidationError):
    """A model has faults; all of them are named."""

    def __init__(self, model_name: str, issues: Sequence[str]) -> None:
        super().__init__(
            f"{model_name}: {'; '.join(issues)}", {"model": model_name, "issues": list(issues)}
        )


class HardwareError(KernelPyTorchError):
    """Something about the machine."""


class HardwareDetectionError(HardwareError):
    """What should tell about hardware is there, but fails."""

    def __init__(self, hardware_type: str, reason: str) -> None:
        super().__init__(
            f"{hardware_type}: {reason}", {"hardware_type": hardware_type, "reason": reason}
        )


class HardwareNotFoundError(HardwareError):
    """Hardware that was asked for is not in this machine."""

    def __init__(self, hardware_type: str, requirements: Sequence[str] | None = None) -> None:
        needs = f"; needed: {', '.join(requirements)}" if requirements else ""
        super().__init__(
            f"this machine has no {hardware_type}{needs}",
            {"hardware_type": hardware_type, "requirements": list(requirements or [])},
        )


class HardwareCapabilityError(HardwareError):
    """The hardware is there, but cannot do what was asked."""

    def __init__(
        self, hardware_name: str, required_capability: str, available_capabilities: Sequence[str]
    ) -> None:
        have = ", ".join(available_capabilities) or "nothing of the kind"
        super().__init__(
            f"{hardware_name} lacks {required_capability}; it has {have}",
            {
                "hardware": hardware_name,
                "required": required_capability,
                "available": list(available_capabilities),
            },
        )


class OptimizationError(KernelPyTorchError):
    """A model could not be optimized."""


class CompilationError(OptimizationError):
    """A compiler failed or is not installed."""

    def __init__(self, compiler: str, model_name: str, error_message: str) -> None:
        super().__init__(
            f"{compiler}, {model_name}: {error_message}",
            {"compiler": compiler, "model": model_name, "error": error_message},
        )


class FusionError(OptimizationError):
    """Layers that were to become one cannot."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"{pattern}: {reason}", {"pattern": pattern, "reason": reason})


class PrecisionError(OptimizationError):
    """A conversion between precisions is not possible."""

    def __init__(self, source_precision: str, target_precision: str, reason: str) -> None:
        super().__init__(
            f"from {source_precision} to {target_precision}: {reason}",
            {"source": source_precision, "target": target_precision, "reason": reason},
        )


class DeploymentError(KernelPyTorchError):
    """A model could not be deployed."""


class ExportError(DeploymentError):
    """A model could not be exported to a format."""

    def __init__(self, format_name: str, model_name: str, reason: str) -> None:
        super().__init__(
            f"{model_name} to {format_name}: {reason}",
            {"format": format_name, "model": model_name, "reason": reason},
        )


class ServingError(DeploymentError):
    """A model server failed in an operation."""

    def __init__(self, server_type: str, operation: str, reason: str) -> None:
        super().__init__(
            f"{server_type}, {operation}: {reason}",
            {"server": server_type, "operation": operation, "reason": reason},
        )


class ContainerError(DeploymentError):
    """A container could not be built or run."""

    def __init__(self, container_type: str, operation: str, reason: str) -> None:
        super().__init__(
            f"{container_type}, {operation}: {reason}",
            {"container": container_type, "operation": operation, "reason": reason},
        )


class MonitoringError(KernelPyTorchError):
    """Monitoring failed; what is monitored goes on."""


class MetricsError(MonitoringError):
    """A metric could not be recorded or read."""

    def __init__(self, metric_name: str, operation: str, reason: str) -> None:
        super().__init__(
            f"{metric_name}, {operation}: {reason}",
            {"metric": metric_name, "operation": operation, "reason": reason},
        )


class HealthCheckError(MonitoringError):
    """A health check found something wrong."""

    def __init__(self, component: str, status: str, reason: str) -> None:
        super().__init__(
            f"{component} is {status}: {reason}",
            {"component": component, "status": status, "reason": reason},
        )


def raise_or_warn(
    exception_class: type[Exception],
    message: str,
    strict_mode: bool = False,
    log: logging.Logger | None = None,
    **kwargs: Any,
) -> None:
    """In strict mode raise ``exception_class(message, **kwargs)``; else tell ``log``, or warn."""
    if strict_mode:
        raise exception_class(message, **kwargs)
    if log is not None:
        log.warning("%s: %s", exception_class.__name__, message)
    else:
        warnings.warn(f"{exception_class.__name__}: {message}", RuntimeWarning, stacklevel=2)


def format_error_chain(exc: BaseException, max_depth: int = 5) -> str:
    """An exception and what caused it, outermost first, one a line, at most ``max_depth``."""
    lines: list[str] = []
    current: BaseException | None = exc
    while current is not None and len(lines) < max_depth:
        lead = f"{'  ' * len(lines)}caused by " if lines else ""
        lines.append(f"{lead}{type(current).__name__}: {current}")
        current = current.__cause__ or current.__context__
    return "\n".join(lines)
