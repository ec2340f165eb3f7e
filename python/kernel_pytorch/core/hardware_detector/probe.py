"""The one seam between detection and the machine: everything that is asked of it is asked here.

Tests put another :class:`Probe` in place (:func:`using_probe`); nothing else needs mocking. No
method starts a GPU: a device is known from the system's files, from NVML, and from what PyTorch
says without opening it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernel_pytorch.core.hardware_detector import nvml
from kernel_pytorch.core.native_cpu import native_cpu

__all__ = ["Probe", "get_probe", "using_probe", "visible"]


class Probe:
    """What this machine, its drivers and this PyTorch say."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    # The system's files.

    def read(self, path: str) -> str:
        """A small file under the root, stripped; "" where there is none or it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[Path]:
        """Paths under the root, in order."""
        try:
            return sorted(self.root.glob(pattern))
        except OSError:
            return []

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def usable_cpus(self) -> set[int]:
        """The logical CPUs that this process may run on."""
        if hasattr(os, "sched_getaffinity"):
            return set(os.sched_getaffinity(0))
        return set(range(os.cpu_count() or 1))

    def logical_cpus(self) -> int:
        return os.cpu_count() or 1

    def machine(self) -> str:
        """ "x86_64", "aarch64", "arm64"."""
        return platform.machine()

    def memory_bytes(self) -> int:
        """Main memory; 0 where the system does not tell."""
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return 0

    def native_cpu(self) -> Mapping[str, Any] | None:
        """Instruction sets and caches as the kernels see them; None without compiled kernels."""
        return native_cpu()

    # PyTorch. Without it (as when the doctor looks at an installation) it sees nothing.

    def torch(self) -> Any:
        """The package; None where it cannot be imported."""
        try:
            import torch
        except ImportError:
            return None
        return torch

    def torch_build(self, kind: str) -> str | None:
        """The version of "cuda", "hip" or "xpu" that PyTorch was built for."""
        torch = self.torch()
        return getattr(torch.version, kind, None) if torch else None

    def torch_devices(self, kind: str) -> int:
        """How many devices of "cuda" (also AMD's), "xpu" or "mps" PyTorch would use."""
        torch = self.torch()
        if torch is None:
            return 0
        if kind == "cuda":
            # Counted through NVML or AMD SMI; is_available, which may start CUDA, is asked only
            # where these see nothing to start.
            count: int = torch.cuda.device_count()
            return count or int(torch.cuda.is_available())
        if kind == "xpu":
            return int(torch.xpu.device_count())
        return int(torch.backends.mps.is_available())

    def torch_properties(self, kind: str, index: int) -> Any:
        """PyTorch's properties of a device if this process has started it already; else None."""
        torch = self.torch()
        module = getattr(torch, kind, None)
        if module is None or not module.is_initialized():
            return None
        return module.get_device_properties(index)

    def installed(self, package: str) -> bool:
        """Whether ``package`` could be imported."""
        try:
            return importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            return False

    # Drivers.

    def nvml(self) -> nvml.Answer | None:
        """What the NVIDIA driver says of its GPUs; None without one."""
        return nvml.ask()


_probe = Probe()


def get_probe() -> Probe:
    """The probe in use."""
    return _probe


@contextlib.contextmanager
def using_probe(probe: Probe) -> Iterator[Probe]:
    """Within the block, detection asks ``probe``, and forgets what it knew before and after."""
    from kernel_pytorch.core.hardware_detector import detector

    global _probe
    before, _probe = _probe, probe
    detector.forget()
    try:
        yield probe
    finally:
        _probe = before
        detector.forget()


def visible(value: str | None, names: Sequence[str]) -> list[int]:
    """Which of the devices ``names`` (their UUIDs) a ``*_VISIBLE_DEVICES`` variable leaves, in its
    order: indices or beginnings of UUIDs, up to the first that names none."""
    if value is None:
        return list(range(len(names)))
    chosen: list[int] = []
    for word in (w.strip() for w in value.split(",")):
        if word.isdigit():
            found = [int(word)] if int(word) < len(names) else []
        else:
            found = [i for i, name in enumerate(names) if word and name.startswith(word)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen
