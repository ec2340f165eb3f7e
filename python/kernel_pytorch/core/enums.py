"""The closed choices of a configuration. Each converts from its value: ``TPUVersion("v5e")``."""

from __future__ import annotations

import enum

from kernel_pytorch.core.optimization_level import OptimizationLevel

__all__ = [
    "AMDArchitecture",
    "AttentionPatterns",
    "HardwareBackend",
    "IntelArchitecture",
    "NVIDIAArchitecture",
    "OptimizationLevel",
    "PrecisionFormat",
    "TPUCompilationMode",
    "TPUTopology",
    "TPUVersion",
]


class PrecisionFormat(enum.Enum):
    """A number format."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    FP4 = "fp4"


class HardwareBackend(enum.Enum):
    """Which backend runs a model."""

    CUDA = "cuda"
    CPU = "cpu"
    TPU = "tpu"
    AMD = "amd"
    INTEL = "intel"
    CUSTOM = "custom"


class NVIDIAArchitecture(enum.Enum):
    """Generations of NVIDIA's GPUs; AUTO where none is known."""

    AUTO = "auto"
    PASCAL = "pascal"
    VOLTA = "volta"
    TURING = "turing"
    AMPERE = "ampere"
    ADA = "ada"
    HOPPER = "hopper"
    BLACKWELL = "blackwell"


class TPUVersion(enum.Enum):
    """Generations of Google's TPUs; AUTO where none is known."""

    AUTO = "auto"
    V4 = "v4"
    V5E = "v5e"
    V5P = "v5p"
    V6E = "v6e"
    V7 = "v7"


class TPUTopology(enum.Enum):
    """How many TPU chips work together."""

    AUTO = "auto"
    SINGLE = "single"
    POD = "pod"
    SUPERPOD = "superpod"


class TPUCompilationMode(enum.Enum):
    """Which compiler front makes programs for a TPU."""

    XLA = "xla"
    PJIT = "pjit"
    TORCH_XLA = "torch_xla"


class AMDArchitecture(enum.Enum):
    """Generations of AMD's GPUs; AUTO where none is known."""

    AUTO = "auto"
    CDNA = "cdna"
    CDNA2 = "cdna2"
    CDNA3 = "cdna3"
    CDNA4 = "cdna4"
    RDNA2 = "rdna2"
    RDNA3 = "rdna3"
    RDNA4 = "rdna4"


class IntelArchitecture(enum.Enum):
    """Generations of Intel's GPUs; AUTO where none is known."""

    AUTO = "auto"
    PVC = "pvc"
    ATS = "ats"
    DG2 = "dg2"
    FLEX = "flex"
    BMG = "bmg"
    INTEGRATED = "integrated"


class AttentionPatterns(enum.Enum):
    """Which keys a query sees."""

    FULL = "full"
    CAUSAL = "causal"
    SLIDING_WINDOW = "sliding_window"
    SPARSE = "sparse"
    RING = "ring"
    LOCAL = "local"
    GLOBAL = "global"
    DIFFERENTIAL = "differential"
    DYNAMIC_SPARSE = "dynamic_sparse"
