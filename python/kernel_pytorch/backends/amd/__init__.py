"""AMD GPUs: backend, levels, memory, the HIP compiler, streams and timing."""

from kernel_pytorch.backends.amd.amd_backend import AMDBackend, AMDDeviceInfo
from kernel_pytorch.backends.amd.amd_optimizer import AMDOptimizer
from kernel_pytorch.backends.amd.hip_utilities import HIPUtilities
from kernel_pytorch.backends.amd.levels import AMDLevels
from kernel_pytorch.backends.amd.memory_manager import AMDMemoryManager
from kernel_pytorch.backends.amd.rocm_compiler import ROCmCompiler

__all__ = [
    "AMDBackend",
    "AMDDeviceInfo",
    "AMDLevels",
    "AMDMemoryManager",
    "AMDOptimizer",
    "HIPUtilities",
    "ROCmCompiler",
]
