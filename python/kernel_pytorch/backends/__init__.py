"""Backends, on two floors.

The lower floor is the dispatch: ``cpu`` and ``cuda`` map the operators' launchers (``launcher``)
onto native modules, ``plugins`` lets the kernel registry see and replace them. Importing this
package registers every operator in ``torch.ops.kpt`` and does nothing else; the native modules load
on the first call.

The upper floor is what users see of a device, and loads when it is first used: a backend for each
kind (``base_backend``, ``nvidia``, ``amd``, ``tpu``, ``intel``) with its memory manager and its
optimizer, whose levels are lists of ``strategies``; ``backend_factory`` chooses among them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kernel_pytorch import ops
from kernel_pytorch.backends import cpu, cuda, plugins

if TYPE_CHECKING:
    from kernel_pytorch.backends.backend_factory import (
        BackendFactory,
        BackendType,
        detect_best_backend,
        get_backend,
        get_optimizer,
        list_available_backends,
    )
    from kernel_pytorch.backends.base_backend import (
        BaseBackend,
        CPUBackend,
        DeviceInfo,
        OptimizationLevel,
        OptimizationResult,
    )
    from kernel_pytorch.backends.base_exceptions import (
        BackendError,
        CompilationError,
        ConfigurationError,
        DeviceError,
        DeviceNotAvailableError,
        InvalidArchitectureError,
        KernelCompilationError,
        KernelError,
        KernelLaunchError,
        MemoryAllocationError,
        MemoryError,
        MemoryPoolError,
        ModelOptimizationError,
        OptimizationError,
        OutOfMemoryError,
        ToolNotFoundError,
        raise_or_warn,
    )
    from kernel_pytorch.backends.base_memory_manager import (
        BaseMemoryManager,
        BaseMemoryStats,
        MemoryAllocationInfo,
    )
    from kernel_pytorch.backends.base_optimizer import (
        BaseKernelOptimizer,
        BaseOptimizer,
        CPUOptimizer,
        KernelConfig,
        OptimizationStrategy,
    )

_LAZY = {
    "backend_factory": (
        "BackendFactory",
        "BackendType",
        "detect_best_backend",
        "get_backend",
        "get_optimizer",
        "list_available_backends",
    ),
    "base_backend": (
        "BaseBackend",
        "CPUBackend",
        "DeviceInfo",
        "OptimizationLevel",
        "OptimizationResult",
    ),
    "base_exceptions": (
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
    ),
    "base_memory_manager": ("BaseMemoryManager", "BaseMemoryStats", "MemoryAllocationInfo"),
    "base_optimizer": (
        "BaseKernelOptimizer",
        "BaseOptimizer",
        "CPUOptimizer",
        "KernelConfig",
        "OptimizationStrategy",
    ),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "BackendError",
    "BackendFactory",
    "BackendType",
    "BaseBackend",
    "BaseKernelOptimizer",
    "BaseMemoryManager",
    "BaseMemoryStats",
    "BaseOptimizer",
    "CPUBackend",
    "CPUOptimizer",
    "CompilationError",
    "ConfigurationError",
    "DeviceError",
    "DeviceInfo",
    "DeviceNotAvailableError",
    "InvalidArchitectureError",
    "KernelCompilationError",
    "KernelConfig",
    "KernelError",
    "KernelLaunchError",
    "MemoryAllocationError",
    "MemoryAllocationInfo",
    "MemoryError",
    "MemoryPoolError",
    "ModelOptimizationError",
    "OptimizationError",
    "OptimizationLevel",
    "OptimizationResult",
    "OptimizationStrategy",
    "OutOfMemoryError",
    "ToolNotFoundError",
    "cpu",
    "cuda",
    "detect_best_backend",
    "get_backend",
    "get_optimizer",
    "list_available_backends",
    "ops",
    "plugins",
    "raise_or_warn",
]

cpu.register()
cuda.register()
plugins.register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
