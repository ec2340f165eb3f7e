"""Configuration: sections of checked values, presets, files, the environment.

config = KernelPyTorchConfig.for_inference(precision={"fp8_enabled": True})
config = KernelPyTorchConfig.load("kpt.toml", assignments={"seed": 7})
config.hardware.nvidia.architecture, config.origin("seed")
"""

from kernel_pytorch.core.config.base import Section
from kernel_pytorch.core.config.files import parse_assignments
from kernel_pytorch.core.config.hardware import (
    AMDConfig,
    HardwareConfig,
    IntelConfig,
    NVIDIAConfig,
    TPUConfig,
)
from kernel_pytorch.core.config.root import (
    KernelPyTorchConfig,
    configure,
    get_config,
    set_config,
)
from kernel_pytorch.core.config.sections import (
    AttentionConfig,
    DistributedConfig,
    DynamicSparseConfig,
    FP8AttentionConfig,
    KernelConfig,
    MemoryConfig,
    PrecisionConfig,
    RingAttentionConfig,
    ValidationConfig,
)
from kernel_pytorch.core.enums import (
    AMDArchitecture,
    AttentionPatterns,
    HardwareBackend,
    IntelArchitecture,
    NVIDIAArchitecture,
    OptimizationLevel,
    PrecisionFormat,
    TPUCompilationMode,
    TPUTopology,
    TPUVersion,
)

__all__ = [
    "AMDArchitecture",
    "AMDConfig",
    "AttentionConfig",
    "AttentionPatterns",
    "DistributedConfig",
    "DynamicSparseConfig",
    "FP8AttentionConfig",
    "HardwareBackend",
    "HardwareConfig",
    "IntelArchitecture",
    "IntelConfig",
    "KernelConfig",
    "KernelPyTorchConfig",
    "MemoryConfig",
    "NVIDIAArchitecture",
    "NVIDIAConfig",
    "OptimizationLevel",
    "PrecisionConfig",
    "PrecisionFormat",
    "RingAttentionConfig",
    "Section",
    "TPUCompilationMode",
    "TPUConfig",
    "TPUTopology",
    "TPUVersion",
    "ValidationConfig",
    "configure",
    "get_config",
    "parse_assignments",
    "set_config",
]
