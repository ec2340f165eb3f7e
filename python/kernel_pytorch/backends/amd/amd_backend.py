"""The backend of AMD GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.backends.accelerator import AcceleratorBackend
from kernel_pytorch.backends.amd.levels import AMDLevels
from kernel_pytorch.backends.amd.memory_manager import AMDMemoryManager
from kernel_pytorch.backends.base_types import DeviceInfo
from kernel_pytorch.core.config import AMDConfig, KernelPyTorchConfig
from kernel_pytorch.core.enums import AMDArchitecture
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["AMDBackend", "AMDDeviceInfo", "AMDDeviceInfoLegacy"]

AMDDeviceInfo = DeviceInfo


@dataclass
class AMDDeviceInfoLegacy:
    """A device in its older form."""

    device_id: int
    name: str
    architecture: AMDArchitecture
    compute_capability: str
    """The compiler's name of it: "gfx942"."""
    total_memory_gb: float
    matrix_cores_available: bool
    rocm_version: str


class AMDBackend(AcceleratorBackend):
    """AMD GPUs through a ROCm build of torch; on a machine without one, models stay on the CPU."""

    BACKEND_NAME = "amd"
    HARDWARE = HardwareType.AMD_GPU
    TITLE = "AMD GPU"

    def __init__(self, config: AMDConfig | KernelPyTorchConfig | None = None) -> None:
        if isinstance(config, KernelPyTorchConfig):
            config = config.hardware.amd
        self.config: AMDConfig = AMDConfig() if config is None else config
        super().__init__(self.config, self.config.device_id)

    def _make_optimizer(self) -> AMDLevels:
        return AMDLevels(self.config, self.device, self.found)

    def _make_memory_manager(self) -> AMDMemoryManager:
        return AMDMemoryManager(self.config, self._device_id)

    def get_device_info_dict(self) -> dict[str, Any]:
        """The chosen device as plain data, with rocm_available and the ROCm version."""
        return {
            **self.get_device_info(self._device_id if self.is_available else 0).to_dict(),
            "rocm_available": self.is_available,
            "rocm_version": torch.version.hip,
            "device_count": self.device_count,
            "architecture": self.config.architecture.value,
        }

    def get_all_amd_devices(self) -> list[AMDDeviceInfoLegacy]:
        """The usable devices in their older form."""
        return [
            AMDDeviceInfoLegacy(
                device_id=found.index,
                name=found.name,
                architecture=AMDArchitecture(found.architecture or "auto"),
                compute_capability=found.target,
                total_memory_gb=found.memory_bytes / 2**30,
                matrix_cores_available=bool(found.traits and found.traits.matrix_units),
                rocm_version=torch.version.hip or "",
            )
            for found in self.found.usable
        ]
