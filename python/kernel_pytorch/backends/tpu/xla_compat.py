"""The TPU runtime as functions, by their older names; without a TPU they speak of the CPU."""

from __future__ import annotations

import torch

from kernel_pytorch.backends.tpu import runtime as tpu

__all__ = [
    "get_device_count",
    "get_device_hw_type",
    "get_ordinal",
    "get_torch_compile_backend",
    "get_torch_xla_version",
    "get_world_size",
    "get_xla_device",
    "is_torch_xla_2_9_plus",
    "is_tpu_device",
    "is_xla_available",
    "rendezvous",
    "sync",
]


def is_xla_available() -> bool:
    """Whether a TPU, or torch_xla in its place, can be used."""
    return not tpu.absent()


def get_xla_device() -> torch.device:
    """The first device. TPUNotAvailableError where there is none."""
    device: torch.device = tpu.runtime().device(0)
    return device


def get_world_size() -> int:
    """Processes that work together; 1 without a TPU."""
    return int(tpu.runtime().world_size()) if is_xla_available() else 1


def get_ordinal() -> int:
    """The number of this process among them."""
    return int(tpu.runtime().rank()) if is_xla_available() else 0


def get_device_count() -> int:
    """Devices of this process; 0 without a TPU."""
    return int(tpu.runtime().device_count()) if is_xla_available() else 0


def sync() -> None:
    """Run what was recorded, and wait for it; nothing without a TPU."""
    if is_xla_available():
        tpu.runtime().sync()


def rendezvous(tag: str) -> None:
    """Wait for all processes; nothing without a TPU."""
    if is_xla_available():
        tpu.runtime().rendezvous(tag)


def is_tpu_device() -> bool:
    """Whether the device is a TPU (and not the CPU behind torch_xla)."""
    return is_xla_available() and "TPU" in get_device_hw_type().upper()


def get_device_hw_type() -> str:
    """What the runtime calls the device: "TPU v5e"; "CPU" without one."""
    return str(tpu.runtime().hardware()) if is_xla_available() else "CPU"


def get_torch_xla_version() -> str:
    """The version of the package that drives TPUs here; "" without one."""
    return tpu.package_version()


def get_torch_compile_backend() -> str | None:
    """The backend for ``torch.compile``; None without a TPU."""
    return str(tpu.runtime().compile_backend) if is_xla_available() else None


def is_torch_xla_2_9_plus() -> bool:
    """Whether torch_xla is 2.9 (its last) or torch_tpu, which came after it."""
    package, version = tpu.installed_package(), tpu.package_version()
    if package != "torch_xla":
        return bool(package)
    return tuple(int(n) for n in version.split(".")[:2]) >= (2, 9)
