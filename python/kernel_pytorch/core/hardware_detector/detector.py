"""Puts together what the machine is, and what follows from it."""

from __future__ import annotations

import threading
import time

from kernel_pytorch.core.enums import HardwareBackend, NVIDIAArchitecture, TPUVersion
from kernel_pytorch.core.hardware_detector import accelerators
from kernel_pytorch.core.hardware_detector.probe import Probe, get_probe
from kernel_pytorch.core.hardware_detector.processor import find_cpu
from kernel_pytorch.core.hardware_detector.records import (
    Accelerator,
    HardwareProfile,
    HardwareType,
)

__all__ = [
    "HardwareDetector",
    "detect_hardware",
    "forget",
    "get_hardware_detector",
    "get_optimal_backend",
    "hardware_backend",
]

_BACKENDS = {
    HardwareType.NVIDIA_GPU: "nvidia",
    HardwareType.AMD_GPU: "amd",
    HardwareType.TPU: "tpu",
    HardwareType.INTEL_GPU: "intel",
    HardwareType.APPLE_GPU: "cpu",  # no backend of ours: PyTorch's own MPS serves such models
    HardwareType.CPU: "cpu",
}
_CONFIG_BACKENDS = {
    "nvidia": HardwareBackend.CUDA,
    "amd": HardwareBackend.AMD,
    "tpu": HardwareBackend.TPU,
    "intel": HardwareBackend.INTEL,
    "cpu": HardwareBackend.CPU,
}
_BALANCED = {NVIDIAArchitecture.VOLTA, NVIDIAArchitecture.TURING, NVIDIAArchitecture.AMPERE}


class HardwareDetector:
    """Detects once and remembers; ``probe`` stands in for the machine."""

    def __init__(self, probe: Probe | None = None) -> None:
        self._probe = probe
        self._cached_profile: HardwareProfile | None = None
        self._lock = threading.Lock()

    def detect(self, force_redetect: bool = False) -> HardwareProfile:
        """The machine: the same object until ``force_redetect``. Takes some milliseconds and
        starts no device.

        The profile is of the first accelerator that PyTorch can use, by kind: NVIDIA, AMD, TPU,
        Intel, Apple; of the CPU where there is none.
        """
        with self._lock:
            if self._cached_profile is None or force_redetect:
                self._cached_profile = self._detect()
            return self._cached_profile

    def get_optimal_backend(self, profile: HardwareProfile | None = None) -> str:
        """ "nvidia", "amd", "tpu", "intel" or "cpu"."""
        return _BACKENDS[(profile or self.detect()).hardware_type]

    def get_recommended_optimization_level(self, profile: HardwareProfile | None = None) -> str:
        """ "aggressive" where FP8 or the newest matrix units pay, "balanced" for other accelerators
        with matrix units, "conservative" for the rest and the CPU."""
        profile = profile or self.detect()
        if profile.supports_advanced_optimization():
            return "aggressive"
        if profile.hardware_type is HardwareType.CPU:
            return "conservative"
        traits = next((a.traits for a in profile.accelerators if a.usable), None)
        matrix = bool(traits and traits.matrix_units) or bool(profile.capabilities)
        return "balanced" if matrix else "conservative"

    def _detect(self) -> HardwareProfile:
        start = time.perf_counter()
        probe = self._probe or get_probe()
        found = [
            *self._detect_nvidia(probe),
            *self._detect_amd(probe),
            *(self._detect_tpu(probe) or []),
            *self._detect_intel(probe),
            *accelerators.find_apple(probe),
        ]
        xla = probe.installed("torch_xla")
        cpu = find_cpu(probe)
        first = next((a for a in found if a.usable), None)
        if first is None:
            profile = HardwareProfile(
                HardwareType.CPU,
                "CPU",
                1,
                total_memory_gb=cpu.memory_bytes / 2**30,
            )
        else:
            profile = _profile_of(first, found)
        profile.cuda_version = probe.torch_build("cuda")
        profile.xla_available = xla
        profile.accelerators = tuple(found)
        profile.cpu = cpu
        profile.detection_seconds = time.perf_counter() - start
        return profile

    # One method a vendor, so that a subclass can leave one out.

    def _detect_nvidia(self, probe: Probe) -> list[Accelerator]:
        return accelerators.find_nvidia(probe)

    def _detect_amd(self, probe: Probe) -> list[Accelerator]:
        return accelerators.find_amd(probe)

    def _detect_tpu(self, probe: Probe) -> list[Accelerator] | None:
        return accelerators.find_tpu(probe)

    def _detect_intel(self, probe: Probe) -> list[Accelerator]:
        return accelerators.find_intel(probe)


def _profile_of(first: Accelerator, found: list[Accelerator]) -> HardwareProfile:
    kind = first.hardware_type
    count = sum(a.hardware_type is kind and a.usable for a in found)
    nvidia = tpu = None
    if kind is HardwareType.NVIDIA_GPU:
        nvidia = NVIDIAArchitecture(first.architecture or "auto")
    elif kind is HardwareType.TPU:
        tpu = TPUVersion(first.architecture or "auto")
    return HardwareProfile(
        kind,
        first.name,
        count,
        nvidia_architecture=nvidia,
        tpu_version=tpu,
        compute_capability=first.compute_capability,
        capabilities=first.capabilities,
        total_memory_gb=first.memory_bytes / 2**30,
    )


_detector = HardwareDetector()


def forget() -> None:
    """Makes the shared detector look again the next time it is asked."""
    _detector._cached_profile = None


def get_hardware_detector() -> HardwareDetector:
    """The detector that everybody shares."""
    return _detector


def detect_hardware() -> HardwareProfile:
    """The machine, detected once; see :meth:`HardwareDetector.detect`."""
    return _detector.detect()


def get_optimal_backend() -> str:
    """ "nvidia", "amd", "tpu", "intel" or "cpu"."""
    return _detector.get_optimal_backend()


def hardware_backend(name: str) -> HardwareBackend:
    """A backend's name as the configuration's enum: "nvidia" is ``HardwareBackend.CUDA``."""
    return _CONFIG_BACKENDS[name]
