"""Chooses a backend: by name, or the best that this machine has."""

from __future__ import annotations

import difflib
import enum
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kernel_pytorch.backends.base_backend import BaseBackend, CPUBackend
from kernel_pytorch.backends.base_exceptions import ConfigurationError
from kernel_pytorch.backends.base_optimizer import BaseOptimizer, CPUOptimizer
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.hardware_detector import get_hardware_detector

__all__ = [
    "BackendFactory",
    "BackendType",
    "detect_best_backend",
    "get_backend",
    "get_optimizer",
    "list_available_backends",
]

_ALIASES = {
    "cuda": "nvidia",
    "rocm": "amd",
    "hip": "amd",
    "xla": "tpu",
    "xpu": "intel",
    "sycl": "intel",
}


class BackendType(enum.Enum):
    """A backend's name. ``BackendType("cuda")`` is NVIDIA; an unknown name raises ValueError."""

    AUTO = "auto"
    NVIDIA = "nvidia"
    AMD = "amd"
    TPU = "tpu"
    INTEL = "intel"
    CPU = "cpu"

    @classmethod
    def _missing_(cls, value: object) -> BackendType:
        word = str(value).strip().lower()
        word = _ALIASES.get(word, word)
        known = [t.value for t in cls]
        if word in known:
            return cls(word)
        near = difflib.get_close_matches(word, [*known, *_ALIASES], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown backend {value!r}: expected one of {', '.join(known)}{hint}")

    @classmethod
    def from_string(cls, text: str) -> BackendType:
        """``text`` in any case, aliases too; an unknown one gives CPU as it always did, and a
        warning that says so. :meth:`BackendFactory.create` raises instead."""
        try:
            return cls(text)
        except ValueError as error:
            warnings.warn(f"{error}; taking cpu", UserWarning, stacklevel=2)
            return cls.CPU


@dataclass(frozen=True, kw_only=True)
class _Entry:
    backend: Callable[[], type[BaseBackend]]
    optimizer: Callable[[], type[BaseOptimizer]]
    section: Callable[[KernelPyTorchConfig], Any]
    """The part of a configuration that the backend takes."""
    priority: int
    available: Callable[[], bool] | None = None
    """None: what the backend itself says."""


def _whole(config: KernelPyTorchConfig) -> KernelPyTorchConfig:
    return config


def _vendor(name: str, title: str, priority: int, section: Any = _whole) -> _Entry:
    # A vendor's modules load when its backend is first asked for.
    package = f"kernel_pytorch.backends.{name}"

    def find(module: str, attribute: str) -> Callable[[], Any]:
        return lambda: getattr(importlib.import_module(f"{package}.{module}"), attribute)

    return _Entry(
        backend=find(f"{name}_backend", f"{title}Backend"),
        optimizer=find(f"{name}_optimizer", f"{title}Optimizer"),
        section=section,
        priority=priority,
    )


class BackendFactory:
    """Backends by type, with what is registered beside the package's own."""

    _entries: ClassVar[dict[BackendType, _Entry]] = {
        BackendType.NVIDIA: _vendor("nvidia", "NVIDIA", 100),
        BackendType.AMD: _vendor("amd", "AMD", 90, lambda config: config.hardware.amd),
        BackendType.TPU: _vendor("tpu", "TPU", 85),
        BackendType.INTEL: _vendor("intel", "Intel", 80),
        BackendType.CPU: _Entry(
            backend=lambda: CPUBackend,
            optimizer=lambda: CPUOptimizer,
            section=_whole,
            priority=0,
            available=lambda: True,
        ),
    }

    @classmethod
    def register_backend(
        cls,
        backend_type: BackendType,
        backend_class: type[BaseBackend],
        optimizer_class: type[BaseOptimizer] | None = None,
        availability_check: Callable[[], bool] | None = None,
        priority: int | None = None,
    ) -> None:
        """Use another class for a type. TypeError for what is no backend."""
        if not (isinstance(backend_class, type) and issubclass(backend_class, BaseBackend)):
            raise TypeError(f"register_backend: {backend_class!r} is no subclass of BaseBackend")
        old = cls._entries[_named(backend_type)]
        cls._entries[_named(backend_type)] = _Entry(
            backend=lambda: backend_class,
            optimizer=old.optimizer if optimizer_class is None else lambda: optimizer_class,
            section=_whole,
            priority=old.priority if priority is None else priority,
            available=availability_check,
        )

    @classmethod
    def create(
        cls, backend_type: BackendType | str = BackendType.AUTO, config: Any = None, **kwargs: Any
    ) -> BaseBackend:
        """The backend of this type; AUTO: of the best device here.

        ``config`` is a whole :class:`KernelPyTorchConfig`, or what the backend itself takes.
        ConfigurationError (a ValueError) for an unknown name.
        """
        entry = cls._entry(backend_type)
        return entry.backend()(*_given(entry, config), **kwargs)

    @classmethod
    def create_optimizer(
        cls,
        backend_type: BackendType | str = BackendType.AUTO,
        config: Any = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> BaseOptimizer:
        """The optimizer of this type's backend."""
        entry = cls._entry(backend_type)
        if device is not None:
            kwargs["device"] = device
        return entry.optimizer()(*_given(entry, config), **kwargs)

    @classmethod
    def _entry(cls, backend_type: BackendType | str) -> _Entry:
        found = _named(backend_type)
        return cls._entries[detect_best_backend() if found is BackendType.AUTO else found]

    @classmethod
    def is_available(cls, backend_type: BackendType | str) -> bool:
        """Whether this machine has a device of the type that torch can use."""
        entry = cls._entry(backend_type)
        return entry.backend()().is_available if entry.available is None else entry.available()

    @classmethod
    def get_available_backends(cls) -> list[BackendType]:
        """Those with a device here, the best first; CPU always is among them."""
        ordered = sorted(cls._entries, key=lambda t: -cls._entries[t].priority)
        return [t for t in ordered if cls.is_available(t)]

    @classmethod
    def get_backend_info(cls, backend_type: BackendType | str) -> dict[str, Any]:
        """type, available, priority, backend_class, reason (why it is not available) and the
        devices."""
        kind = _named(backend_type)
        kind = detect_best_backend() if kind is BackendType.AUTO else kind
        entry = cls._entries[kind]
        backend = entry.backend()()
        return {
            "type": kind.value,
            "available": cls.is_available(kind),
            "priority": entry.priority,
            "backend_class": type(backend).__name__,
            "reason": backend.absent(),
            "device_count": backend.device_count,
            "devices": [d.to_dict() for d in backend.get_all_devices()],
        }

    @classmethod
    def get_all_backend_info(cls) -> dict[str, dict[str, Any]]:
        """:meth:`get_backend_info` by name."""
        return {t.value: cls.get_backend_info(t) for t in cls._entries}

    @classmethod
    def print_status(cls) -> None:
        """One line a backend on the standard output."""
        for name, info in cls.get_all_backend_info().items():
            devices = ", ".join(d["device_name"] for d in info["devices"])
            print(f"{name:<8}{'yes' if info['available'] else 'no':<5}{devices or info['reason']}")


def _named(backend_type: BackendType | str) -> BackendType:
    try:
        return BackendType(backend_type)
    except ValueError as error:
        raise ConfigurationError("backend_type", backend_type, str(error)) from error


def _given(entry: _Entry, config: Any) -> tuple[Any, ...]:
    if config is None:
        return ()
    return (entry.section(config) if isinstance(config, KernelPyTorchConfig) else config,)


def detect_best_backend() -> BackendType:
    """The type of the best device that torch can use here; CPU where there is no accelerator."""
    return BackendType(get_hardware_detector().get_optimal_backend())


def list_available_backends() -> list[str]:
    """Names of the backends with a device here, the best first; "cpu" is the last."""
    return [t.value for t in BackendFactory.get_available_backends()]


def get_backend(
    backend_type: BackendType | str = BackendType.AUTO, config: Any = None, **kwargs: Any
) -> BaseBackend:
    """:meth:`BackendFactory.create`."""
    return BackendFactory.create(backend_type, config, **kwargs)


def get_optimizer(
    backend_type: BackendType | str = BackendType.AUTO,
    config: Any = None,
    device: torch.device | None = None,
    **kwargs: Any,
) -> BaseOptimizer:
    """:meth:`BackendFactory.create_optimizer`."""
    return BackendFactory.create_optimizer(backend_type, config, device, **kwargs)
