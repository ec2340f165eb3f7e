"""What drives a TPU: ``torch_tpu`` (PyTorch's own TPU backend), else ``torch_xla``; one adapter.

Both are optional. Neither is imported to find out whether it is there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Any

import torch

from kernel_pytorch.backends.accelerator import Found
from kernel_pytorch.backends.tpu.tpu_exceptions import INSTALL, TPUNotAvailableError
from kernel_pytorch.core.hardware_detector import HardwareType

__all__ = ["TorchTPU", "TorchXLA", "absent", "find_tpus", "installed_package", "runtime"]


class TorchTPU:
    """``torch_tpu``, which is ``torch.tpu`` once torch has loaded its entry point."""

    package = "torch_tpu"
    torch_type = "tpu"
    compile_backend = "tpu"

    def __init__(self) -> None:
        importlib.import_module("torch_tpu")
        self._module: Any = torch.get_device_module("tpu")

    def device(self, index: int) -> torch.device:
        return torch.device("tpu", index)

    def device_count(self) -> int:
        return int(self._module.device_count())

    def sync(self) -> None:
        self._module.synchronize()

    def world_size(self) -> int:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return torch.distributed.get_world_size() if there else 1

    def rank(self) -> int:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return torch.distributed.get_rank() if there else 0

    def rendezvous(self, tag: str) -> None:
        if self.world_size() > 1:
            torch.distributed.barrier()

    def memory(self, index: int) -> tuple[int, int] | None:
        """(used, total) bytes; None: torch_tpu tells the total alone, in its properties."""
        return None

    def hardware(self) -> str:
        return str(self._module.get_device_name())


class TorchXLA:
    """``torch_xla``; with ``PJRT_DEVICE=CPU`` its device is the CPU."""

    package = "torch_xla"
    torch_type = "xla"
    compile_backend = "openxla"

    def __init__(self) -> None:
        self._xla: Any = importlib.import_module("torch_xla")
        self._runtime: Any = importlib.import_module("torch_xla.runtime")
        self._model: Any = importlib.import_module("torch_xla.core.xla_model")

    def device(self, index: int) -> torch.device:
        found: torch.device = self._xla.device(index)
        return found

    def device_count(self) -> int:
        return int(self._runtime.addressable_device_count())

    def sync(self) -> None:
        self._xla.sync(wait=True)

    def world_size(self) -> int:
        return int(self._runtime.world_size())

    def rank(self) -> int:
        return int(self._runtime.global_ordinal())

    def rendezvous(self, tag: str) -> None:
        self._model.rendezvous(tag)

    def memory(self, index: int) -> tuple[int, int] | None:
        """(used, total) bytes; None on a device that does not tell."""
        try:
            found = self._model.get_memory_info(self.device(index))
        except RuntimeError:
            return None
        return int(found["bytes_used"]), int(found["bytes_limit"])

    def hardware(self) -> str:
        return str(self._runtime.device_type())


_runtime: TorchTPU | TorchXLA | None = None


def installed_package() -> str:
    """ "torch_tpu", "torch_xla" or "" when neither is installed."""
    packages = ("torch_tpu", "torch_xla")
    return next((p for p in packages if importlib.util.find_spec(p) is not None), "")


def package_version() -> str:
    """The version of :func:`installed_package`; "" without one."""
    package = installed_package()
    return importlib.metadata.version(package) if package else ""


def find_tpus() -> Found:
    """The TPU chips of this host."""
    package = installed_package()
    torch_type = "tpu" if package == "torch_tpu" else "xla"
    return Found.look(HardwareType.TPU, "tpu", "TPU", torch_type)


def absent() -> str:
    """Why no TPU can be used; "" when one can (or torch_xla stands for it on the CPU)."""
    package = installed_package()
    found = find_tpus()
    if not found.accelerators and not (package == "torch_xla" and os.environ.get("PJRT_DEVICE")):
        return found.absent
    return "" if package else f"neither torch_tpu nor torch_xla is installed ({INSTALL})"


def runtime() -> Any:
    """The adapter; TPUNotAvailableError (with the reason) where no TPU can be used."""
    global _runtime
    if reason := absent():
        raise TPUNotAvailableError(reason)
    if _runtime is None:
        try:
            _runtime = TorchTPU() if installed_package() == "torch_tpu" else TorchXLA()
        except (ImportError, OSError, RuntimeError) as error:
            raise TPUNotAvailableError(
                f"{installed_package()} does not load: {error} ({INSTALL})"
            ) from error
    return _runtime
