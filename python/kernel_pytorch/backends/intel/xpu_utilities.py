"""Intel GPUs by their older names. IPEX has ended: it is detected, and never needed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_optimizer import BaseOptimizer
from kernel_pytorch.backends.intel.intel_exceptions import XPUDeviceError, XPUNotAvailableError
from kernel_pytorch.backends.intel.levels import IntelLevels, find_gpus
from kernel_pytorch.backends.strategies import low_dtype
from kernel_pytorch.core.hardware_detector import Accelerator

__all__ = [
    "IPEX_AVAILABLE",
    "XPU_AVAILABLE",
    "XPUDeviceInfo",
    "XPUDeviceManager",
    "XPUOptimizations",
    "get_ipex_version",
    "get_xpu_device_count",
    "is_ipex_available",
    "is_xpu_available",
    "xpu_empty_cache",
    "xpu_synchronize",
]

_IPEX = "intel_extension_for_pytorch"

IPEX_AVAILABLE: bool
XPU_AVAILABLE: bool


def __getattr__(name: str) -> Any:
    if name == "IPEX_AVAILABLE":
        return is_ipex_available()
    if name == "XPU_AVAILABLE":
        return is_xpu_available()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_xpu_available() -> bool:
    """Whether there is a GPU that torch can use."""
    return not find_gpus().absent


def get_xpu_device_count() -> int:
    """How many."""
    return len(find_gpus().usable)


def is_ipex_available() -> bool:
    """Whether Intel Extension for PyTorch is installed (it is not imported)."""
    return importlib.util.find_spec(_IPEX) is not None


def get_ipex_version() -> str | None:
    """Its version; None without it."""
    return importlib.metadata.version(_IPEX) if is_ipex_available() else None


def xpu_synchronize(device_id: int | None = None) -> None:
    """Wait for a GPU; nothing without one."""
    if is_xpu_available():
        torch.xpu.synchronize(device_id)


def xpu_empty_cache() -> None:
    """Give back what torch's allocator keeps; nothing without a GPU."""
    if is_xpu_available():
        torch.xpu.empty_cache()


@dataclass
class XPUDeviceInfo:
    """One GPU in its older form."""

    device_id: int
    name: str
    total_memory: int
    driver_version: str
    compute_capability: tuple[int, int]
    """(0, 0): Intel has no such numbers."""
    supports_amx: bool
    """Whether it has matrix engines (XMX)."""
    supports_fp16: bool
    supports_bf16: bool
    max_compute_units: int
    """0 where nothing tells without starting the device."""
    device_type: str
    """The architecture: "pvc", "dg2", "integrated"."""


class XPUDeviceManager:
    """The GPUs that torch can use; the CPU where there is none."""

    def __init__(self, device_id: int = 0) -> None:
        self._found = find_gpus()
        self._index = 0
        if self._found.usable:
            self.set_device(device_id)

    @property
    def device_count(self) -> int:
        return len(self._found.usable)

    @property
    def current_device(self) -> int:
        return self._index

    def _accelerator(self, device_id: int | None) -> Accelerator:
        if self._found.absent:
            raise XPUNotAvailableError(self._found.absent)
        chosen = self._index if device_id is None else device_id
        if not 0 <= chosen < self.device_count:
            raise XPUDeviceError(f"there are {self.device_count} devices", chosen)
        return self._found.usable[chosen]

    def get_device(self, device_id: int | None = None) -> torch.device:
        """A device; the CPU where there is no GPU."""
        return self._found.device(self._index if device_id is None else device_id)

    def get_device_info(self, device_id: int | None = None) -> XPUDeviceInfo:
        """XPUNotAvailableError without a GPU, XPUDeviceError for one that is not there."""
        found = self._accelerator(device_id)
        formats = found.traits.matrix_formats if found.traits else frozenset()
        return XPUDeviceInfo(
            device_id=found.index,
            name=found.name,
            total_memory=found.memory_bytes,
            driver_version=found.driver_version,
            compute_capability=(0, 0),
            supports_amx=bool(formats),
            supports_fp16="fp16" in formats,
            supports_bf16="bf16" in formats,
            max_compute_units=0,
            device_type=found.architecture,
        )

    def set_device(self, device_id: int) -> None:
        """Use this GPU from now on; errors as of :meth:`get_device_info`."""
        self._index = self._accelerator(device_id).index

    def synchronize(self, device_id: int | None = None) -> None:
        """Wait for a GPU; nothing without one."""
        xpu_synchronize(self._index if device_id is None else device_id)

    def empty_cache(self) -> None:
        """Give back what torch's allocator keeps."""
        xpu_empty_cache()


class XPUOptimizations:
    """Level O2 of the Intel backend."""

    def __init__(self, device_manager: XPUDeviceManager | None = None) -> None:
        self.device_manager = XPUDeviceManager() if device_manager is None else device_manager
        self.levels: BaseOptimizer = IntelLevels(device=self.device_manager.get_device())

    def optimize_model_for_inference(
        self,
        model: nn.Module,
        dtype: torch.dtype = torch.float32,
        sample_input: torch.Tensor | None = None,
    ) -> nn.Module:
        """``model`` for evaluation; at float32 nothing is computed in 16 bits."""
        level = "O1" if dtype is torch.float32 else "O2"
        chosen = None if dtype is torch.float32 else dtype
        return self.levels.optimize_for_inference(model, sample_input, level, chosen)[0]

    def optimize_model_for_training(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """``model`` and ``optimizer`` for training; at float32 nothing is computed in 16 bits."""
        level = "O1" if dtype is torch.float32 else "O2"
        chosen = None if dtype is torch.float32 else dtype
        self.levels.optimize_for_training(model, level, chosen, optimizer=optimizer)
        return model, optimizer

    def enable_onednn_fusion(self, enabled: bool = True) -> None:
        """Let oneDNN fuse operators of TorchScript graphs, in the whole process."""
        torch.jit.enable_onednn_fusion(enabled)

    def get_optimal_dtype(self) -> torch.dtype:
        """What autocast would compute in; float32 where that is not 16 bits."""
        from kernel_pytorch.backends.strategies import Work

        work = Work(model=nn.Module(), device=self.device_manager.get_device())
        found = low_dtype(work)
        return found if isinstance(found, torch.dtype) else torch.float32
