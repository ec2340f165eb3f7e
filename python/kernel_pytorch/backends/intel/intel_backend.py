"""The backend of Intel GPUs."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.backends.accelerator import AcceleratorBackend
from kernel_pytorch.backends.intel.intel_optimizer import IntelKernelOptimizer
from kernel_pytorch.backends.intel.levels import IntelLevels
from kernel_pytorch.backends.intel.memory_manager import IntelMemoryManager
from kernel_pytorch.backends.intel.xpu_utilities import is_ipex_available
from kernel_pytorch.core.config import IntelConfig, KernelPyTorchConfig
from kernel_pytorch.core.enums import IntelArchitecture
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["IntelBackend"]

_DATA_CENTER = (IntelArchitecture.PVC, IntelArchitecture.ATS, IntelArchitecture.FLEX)


class IntelBackend(AcceleratorBackend):
    """Intel GPUs through ``torch.xpu``; on a machine without one, models stay on the CPU."""

    BACKEND_NAME = "intel"
    HARDWARE = HardwareType.INTEL_GPU
    TITLE = "Intel XPU"
    TORCH_TYPE = "xpu"

    def __init__(self, config: KernelPyTorchConfig | IntelConfig | None = None) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        super().__init__(self.config, self.intel_config.device_id)

    @property
    def intel_config(self) -> IntelConfig:
        """Intel's part of the configuration."""
        given: Any = self.config
        part: IntelConfig = given if isinstance(given, IntelConfig) else given.hardware.intel
        return part

    def _make_optimizer(self) -> IntelLevels:
        return IntelLevels(self.config, self.device, self.found)

    def _make_memory_manager(self) -> IntelMemoryManager:
        return IntelMemoryManager(self.config, self._device_id)

    @property
    def kernel_optimizer(self) -> IntelKernelOptimizer:
        """Rules for kernel configurations."""
        return IntelKernelOptimizer()

    @property
    def is_xpu_available(self) -> bool:
        """Whether there is a GPU that torch can use."""
        return self.is_available

    @property
    def device_name(self) -> str:
        """The chosen device's; "CPU" without one."""
        return self.get_device_info(self._device_id if self.is_available else 0).device_name

    @property
    def device_type(self) -> str:
        """The configuration's architecture: "pvc", "dg2", ..., "auto" for an unknown one."""
        return self.intel_config.architecture.value

    @property
    def is_data_center(self) -> bool:
        """Whether the configuration is for Ponte Vecchio, Arctic Sound or Flex."""
        return self.intel_config.architecture in _DATA_CENTER

    @property
    def is_consumer(self) -> bool:
        """Whether it is for another known architecture (Arc, integrated graphics)."""
        known = self.intel_config.architecture is not IntelArchitecture.AUTO
        return known and not self.is_data_center

    @property
    def supports_bf16(self) -> bool:
        """Whether the configuration allows bf16."""
        return self.intel_config.allow_bf16

    @property
    def supports_amx(self) -> bool:
        """Whether the configuration allows matrix tiles (AMX in processors, XMX in GPUs)."""
        return self.intel_config.enable_amx

    def get_device_info_dict(self) -> dict[str, Any]:
        """The chosen device as plain data, with xpu_available and ipex_available."""
        return {
            **self.get_device_info(self._device_id if self.is_available else 0).to_dict(),
            "xpu_available": self.is_available,
            "ipex_available": is_ipex_available(),
            "torch_xpu": torch.version.xpu,
            "device_count": self.device_count,
            "architecture": self.device_type,
        }

    def get_memory_summary(self) -> str:
        summary: str = self.memory_manager.get_memory_summary()
        return summary
