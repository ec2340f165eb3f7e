"""The backend of Google's TPUs."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_backend import BaseBackend
from kernel_pytorch.backends.base_optimizer import as_level, is_optimized
from kernel_pytorch.backends.base_types import (
    DeviceInfo,
    OptimizationLevel,
    OptimizationResult,
)
from kernel_pytorch.backends.lru_cache import LRUCache
from kernel_pytorch.backends.tpu import runtime as tpu
from kernel_pytorch.backends.tpu.levels import TPULevels
from kernel_pytorch.backends.tpu.memory_manager import TPUMemoryManager
from kernel_pytorch.backends.tpu.tpu_exceptions import TPUCheckpointError
from kernel_pytorch.core.config import KernelPyTorchConfig

__all__ = ["TPUBackend"]


class TPUBackend(BaseBackend):
    """TPUs through torch_tpu or torch_xla; on a machine without one, models stay on the CPU.

    Weights keep their dtype: 16-bit arithmetic is autocast's, so inputs and state dicts stay as
    they are.
    """

    BACKEND_NAME = "tpu"

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config: KernelPyTorchConfig = KernelPyTorchConfig() if config is None else config
        super().__init__(self.config)
        self._found = tpu.find_tpus()
        self._absent = tpu.absent()
        self._index = 0
        self._model_cache: LRUCache[tuple[weakref.ref[nn.Module], OptimizationResult]] = LRUCache(
            self.config.hardware.tpu.cache_max_size
        )

    def absent(self) -> str:
        return self._absent

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self._absent else tpu.runtime().device(self._index)

    @property
    def world_size(self) -> int:
        """Processes that work together; 1 without a TPU."""
        return 1 if self._absent else int(tpu.runtime().world_size())

    @property
    def rank(self) -> int:
        """The number of this process among them."""
        return 0 if self._absent else int(tpu.runtime().rank())

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    @property
    def device_count(self) -> int:
        return 0 if self._absent else int(tpu.runtime().device_count())

    def get_all_devices(self) -> list[DeviceInfo]:
        return [] if self._absent else self._found.infos()

    def set_device(self, device_id: int) -> None:
        super().set_device(device_id)
        self._index = device_id

    def _make_optimizer(self) -> TPULevels:
        return TPULevels(self.config, None if self._absent else self.device)

    def _make_memory_manager(self) -> TPUMemoryManager:
        return TPUMemoryManager(self.config.hardware.tpu)

    def prepare_model(
        self, model: Any, optimization_level: str | OptimizationLevel | None = None
    ) -> Any:
        """As of the base class. A model that is already prepared for the level is given back at
        once; the last ``config.hardware.tpu.cache_max_size`` are remembered."""
        level = as_level(optimization_level, OptimizationLevel.O0)
        key = (id(model), level)
        known = self._model_cache.get(key)
        # An id may be another model's by now: the reference says.
        if known is not None and known[0]() is model and (self._absent or is_optimized(model)):
            self.last_result = known[1]
            return model
        prepared = super().prepare_model(model, level)
        if prepared is not None and self.last_result is not None:
            # The model must not be kept alive by what is remembered of it.
            kept = OptimizationResult(**{**vars(self.last_result), "model": _GONE})
            self._model_cache.set(key, (weakref.ref(prepared), kept))
        return prepared

    def prepare_data(
        self, data: torch.Tensor | Mapping[str, torch.Tensor]
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Tensors on the device."""
        if isinstance(data, torch.Tensor):
            return data.to(self.device)
        return {name: self.to_device(value) for name, value in data.items()}

    def get_memory_stats(self) -> dict[str, Any]:
        return {
            **super().get_memory_stats(),
            "world_size": self.world_size,
            "rank": self.rank,
        }

    def clear_cache(self) -> None:
        """Forget which models were prepared."""
        self._model_cache.clear()

    def save_model(
        self,
        model: nn.Module,
        path: Path | str,
        save_optimizer: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Write the model's state (with every tensor on the CPU), and the optimizer's when asked
        for, to a file that any backend and plain PyTorch read; whole or not at all.

        TPUCheckpointError when it cannot be written, or there is no optimizer to save.
        """
        if save_optimizer and optimizer is None:
            raise TPUCheckpointError(
                "save", str(path), "save_optimizer is set without an optimizer"
            )
        state: dict[str, Any] = {"model_state_dict": self.state_dict(model)}
        if save_optimizer and optimizer is not None:
            state["optimizer_state_dict"] = optimizer.state_dict()
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                torch.save(state, file)
            os.replace(file.name, target)
        except OSError as error:
            raise TPUCheckpointError("save", str(path), str(error)) from error

    def load_model(
        self,
        model: nn.Module,
        path: Path | str,
        load_optimizer: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> nn.Module:
        """Read what :meth:`save_model` wrote into ``model`` on the device; returns it. No code in
        the file is run.

        TPUCheckpointError when the file cannot be read or is of another model.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model_state_dict"])
            if load_optimizer and optimizer is not None:
                optimizer.load_state_dict(state["optimizer_state_dict"])
        except Exception as error:  # a damaged file raises whatever its parts make of it
            raise TPUCheckpointError(
                "load", str(path), f"{type(error).__name__}: {error}"
            ) from error
        return self.to_device(model)


_GONE = nn.Module()
