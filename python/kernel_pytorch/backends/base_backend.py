"""A backend: one kind of device, from placing a model on it to what it says of itself.

Where the device is absent a backend is still there: its ``device`` is the CPU, models stay usable
on it, and :attr:`BaseBackend.last_result` and a warning say so.
"""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import nn
from torch.utils import _pytree as pytree

from kernel_pytorch.backends import cpu
from kernel_pytorch.backends.base_exceptions import ConfigurationError, DeviceError
from kernel_pytorch.backends.base_memory_manager import BaseMemoryManager, CPUMemoryManager
from kernel_pytorch.backends.base_optimizer import BaseOptimizer, CPUOptimizer, as_level, revert
from kernel_pytorch.backends.base_types import DeviceInfo, OptimizationLevel, OptimizationResult
from kernel_pytorch.backends.system_memory import total_memory
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.core.hardware_detector import detect_hardware

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "BaseBackend",
    "CPUBackend",
    "DeviceInfo",
    "OptimizationLevel",
    "OptimizationResult",
]

T = TypeVar("T")


class BaseBackend(ABC):
    """What all backends share. ``with backend:`` cleans up at the end."""

    BACKEND_NAME = "base"

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.last_result: OptimizationResult | None = None
        """What the last prepare or optimize call did."""
        self._memory_manager: BaseMemoryManager | None = None
        self._optimizer: BaseOptimizer | None = None

    # What a vendor says.

    @abstractmethod
    def _make_optimizer(self) -> BaseOptimizer:
        """The optimizer with this backend's levels."""

    @abstractmethod
    def _make_memory_manager(self) -> BaseMemoryManager:
        """The memory of :attr:`device`."""

    @abstractmethod
    def get_all_devices(self) -> list[DeviceInfo]:
        """The devices that torch can use, in its order; empty where there are none."""

    def absent(self) -> str:
        """Why no device can be used; "" when one can."""
        return ""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where models and tensors go: the chosen device, the CPU when there is none."""

    # What follows from it.

    @property
    def is_available(self) -> bool:
        """Whether there is a device that can be used."""
        return not self.absent()

    @property
    def device_count(self) -> int:
        """How many devices can be used."""
        return len(self.get_all_devices())

    @property
    def memory_manager(self) -> Any:
        """The memory of :attr:`device`."""
        if self._memory_manager is None:
            self._memory_manager = self._make_memory_manager()
        return self._memory_manager

    @property
    def optimizer(self) -> BaseOptimizer:
        """What the levels of this backend do."""
        if self._optimizer is None:
            self._optimizer = self._make_optimizer()
        return self._optimizer

    def prepare_model(
        self,
        model: Any,
        optimization_level: str | OptimizationLevel | None = None,
    ) -> Any:
        """``model`` on :attr:`device`, in place and in the mode that it has; returns it.

        With a level, also what that level does without a sample (:attr:`last_result` says what was
        done). None instead of a model gives None and a warning, as it always did.
        """
        if model is None:
            warnings.warn("prepare_model: there is no model (None)", UserWarning, stacklevel=2)
            return None
        level = as_level(optimization_level, OptimizationLevel.O0)
        return self._done(self.optimizer.optimize(model, level))

    def optimize_for_inference(
        self,
        model: nn.Module,
        sample_input: Any = None,
        dtype: torch.dtype | None = None,
        optimization_level: str | OptimizationLevel | None = None,
    ) -> nn.Module:
        """``model`` in evaluation mode on :attr:`device`, with what the level does; returns it.

        ``sample_input`` (a tensor, a tuple of positional or a mapping of keyword inputs, as in real
        use) is what replacements are measured on: without it there are none. ``dtype`` is the
        16-bit dtype to compute in. The level is the optimizer's default when None.
        """
        return self._done(
            self.optimizer.optimize_for_inference(model, sample_input, optimization_level, dtype)
        )

    @overload
    def optimize_for_training(
        self,
        model: nn.Module,
        optimizer: None = None,
        dtype: torch.dtype | None = None,
        optimization_level: str | OptimizationLevel | None = None,
    ) -> nn.Module: ...

    @overload
    def optimize_for_training(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype | None = None,
        optimization_level: str | OptimizationLevel | None = None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]: ...

    def optimize_for_training(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        dtype: torch.dtype | None = None,
        optimization_level: str | OptimizationLevel | None = None,
    ) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
        """``model`` in training mode on :attr:`device`, with what the level does; returns it, with
        ``optimizer`` when that is given (it goes on holding the model's parameters)."""
        self._done(
            self.optimizer.optimize_for_training(
                model, optimization_level, dtype, optimizer=optimizer
            )
        )
        return model if optimizer is None else (model, optimizer)

    def _done(self, outcome: tuple[nn.Module, OptimizationResult]) -> nn.Module:
        model, self.last_result = outcome
        if reason := self.absent():
            warnings.warn(
                f"{self.BACKEND_NAME}: {reason}; the model stays on the CPU and is usable there",
                RuntimeWarning,
                stacklevel=3,
            )
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo what this or another backend did to ``model``; returns it."""
        return revert(model)

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """The model's state with every tensor on the CPU: any backend, and plain PyTorch, loads
        it. Optimising changes neither its names nor its values."""
        return {
            name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
            for name, value in model.state_dict().items()
        }

    def get_device_info(self, device_id: int = 0) -> DeviceInfo:
        """Device ``device_id``. Where there is none at all: the CPU in its place, with
        ``is_available`` False and the reason in ``properties``.

        DeviceError when there are devices and no such one.
        """
        devices = self.get_all_devices()
        if not devices:
            return DeviceInfo(
                backend=self.BACKEND_NAME,
                device_type="cpu",
                device_id=0,
                device_name="CPU",
                total_memory_bytes=total_memory(),
                is_available=False,
                properties={"absent": self.absent()},
            )
        self._check_device(device_id)
        return devices[device_id]

    def _check_device(self, device_id: int) -> None:
        count = self.device_count
        if isinstance(device_id, bool) or not isinstance(device_id, int):
            raise ConfigurationError("device_id", device_id, "expected a whole number")
        if not 0 <= device_id < count:
            have = f"{self.BACKEND_NAME} has {count} devices" + (
                f", 0 to {count - 1}" if count else ""
            )
            raise DeviceError(device_id, "select", self.absent() or have)

    def set_device(self, device_id: int) -> None:
        """Use device ``device_id`` from now on. DeviceError when there is none of that number."""
        self._check_device(device_id)

    def synchronize(self) -> None:
        """Wait until the device has done everything that was asked of it."""
        self.memory_manager.synchronize()

    def empty_cache(self) -> None:
        """Give back memory that torch's allocator keeps for later."""
        self.memory_manager.empty_cache()

    def get_memory_stats(self) -> dict[str, Any]:
        """Bytes by name; at least allocated, reserved, total, free, peak_allocated, device."""
        stats = self.memory_manager.base_stats()
        return {
            "device": str(self.device),
            "allocated": stats.allocated_bytes,
            "reserved": stats.reserved_bytes,
            "total": stats.total_bytes,
            "free": stats.free_bytes,
            "peak_allocated": stats.peak_allocated_bytes,
            **stats.to_dict(),
        }

    def get_memory_summary(self) -> str:
        """The same as a few lines of text."""
        stats = self.memory_manager.base_stats()
        lines = [f"{self.BACKEND_NAME} ({self.device})"]
        for name in ("allocated", "peak_allocated", "reserved", "free", "total"):
            label = name.replace("_", " ")
            lines.append(f"  {label:<15}{getattr(stats, name + '_mb'):>12.1f} MB")
        return "\n".join(lines)

    def to_device(self, tensor_or_model: T) -> T:
        """A tensor, a module, or tensors in tuples, lists and mappings, on :attr:`device`."""
        if isinstance(tensor_or_model, nn.Module):
            tensor_or_model.to(self.device)
            return tensor_or_model
        moved: T = pytree.tree_map(
            lambda v: v.to(self.device) if isinstance(v, torch.Tensor) else v, tensor_or_model
        )
        return moved

    def allocate_tensor(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        requires_grad: bool = False,
        pool_id: str | None = None,
    ) -> torch.Tensor:
        """A tensor of zeros on :attr:`device`; OutOfMemoryError when it does not fit."""
        found: torch.Tensor = self.memory_manager.allocate_tensor(
            shape, dtype, requires_grad, pool_id
        )
        return found

    def cleanup(self) -> None:
        """Drop pools and caches."""
        if self._memory_manager is not None:
            self._memory_manager.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An error on the way must reach the caller, not one of cleaning up after it.
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            self.cleanup()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(device={str(self.device)!r}, available={self.is_available})"


class CPUBackend(BaseBackend):
    """This machine's processor."""

    BACKEND_NAME = "cpu"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def _make_optimizer(self) -> BaseOptimizer:
        return CPUOptimizer(self.config)

    def _make_memory_manager(self) -> BaseMemoryManager:
        return CPUMemoryManager(self.config)

    def get_all_devices(self) -> list[DeviceInfo]:
        found = detect_hardware().cpu
        try:
            isa = cpu.isa()
        except NativeUnavailableError as error:
            isa = f"no native kernels: {error}"
        properties: dict[str, Any] = {"isa": isa, "threads": torch.get_num_threads()}
        if found is not None:
            properties |= {
                "vendor": found.vendor,
                "physical_cores": found.physical_cores,
                "l2_bytes": found.l2_bytes,
                "l3_bytes": found.l3_bytes,
                "numa_nodes": len(found.numa_nodes),
            }
        return [
            DeviceInfo(
                backend="cpu",
                device_type="cpu",
                device_id=0,
                device_name="CPU" if found is None else found.model,
                total_memory_bytes=total_memory(),
                properties=properties,
            )
        ]
