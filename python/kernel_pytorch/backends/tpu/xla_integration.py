"""Devices, collectives and environment of TPUs, by their older names."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.strategies import run
from kernel_pytorch.backends.tpu import runtime as tpu
from kernel_pytorch.backends.tpu import xla_compat
from kernel_pytorch.backends.tpu.levels import TPULevels
from kernel_pytorch.backends.tpu.tpu_exceptions import TPUDeviceError, TPUDistributedError
from kernel_pytorch.core.config import TPUConfig

__all__ = [
    "XLADeviceManager",
    "XLADistributedTraining",
    "XLAOptimizations",
    "XLAUtilities",
    "create_xla_integration",
]

_REDUCTIONS = {
    "sum": torch.distributed.ReduceOp.SUM,
    "max": torch.distributed.ReduceOp.MAX,
    "min": torch.distributed.ReduceOp.MIN,
}


class XLADeviceManager:
    """The TPU devices of this process; the CPU where there is none."""

    def __init__(self, config: TPUConfig | None = None) -> None:
        self.config = TPUConfig() if config is None else config
        self._absent = tpu.absent()
        self._index = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self._absent else tpu.runtime().device(self._index)

    @property
    def devices(self) -> list[torch.device]:
        if self._absent:
            return [torch.device("cpu")]
        return [tpu.runtime().device(i) for i in range(xla_compat.get_device_count())]

    @property
    def world_size(self) -> int:
        return xla_compat.get_world_size()

    @property
    def rank(self) -> int:
        return xla_compat.get_ordinal()

    def set_device(self, device_id: int) -> None:
        """Use this device from now on; TPUDeviceError when there is none of that number."""
        count = len(self.devices)
        if not 0 <= device_id < count:
            raise TPUDeviceError(device_id, "select", f"there are {count} devices")
        self._index = device_id

    def sync_all_devices(self) -> None:
        """Run what was recorded, and wait for it."""
        xla_compat.sync()

    def get_device_stats(self) -> dict[str, Any]:
        """device, device_count, world_size, rank, and why there is no TPU."""
        return {
            "device": str(self.device),
            "device_count": len(self.devices),
            "world_size": self.world_size,
            "rank": self.rank,
            "hardware": xla_compat.get_device_hw_type(),
            "xla_available": not self._absent,
            "reason": self._absent,
        }


class XLADistributedTraining:
    """Collectives over ``torch.distributed``; a process alone gives back what it is given."""

    def __init__(self, device_manager: XLADeviceManager) -> None:
        self.device_manager = device_manager

    @property
    def is_distributed(self) -> bool:
        """Whether a process group of more than one process is there."""
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return there and torch.distributed.get_world_size() > 1

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """``model`` on the device, in DistributedDataParallel where there are more processes."""
        placed = model.to(self.device_manager.device)
        if not self.is_distributed:
            return placed
        return nn.parallel.DistributedDataParallel(placed)

    def all_reduce(self, tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
        """The sum, mean, max or min over the processes, as a new tensor. TPUDistributedError for
        another ``op``."""
        if op not in (*_REDUCTIONS, "mean"):
            known = ", ".join((*_REDUCTIONS, "mean"))
            raise TPUDistributedError("all_reduce", f"unknown op {op!r}; expected one of {known}")
        result = tensor.clone()
        if self.is_distributed:
            torch.distributed.all_reduce(result, _REDUCTIONS["sum" if op == "mean" else op])
            if op == "mean":
                result = result / torch.distributed.get_world_size()
        return result

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all processes, in their order."""
        if not self.is_distributed:
            return [tensor.clone()]
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor)
        return parts

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.is_distributed:
            torch.distributed.barrier()


class XLAOptimizations:
    """Level O2 of the TPU backend."""

    def __init__(self, config: TPUConfig | None = None) -> None:
        self.config = TPUConfig() if config is None else config
        self.levels = TPULevels(self.config)

    def optimize_model_for_xla(self, model: nn.Module) -> nn.Module:
        """``model`` with what level O2 does in its mode."""
        return self.levels.optimize(model, "O2")[0]


class XLAUtilities:
    """Environment, timing and graphs."""

    @staticmethod
    def get_xla_env_info() -> dict[str, Any]:
        """xla_available, the package and its version, device counts and why there is no TPU."""
        return {
            "xla_available": xla_compat.is_xla_available(),
            "reason": tpu.absent(),
            "package": tpu.installed_package(),
            "version": tpu.package_version(),
            "torch_version": torch.__version__,
            "device_count": xla_compat.get_device_count(),
            "world_size": xla_compat.get_world_size(),
            "hardware": xla_compat.get_device_hw_type(),
            "compile_backend": xla_compat.get_torch_compile_backend(),
        }

    @staticmethod
    def profile_xla_compilation(model: nn.Module, sample_input: torch.Tensor) -> dict[str, Any]:
        """Seconds of the first call (it compiles where there is a TPU) and of the second."""
        device = torch.device("cpu") if tpu.absent() else tpu.runtime().device(0)
        placed = model.to(device)
        times = []
        with torch.no_grad():
            for _ in range(2):
                started = time.perf_counter()
                run(placed, (sample_input,), device)
                xla_compat.sync()
                times.append(time.perf_counter() - started)
        return {
            "first_call_s": times[0],
            "second_call_s": times[1],
            "compilation_s": max(0.0, times[0] - times[1]),
            "device": str(device),
        }

    @staticmethod
    def debug_xla_graph(model: nn.Module, sample_input: torch.Tensor) -> str:
        """The graph of ATen operators that a compiler is given for ``model`` on this input."""
        return str(torch.export.export(model, (sample_input,)).graph_module.code)


def create_xla_integration(
    config: TPUConfig | None = None,
) -> tuple[XLADeviceManager, XLADistributedTraining, XLAOptimizations]:
    """All three for one configuration."""
    manager = XLADeviceManager(config)
    return manager, XLADistributedTraining(manager), XLAOptimizations(config)
