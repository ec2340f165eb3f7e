"""Devices, environment, timing and compilation for CUDA, by their older names."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_exceptions import ToolNotFoundError
from kernel_pytorch.backends.compile_cache import CompileCache
from kernel_pytorch.backends.compilers import NVCC, CompiledBinary, CompilerService
from kernel_pytorch.backends.nvidia.nvidia_backend import NVIDIABackend
from kernel_pytorch.backends.nvidia.nvidia_exceptions import (
    CUDADeviceError,
    InvalidArchitectureError,
)
from kernel_pytorch.backends.nvidia.nvidia_optimizer import NVIDIAOptimizer
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.enums import NVIDIAArchitecture

__all__ = [
    "CUDACompiler",
    "CUDADeviceManager",
    "CUDAOptimizations",
    "CUDAUtilities",
    "create_cuda_integration",
]

# The first GPU of each generation: CUDA C++ Programming Guide, Compute Capabilities.
_TARGETS = {
    NVIDIAArchitecture.PASCAL: "sm_60",
    NVIDIAArchitecture.VOLTA: "sm_70",
    NVIDIAArchitecture.TURING: "sm_75",
    NVIDIAArchitecture.AMPERE: "sm_80",
    NVIDIAArchitecture.ADA: "sm_89",
    NVIDIAArchitecture.HOPPER: "sm_90a",
    NVIDIAArchitecture.BLACKWELL: "sm_100a",
}


class CUDADeviceManager:
    """The GPUs that torch can use."""

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self._backend = NVIDIABackend(config)

    @property
    def device(self) -> torch.device:
        """The chosen GPU; the CPU without one."""
        return self._backend.device

    @property
    def devices(self) -> list[torch.device]:
        return self._backend.devices

    @property
    def device_count(self) -> int:
        return self._backend.device_count

    def get_device_properties(self, device_id: int = 0) -> dict[str, Any]:
        """A device as plain data; CUDADeviceError when there is none of that number."""
        devices = self._backend.get_all_devices()
        if not 0 <= device_id < len(devices):
            raise CUDADeviceError(
                device_id, "get properties", self._backend.absent() or f"{len(devices)} devices"
            )
        return devices[device_id].to_dict()

    def get_all_device_properties(self) -> dict[int, dict[str, Any]]:
        """By number."""
        return {i: d.to_dict() for i, d in enumerate(self._backend.get_all_devices())}

    def set_device(self, device_id: int) -> None:
        """Use this GPU from now on; a DeviceError when there is none of that number."""
        self._backend.set_device(device_id)

    def synchronize_all(self) -> None:
        """Wait for every GPU."""
        for device in self.devices:
            torch.cuda.synchronize(device)


class CUDAOptimizations:
    """Level O2 of the NVIDIA backend."""

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        self.optimizer = NVIDIAOptimizer(self.config)

    def optimize_model_for_cuda(self, model: nn.Module) -> nn.Module:
        """``model`` with what level O2 does in its mode."""
        return self.optimizer.optimize(model, "O2")[0]

    def get_cuda_optimization_config(self) -> dict[str, Any]:
        """torch's process-wide switches as they are now."""
        return {
            "cuda_available": not self.optimizer.absent(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "architecture": self.config.hardware.nvidia.architecture.value,
        }


class CUDAUtilities:
    """Environment and timing."""

    @staticmethod
    def get_cuda_env_info() -> dict[str, Any]:
        """cuda_available, versions, devices, and where nvcc is ("" when it is not)."""
        backend = NVIDIABackend()
        try:
            nvcc = str(NVCC.find())
        except ToolNotFoundError:
            nvcc = ""
        devices = backend.get_all_devices()
        return {
            "cuda_available": backend.is_available,
            "reason": backend.absent(),
            "torch_version": torch.__version__,
            "cuda_version": torch.version.cuda,
            "cudnn_version": torch.backends.cudnn.version() if backend.is_available else None,
            "driver_version": devices[0].driver_version if devices else None,
            "device_count": len(devices),
            "devices": [d.to_dict() for d in devices],
            "nvcc": nvcc,
        }

    @staticmethod
    def profile_cuda_kernel(
        func: Callable[..., Any],
        *args: Any,
        num_warmup: int = 5,
        num_iterations: int = 100,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Milliseconds of ``func(*args, **kwargs)``: median, mean, min and max of each call, by
        CUDA events on a GPU, else by the clock (``timer`` says which)."""
        for _ in range(num_warmup):
            func(*args, **kwargs)
        on_gpu = NVIDIABackend().is_available
        times = []
        for _ in range(max(1, num_iterations)):
            if on_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                func(*args, **kwargs)
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                begun = time.perf_counter()
                func(*args, **kwargs)
                times.append((time.perf_counter() - begun) * 1e3)
        return {
            "median_ms": statistics.median(times),
            "mean_ms": statistics.fmean(times),
            "min_ms": min(times),
            "max_ms": max(times),
            "iterations": len(times),
            "timer": "cuda events" if on_gpu else "clock",
        }

    @staticmethod
    def get_gpu_utilization() -> dict[str, Any]:
        """Percent of the last second in which a kernel ran, for each GPU, as the driver tells it;
        ``available`` is False, with the reason, where nothing tells."""
        backend = NVIDIABackend()
        if not backend.is_available:
            return {"available": False, "reason": backend.absent()}
        try:
            return {
                "available": True,
                "utilization": {i: torch.cuda.utilization(i) for i in range(backend.device_count)},
            }
        except (ModuleNotFoundError, RuntimeError) as error:
            return {"available": False, "reason": f"{error} (pip install nvidia-ml-py)"}

    @staticmethod
    def optimize_cuda_flags(architecture: NVIDIAArchitecture) -> dict[str, str]:
        """nvcc's flags for an architecture. InvalidArchitectureError for AUTO."""
        return {"-arch": _target(architecture), "-O": "3"}


def _target(architecture: NVIDIAArchitecture) -> str:
    if architecture not in _TARGETS:
        raise InvalidArchitectureError(
            getattr(architecture, "value", str(architecture)), [a.value for a in _TARGETS]
        )
    return _TARGETS[architecture]


class CUDACompiler:
    """nvcc as a service: CUDA C++ in, a cubin out, through a bounded cache."""

    def __init__(
        self, config: KernelPyTorchConfig | None = None, cache: CompileCache | None = None
    ) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        self.service = CompilerService(NVCC, cache)

    def compile_kernel(
        self, source: str, kernel_name: str, architecture: str | None = None
    ) -> CompiledBinary:
        """``source`` for ``architecture`` ("sm_90"; None: the configuration's). Errors as of
        :meth:`~kernel_pytorch.backends.compilers.CompilerService.compile`."""
        target = architecture or _target(self.config.hardware.nvidia.architecture)
        return self.service.compile(source, kernel_name, target)

    def get_compilation_stats(self) -> dict[str, Any]:
        """Counts of the compiler and its cache."""
        return self.service.get_stats()


def create_cuda_integration(
    config: KernelPyTorchConfig | None = None,
) -> tuple[CUDADeviceManager, CUDAOptimizations]:
    """Both for one configuration."""
    return CUDADeviceManager(config), CUDAOptimizations(config)
