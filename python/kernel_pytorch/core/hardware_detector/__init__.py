"""What this machine has: processor, GPUs, TPUs, and what each of them can do.

    profile = detect_hardware()
    profile.hardware_type, profile.cpu.isa, profile.accelerators

Detection takes some milliseconds and starts no device: it reads the system's files, asks the NVIDIA
driver's management library, and asks PyTorch how many devices it sees. What an architecture can do
comes from :mod:`~kernel_pytorch.core.hardware_detector.tables`. Tests replace the machine by
another :class:`Probe`.
"""

from kernel_pytorch.core.enums import NVIDIAArchitecture, TPUVersion
from kernel_pytorch.core.hardware_detector.detector import (
    HardwareDetector,
    detect_hardware,
    get_hardware_detector,
    get_optimal_backend,
    hardware_backend,
)
from kernel_pytorch.core.hardware_detector.probe import Probe, get_probe, using_probe
from kernel_pytorch.core.hardware_detector.records import (
    Accelerator,
    CpuInfo,
    HardwareProfile,
    HardwareType,
    NumaNode,
    OptimizationCapability,
    PeerLink,
)
from kernel_pytorch.core.hardware_detector.tables import Traits

__all__ = [
    "Accelerator",
    "CpuInfo",
    "HardwareDetector",
    "HardwareProfile",
    "HardwareType",
    "NVIDIAArchitecture",
    "NumaNode",
    "OptimizationCapability",
    "PeerLink",
    "Probe",
    "TPUVersion",
    "Traits",
    "detect_hardware",
    "get_hardware_detector",
    "get_optimal_backend",
    "get_probe",
    "hardware_backend",
    "using_probe",
]
