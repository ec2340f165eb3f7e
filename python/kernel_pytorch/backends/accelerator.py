"""What the backends of GPUs share: devices by the detector, memory and waiting by torch.

torch has one module a vendor with the same functions (``torch.cuda``, which is AMD's too, and
``torch.xpu``); a vendor's backend only names it and adds what is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.backends.base_backend import BaseBackend
from kernel_pytorch.backends.base_exceptions import ConfigurationError
from kernel_pytorch.backends.base_memory_manager import BaseMemoryStats, CPUMemoryManager
from kernel_pytorch.backends.base_optimizer import BaseOptimizer
from kernel_pytorch.backends.base_types import DeviceInfo
from kernel_pytorch.core.hardware_detector import Accelerator, HardwareDetector, HardwareType

__all__ = ["AcceleratorBackend", "AcceleratorMemoryManager", "AcceleratorOptimizer", "Found"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The accelerators of one vendor, looked up once."""

    backend: str
    title: str
    """As a message calls one: "NVIDIA GPU"."""
    torch_type: str
    accelerators: tuple[Accelerator, ...]

    @classmethod
    def look(cls, kind: HardwareType, backend: str, title: str, torch_type: str) -> Found:
        """Asks the machine: a few milliseconds, and no device is started."""
        found = HardwareDetector().detect().accelerators
        return cls(
            backend=backend,
            title=title,
            torch_type=torch_type,
            accelerators=tuple(a for a in found if a.hardware_type is kind),
        )

    @property
    def usable(self) -> list[Accelerator]:
        """Those that this torch can run on, in its order."""
        return [a for a in self.accelerators if a.usable]

    @property
    def absent(self) -> str:
        """Why there is none to use; "" when there is one."""
        if self.usable:
            return ""
        if self.accelerators:
            first = self.accelerators[0]
            return f"{first.name} cannot be used: {first.why_not}"
        return f"this machine has no {self.title}"

    def device(self, index: int) -> torch.device:
        """Device ``index``; the CPU when there is none to use."""
        return torch.device(self.torch_type, index) if self.usable else torch.device("cpu")

    def infos(self) -> list[DeviceInfo]:
        """The usable devices as data."""
        return [self._info(a) for a in self.usable]

    def _info(self, found: Accelerator) -> DeviceInfo:
        capability = found.compute_capability
        return DeviceInfo(
            backend=self.backend,
            device_type=self.torch_type,
            device_id=found.index,
            device_name=found.name,
            compute_capability=(
                ".".join(map(str, capability)) if capability else found.target or None
            ),
            total_memory_bytes=found.memory_bytes or _told_memory(self.torch_type, found.index),
            driver_version=found.driver_version or None,
            properties={
                "architecture": found.architecture,
                "target": found.target,
                "bus_id": found.bus_id,
                "uuid": found.uuid,
                "capabilities": [c.value for c in found.capabilities],
                "links": {link.peer: link.kind for link in found.links},
            },
        )


def _told_memory(torch_type: str, index: int) -> int:
    """A device's memory by torch, which may start the device; 0 where it does not tell."""
    module = torch.get_device_module(torch_type)
    try:
        total = module.get_device_properties(index).total_memory
    except (AttributeError, RuntimeError, AssertionError):
        return 0
    return total if isinstance(total, int) else 0


class AcceleratorMemoryManager(CPUMemoryManager):
    """The memory of one GPU; main memory where the GPU is absent."""

    def __init__(self, config: Any = None, device: torch.device | str = "cpu") -> None:
        super().__init__(config)
        self.device = torch.device(device)
        self.layout_multiple = 8

    @property
    def _module(self) -> Any:
        """torch's module of the device; None on the CPU."""
        return None if self.device.type == "cpu" else torch.get_device_module(self.device)

    def available_bytes(self) -> int:
        """What the driver could give and what torch keeps unused."""
        if self._module is None:
            return super().available_bytes()
        free, _ = self._module.mem_get_info(self.device)
        kept = self._module.memory_reserved(self.device)
        return int(free + kept - self._module.memory_allocated(self.device))

    def base_stats(self) -> BaseMemoryStats:
        if self._module is None:
            return super().base_stats()
        free, total = self._module.mem_get_info(self.device)
        return BaseMemoryStats(
            allocated_bytes=self._module.memory_allocated(self.device),
            reserved_bytes=self._module.memory_reserved(self.device),
            total_bytes=total,
            free_bytes=free,
            peak_allocated_bytes=self._module.max_memory_allocated(self.device),
            num_allocations=self._num_allocations,
            pool_count=len(self._pools),
        )

    def synchronize(self) -> None:
        if self._module is not None:
            self._module.synchronize(self.device)

    def empty_cache(self) -> None:
        if self._module is not None:
            self._module.empty_cache()

    def reset_peak_memory(self) -> None:
        super().reset_peak_memory()
        if self._module is not None:
            self._module.reset_peak_memory_stats(self.device)


class AcceleratorOptimizer(BaseOptimizer):
    """An optimizer for the devices of one vendor."""

    found: Found

    def __init__(
        self, found: Found, config: Any = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__(config, device if device is not None else found.device(0))
        self.found = found
        if self._device is not None and self._device.type not in (found.torch_type, "cpu", "meta"):
            raise ConfigurationError(
                "device", str(device), f"expected a {found.torch_type} device or the CPU"
            )

    def absent(self) -> str:
        return self.found.absent


class AcceleratorBackend(BaseBackend):
    """A backend over one of torch's GPU modules."""

    HARDWARE: HardwareType
    TITLE: str
    TORCH_TYPE = "cuda"

    def __init__(self, config: Any = None, device_id: int | None = None) -> None:
        super().__init__(config)
        self.found = Found.look(self.HARDWARE, self.BACKEND_NAME, self.TITLE, self.TORCH_TYPE)
        self._device_id = device_id or 0
        if self.found.usable and self._device_id:
            self._check_device(self._device_id)

    def absent(self) -> str:
        return self.found.absent

    @property
    def device(self) -> torch.device:
        return self.found.device(self._device_id)

    @property
    def devices(self) -> list[torch.device]:
        """All that can be used."""
        return [self.found.device(a.index) for a in self.found.usable]

    @property
    def device_count(self) -> int:
        return len(self.found.usable)

    def get_all_devices(self) -> list[DeviceInfo]:
        return self.found.infos()

    def _make_memory_manager(self) -> Any:
        return AcceleratorMemoryManager(self.config, self.device)

    def set_device(self, device_id: int) -> None:
        super().set_device(device_id)
        self._device_id = device_id
        self._memory_manager = self._optimizer = None
        torch.get_device_module(self.TORCH_TYPE).set_device(device_id)

    def reset_peak_memory_stats(self) -> None:
        """Count the peak of allocated memory from now on."""
        self.memory_manager.reset_peak_memory()
