"""The NVIDIA driver's management library, asked through its C interface.

NVML neither starts a GPU nor makes a CUDA context, and comes with every driver, so no package is
needed for it. Functions and constants: NVML API Reference Manual (nvml.h).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Gpu", "ask"]

_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
_NAME_BYTES = 96
_NVLINKS = 18
_P2P_NVLINK = 4  # NVML_P2P_CAPS_INDEX_NVLINK
_P2P_READ = 0  # NVML_P2P_CAPS_INDEX_READ


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, whether or not this process may see it through CUDA."""

    name: str
    uuid: str
    bus_id: str
    compute_capability: tuple[int, int] | None
    memory_bytes: int
    """0 where the driver does not tell."""
    nvlinks: int
    """Active NVLinks."""
    peers: tuple[tuple[int, str], ...]
    """(index, "nvlink" or "pcie") of every GPU whose memory this one can read."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the driver said."""

    driver_version: str
    cuda_version: str
    """The newest CUDA that the driver runs: "13.0"; "" where it does not tell."""
    gpus: tuple[Gpu, ...]


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Pci(ctypes.Structure):  # nvmlPciInfo_t, version 3
    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pci_device_id", ctypes.c_uint),
        ("pci_subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


class _Nvml:
    """Calls that return None where the driver has no answer."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def ok(self, function: str, *arguments: Any) -> bool:
        call = getattr(self._library, function, None)
        return call is not None and call(*arguments) == 0

    def text(self, function: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_NAME_BYTES)
        if not self.ok(function, *arguments, buffer, ctypes.c_uint(_NAME_BYTES)):
            return ""
        return buffer.value.decode("utf-8", "replace")

    def number(self, function: str, *arguments: Any) -> int | None:
        value = ctypes.c_int()
        return value.value if self.ok(function, *arguments, ctypes.byref(value)) else None


def _load() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def ask(library: Any = None) -> Answer | None:
    """What the driver says; None without a driver or when it refuses. ``library`` stands in for
    the driver's own in tests."""
    library = library or _load()
    if library is None:
        return None
    nvml = _Nvml(library)
    if not nvml.ok("nvmlInit_v2"):
        return None
    try:
        cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2") or 0
        return Answer(
            driver_version=nvml.text("nvmlSystemGetDriverVersion"),
            cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            gpus=_gpus(nvml),
        )
    finally:
        nvml.ok("nvmlShutdown")


def _gpus(nvml: _Nvml) -> tuple[Gpu, ...]:
    handles = []
    for index in range(nvml.number("nvmlDeviceGetCount_v2") or 0):
        handle = ctypes.c_void_p()
        if nvml.ok("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle)):
            handles.append(handle)
    return tuple(_gpu(nvml, handle, handles) for handle in handles)


def _gpu(nvml: _Nvml, handle: Any, all_handles: list[Any]) -> Gpu:
    major, minor, memory, pci = ctypes.c_int(), ctypes.c_int(), _Memory(), _Pci()
    capable = nvml.ok(
        "nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor)
    )
    told = nvml.ok("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    on_bus = nvml.ok("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
    links = sum(
        nvml.number("nvmlDeviceGetNvLinkState", handle, ctypes.c_uint(i)) == 1
        for i in range(_NVLINKS)
    )
    peers = []
    for index, other in enumerate(all_handles):
        if other is handle:
            continue
        for kind, capability in (("nvlink", _P2P_NVLINK), ("pcie", _P2P_READ)):
            # NVML_P2P_STATUS_OK is 0.
            if nvml.number("nvmlDeviceGetP2PStatus", handle, other, capability) == 0:
                peers.append((index, kind))
                break
    return Gpu(
        name=nvml.text("nvmlDeviceGetName", handle),
        uuid=nvml.text("nvmlDeviceGetUUID", handle),
        bus_id=pci.bus_id.decode() if on_bus else "",
        compute_capability=(major.value, minor.value) if capable else None,
        memory_bytes=memory.total if told else 0,
        nvlinks=links,
        peers=tuple(peers),
    )
