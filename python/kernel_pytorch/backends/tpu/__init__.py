"""Google's TPUs: backend, levels, memory, compilation through XLA, collectives."""

from kernel_pytorch.backends.tpu.levels import TPULevels
from kernel_pytorch.backends.tpu.memory_manager import TPUMemoryManager
from kernel_pytorch.backends.tpu.tpu_backend import TPUBackend
from kernel_pytorch.backends.tpu.tpu_optimizer import TPUOptimizer
from kernel_pytorch.backends.tpu.xla_compiler import XLACompiler
from kernel_pytorch.backends.tpu.xla_integration import (
    XLADeviceManager,
    XLADistributedTraining,
    XLAOptimizations,
    XLAUtilities,
    create_xla_integration,
)

__all__ = [
    "TPUBackend",
    "TPULevels",
    "TPUMemoryManager",
    "TPUOptimizer",
    "XLACompiler",
    "XLADeviceManager",
    "XLADistributedTraining",
    "XLAOptimizations",
    "XLAUtilities",
    "create_xla_integration",
]
