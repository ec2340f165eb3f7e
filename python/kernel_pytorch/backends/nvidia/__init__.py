"""NVIDIA GPUs: backend, levels, memory, FP8, attention, CUDA utilities."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_pytorch.backends.nvidia.cuda_utilities import (
        CUDACompiler,
        CUDADeviceManager,
        CUDAOptimizations,
        CUDAUtilities,
        create_cuda_integration,
    )
    from kernel_pytorch.backends.nvidia.flash_attention_integration import (
        FlashAttention3,
        create_flash_attention_3,
    )
    from kernel_pytorch.backends.nvidia.fp8_compiler import FP8Compiler
    from kernel_pytorch.backends.nvidia.memory_manager import NVIDIAMemoryManager
    from kernel_pytorch.backends.nvidia.nvidia_backend import NVIDIABackend
    from kernel_pytorch.backends.nvidia.nvidia_optimizer import NVIDIAOptimizer

__all__ = [
    "CUDACompiler",
    "CUDADeviceManager",
    "CUDAOptimizations",
    "CUDAUtilities",
    "FP8Compiler",
    "FlashAttention3",
    "NVIDIABackend",
    "NVIDIAMemoryManager",
    "NVIDIAOptimizer",
    "create_cuda_integration",
    "create_flash_attention_3",
]

_HOME = {
    "CUDACompiler": "cuda_utilities",
    "CUDADeviceManager": "cuda_utilities",
    "CUDAOptimizations": "cuda_utilities",
    "CUDAUtilities": "cuda_utilities",
    "FP8Compiler": "fp8_compiler",
    "FlashAttention3": "flash_attention_integration",
    "NVIDIABackend": "nvidia_backend",
    "NVIDIAMemoryManager": "memory_manager",
    "NVIDIAOptimizer": "nvidia_optimizer",
    "create_cuda_integration": "cuda_utilities",
    "create_flash_attention_3": "flash_attention_integration",
}


def __getattr__(name: str) -> Any:
    # The attention modules and the compiler's parts load only when they are asked for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
