"""What detection returns."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

from kernel_pytorch.core.enums import NVIDIAArchitecture, TPUVersion
from kernel_pytorch.core.hardware_detector.tables import Traits

__all__ = [
    "Accelerator",
    "CpuInfo",
    "HardwareProfile",
    "HardwareType",
    "NumaNode",
    "OptimizationCapability",
    "PeerLink",
]


class HardwareType(enum.Enum):
    """What runs a model."""

    NVIDIA_GPU = "nvidia_gpu"
    TPU = "tpu"
    AMD_GPU = "amd_gpu"
    INTEL_GPU = "intel_gpu"
    APPLE_GPU = "apple_gpu"
    CPU = "cpu"


class OptimizationCapability(enum.Enum):
    """What an accelerator is good for."""

    FP8_TRAINING = "fp8_training"
    FLASH_ATTENTION_3 = "flash_attention_3"
    XLA_COMPILATION = "xla_compilation"
    TENSOR_CORES = "tensor_cores"
    MIXED_PRECISION = "mixed_precision"
    KERNEL_FUSION = "kernel_fusion"


@dataclass(frozen=True, kw_only=True)
class NumaNode:
    """Memory, and the CPUs that are near to it."""

    index: int
    cpus: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class CpuInfo:
    """The processor, as the system and the kernels see it."""

    vendor: str
    """"Intel", "AMD", "ARM", "Apple"; else as the system calls it."""
    model: str
    machine: str
    """"x86_64", "aarch64", "arm64"."""
    isa: str
    """The highest level of the kernels that it has: baseline, avx2, avx512, avx512_bf16, amx; ""
    without compiled kernels."""
    flags: tuple[str, ...]
    """Those of its instruction sets that kernels are written for, as Linux spells them."""
    logical_cpus: int
    usable_cpus: int
    """Logical CPUs that this process may run on."""
    physical_cores: int
    """Cores among them: hardware threads of one core count once."""
    numa_nodes: tuple[NumaNode, ...]
    l1d_bytes: int
    """Of one core; 0 where it is not told."""
    l2_bytes: int
    l3_bytes: int
    memory_bytes: int

    @property
    def bf16(self) -> bool:
        """Whether it multiplies bfloat16 directly."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.flags))

    @property
    def amx(self) -> bool:
        return "amx_tile" in self.flags


@dataclass(frozen=True, kw_only=True)
class PeerLink:
    """A way from one accelerator to another."""

    peer: int
    """Index of the other one."""
    kind: str
    """"nvlink", "xgmi" or "pcie"."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU or TPU chip."""

    hardware_type: HardwareType
    index: int
    """As PyTorch counts them."""
    name: str
    architecture: str
    """"hopper", "cdna3", "pvc", "v5e"; "" for one that the tables do not have."""
    target: str = ""
    """What a compiler is told: "sm_90", "gfx942"; "" where there is no such name."""
    compute_capability: tuple[int, int] | None = None
    memory_bytes: int = 0
    """0 where nothing tells without starting the device."""
    driver_version: str = ""
    bus_id: str = ""
    uuid: str = ""
    links: tuple[PeerLink, ...] = ()
    traits: Traits | None = None
    """What the architecture can do; None for an unknown one."""
    usable: bool = True
    """Whether this PyTorch can use it."""
    why_not: str = ""
    """What stands against that."""

    @property
    def capabilities(self) -> list[OptimizationCapability]:
        """What the tables say of the architecture; nothing for an unknown one."""
        traits = self.traits
        if traits is None:
            return []
        formats = traits.matrix_formats
        tpu = self.hardware_type is HardwareType.TPU
        wanted = {
            OptimizationCapability.FP8_TRAINING: traits.fp8,
            OptimizationCapability.FLASH_ATTENTION_3: traits.flash_attention_3,
            OptimizationCapability.XLA_COMPILATION: tpu,
            OptimizationCapability.TENSOR_CORES: traits.matrix_units,
            OptimizationCapability.MIXED_PRECISION: bool(formats & {"fp16", "bf16"}),
            OptimizationCapability.KERNEL_FUSION: traits.triton or tpu,
        }
        return [capability for capability, has in wanted.items() if has]


@dataclass
class HardwareProfile:
    """The machine: the device to run on, all accelerators, and the processor."""

    hardware_type: HardwareType
    device_name: str
    device_count: int
    nvidia_architecture: NVIDIAArchitecture | None = None
    tpu_version: TPUVersion | None = None
    compute_capability: tuple[int, int] | None = None
    capabilities: list[OptimizationCapability] = field(default_factory=list)
    """Those of the first accelerator; a CPU has none of these."""
    total_memory_gb: float = 0.0
    """Of one device, in GiB; for a CPU main memory; 0 where it is not told."""
    cuda_version: str | None = None
    """The CUDA that PyTorch was built for."""
    xla_available: bool = False
    accelerators: tuple[Accelerator, ...] = ()
    """All that were found, also those that this PyTorch cannot use (``usable``)."""
    cpu: CpuInfo | None = None
    detection_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.capabilities is None:  # as older callers pass it
            self.capabilities = []

    def has_capability(self, capability: OptimizationCapability) -> bool:
        return capability in self.capabilities

    def is_nvidia_h100_or_better(self) -> bool:
        """Hopper or Blackwell."""
        return self.nvidia_architecture in (
            NVIDIAArchitecture.HOPPER,
            NVIDIAArchitecture.BLACKWELL,
        )

    def is_high_end_tpu(self) -> bool:
        """v5p, v6e or v7."""
        return self.tpu_version in (TPUVersion.V5P, TPUVersion.V6E, TPUVersion.V7)

    def supports_advanced_optimization(self) -> bool:
        """Whether the most aggressive level pays here."""
        return self.is_nvidia_h100_or_better() or self.is_high_end_tpu()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(v) for v in value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
