"""Intel GPUs: backend, levels, memory, the ocloc compiler, utilities."""

from typing import Any

from kernel_pytorch.backends.intel import xpu_utilities
from kernel_pytorch.backends.intel.intel_backend import IntelBackend
from kernel_pytorch.backends.intel.intel_optimizer import (
    IntelKernelOptimizer,
    IntelOptimizationLevel,
    IntelOptimizer,
    OptimizationResult,
)
from kernel_pytorch.backends.intel.levels import IntelLevels
from kernel_pytorch.backends.intel.memory_manager import IntelMemoryManager
from kernel_pytorch.backends.intel.ocloc_compiler import OclocCompiler
from kernel_pytorch.backends.intel.xpu_utilities import (
    XPUDeviceInfo,
    XPUDeviceManager,
    XPUOptimizations,
    get_ipex_version,
    is_ipex_available,
    is_xpu_available,
)

IPEX_AVAILABLE: bool
XPU_AVAILABLE: bool

__all__ = [
    "IPEX_AVAILABLE",
    "XPU_AVAILABLE",
    "IntelBackend",
    "IntelKernelOptimizer",
    "IntelLevels",
    "IntelMemoryManager",
    "IntelOptimizationLevel",
    "IntelOptimizer",
    "OclocCompiler",
    "OptimizationResult",
    "XPUDeviceInfo",
    "XPUDeviceManager",
    "XPUOptimizations",
    "get_ipex_version",
    "is_ipex_available",
    "is_xpu_available",
]


def __getattr__(name: str) -> Any:
    # Asked of the machine each time, not at import.
    if name in ("IPEX_AVAILABLE", "XPU_AVAILABLE"):
        return getattr(xpu_utilities, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
