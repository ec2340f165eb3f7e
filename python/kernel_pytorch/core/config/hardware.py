"""The section about hardware: which backend, and what is set for each vendor.

What is not given is filled in from the machine when the section is made: the architecture that
detection finds, and what the tables say of it. Where a vendor's hardware is not found the least is
assumed (Pascal, TPU v5e, CDNA 2). What is given is never replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kernel_pytorch.core.config.base import Section
from kernel_pytorch.core.config.sections import AnyLevel, Fraction, NotNegative, Positive
from kernel_pytorch.core.enums import (
    AMDArchitecture,
    HardwareBackend,
    IntelArchitecture,
    NVIDIAArchitecture,
    OptimizationLevel,
    TPUCompilationMode,
    TPUTopology,
    TPUVersion,
)
from kernel_pytorch.core.hardware_detector import (
    HardwareType,
    detect_hardware,
    get_optimal_backend,
    get_probe,
    hardware_backend,
)
from kernel_pytorch.core.hardware_detector.tables import Traits, traits_by_name

__all__ = ["AMDConfig", "HardwareConfig", "IntelConfig", "NVIDIAConfig", "TPUConfig"]

Level = Literal["conservative", "balanced", "aggressive"]
FloatFormat = Literal["fp32", "fp16", "bf16"]


def _found(kind: HardwareType, otherwise: str) -> str:
    """The architecture of the first accelerator of a kind, as the tables name it."""
    for accelerator in detect_hardware().accelerators:
        if accelerator.hardware_type is kind:
            return accelerator.architecture or "auto"
    return otherwise


def _traits(values: dict[str, Any], key: str = "architecture") -> Traits | None:
    return traits_by_name(values[key].value) if key in values else None


_TENSOR_CORES = {"volta": 1, "turing": 2, "ampere": 3, "ada": 4, "hopper": 4, "blackwell": 5}


class NVIDIAConfig(Section):
    """NVIDIA's GPUs."""

    enabled: bool = True
    architecture: NVIDIAArchitecture = Field(
        default_factory=lambda: NVIDIAArchitecture(_found(HardwareType.NVIDIA_GPU, "pascal"))
    )
    """Detected; PASCAL, which has no tensor cores, where there is no such GPU."""
    fp8_enabled: bool = Field(default_factory=lambda values: bool((t := _traits(values)) and t.fp8))
    """Where the architecture has FP8: Ada, Hopper, Blackwell."""
    fp8_recipe: Literal["DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling"] = (
        "DelayedScaling"
    )
    tensor_core_version: NotNegative = Field(
        default_factory=lambda values: _TENSOR_CORES.get(
            values["architecture"].value if "architecture" in values else "", 0
        )
    )
    """Generation of the tensor cores, 0 without: 1 Volta, 2 Turing, 3 Ampere, 4 Ada and Hopper,
    5 Blackwell."""
    mixed_precision_enabled: bool = True
    flash_attention_version: Literal["2", "3"] = "3"
    """The newest to be used where the architecture has it."""
    flash_attention_enabled: bool = True
    memory_pool_enabled: bool = True
    memory_fraction: Fraction = 0.95
    kernel_fusion_enabled: bool = True
    cudnn_benchmark: bool = True


class TPUConfig(Section):
    """Google's TPUs."""

    enabled: bool = True
    version: TPUVersion = Field(default_factory=lambda: TPUVersion(_found(HardwareType.TPU, "v5e")))
    topology: TPUTopology = TPUTopology.SINGLE
    compilation_mode: TPUCompilationMode = TPUCompilationMode.TORCH_XLA
    xla_flags: str | None = None
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    mixed_precision: bool = True
    memory_fraction: Fraction = Field(
        default_factory=lambda values: (
            0.95
            if values.get("version") in (TPUVersion.V5P, TPUVersion.V6E, TPUVersion.V7)
            else 0.9
        )
    )
    """0.95 where a chip has much memory (v5p, v6e, v7), else 0.9."""
    gradient_checkpointing: bool = True
    xla_optimization_level: Annotated[int, Field(ge=0, le=3)] = Field(
        default_factory=lambda values: 1 if values.get("version") is TPUVersion.V5E else 2
    )
    enable_xla_dynamic_shapes: bool = True
    enable_jax_integration: bool = False
    jax_backend: str = "tpu"
    cache_max_size: Positive = 100
    compilation_timeout_seconds: Positive = 300
    allocation_history_retention_seconds: Positive = 3600
    v6e_memory_gb: Annotated[float, Field(gt=0)] | None = None
    v7_memory_gb: Annotated[float, Field(gt=0)] | None = None
    enable_strict_validation: bool = False
    monitoring_interval_seconds: Annotated[float, Field(gt=0)] = 1.0
    monitoring_duration_seconds: Annotated[float, Field(gt=0)] = 60.0


def _cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "kernel_pytorch" / "hip")


class AMDConfig(Section):
    """AMD's GPUs."""

    enabled: bool = True
    architecture: AMDArchitecture = Field(
        default_factory=lambda: AMDArchitecture(_found(HardwareType.AMD_GPU, "cdna2"))
    )
    device_id: NotNegative = 0
    rocm_version: str = "auto"
    hip_version: str = "auto"
    enable_matrix_cores: bool = Field(
        default_factory=lambda values: bool((t := _traits(values)) and t.matrix_units)
    )
    """Where the architecture has matrix units: all but RDNA 2."""
    matrix_core_precision: str = "auto"
    optimization_level: Level = "balanced"
    enable_memory_pooling: bool = True
    memory_pool_size_gb: Annotated[float, Field(gt=0)] = 8.0
    memory_pool_init_mb: NotNegative = 1024
    memory_growth_enabled: bool = True
    max_memory_fraction: Fraction = 0.9
    hip_kernel_cache_enabled: bool = True
    hip_kernel_cache_size: Positive = 100
    hip_compiler_cache_size: Positive = 100
    hip_compiler_cache_dir: str = Field(default_factory=_cache_folder)
    rocblas_enabled: bool = True
    rocblas_workspace_mb: NotNegative = 256
    enable_rocblas_tuning: bool = True
    miopen_enabled: bool = True
    miopen_find_mode: Literal["NORMAL", "FAST", "HYBRID", "DYNAMIC_HYBRID", "TRIVIAL_HYBRID"] = (
        "NORMAL"
    )
    default_precision: FloatFormat = "fp32"
    enable_mixed_precision: bool = True
    allow_fp16: bool = True
    allow_bf16: bool = True
    enable_profiling: bool = False
    enable_operator_fusion: bool = True
    enable_strict_validation: bool = False
    enable_oom_protection: bool = True


class IntelConfig(Section):
    """Intel's GPUs, and AMX in Intel's processors."""

    enabled: bool = True
    architecture: IntelArchitecture = Field(
        default_factory=lambda: IntelArchitecture(_found(HardwareType.INTEL_GPU, "auto"))
    )
    device_id: NotNegative = 0
    ipex_enabled: bool = True
    ipex_optimization_level: Literal["O0", "O1"] = "O1"
    onednn_enabled: bool = True
    onednn_fusion_enabled: bool = True
    default_precision: FloatFormat = "fp32"
    enable_mixed_precision: bool = True
    allow_fp16: bool = True
    allow_bf16: bool = True
    enable_memory_pooling: bool = True
    max_memory_fraction: Fraction = 0.9
    optimization_level: Level = "balanced"
    enable_amx: bool = True
    auto_kernel_selection: bool = True
    enable_profiling: bool = False


def _backend() -> HardwareBackend:
    # Asked anew each time, for it is cheap: what PyTorch may use can change within a process.
    probe = get_probe()
    if probe.torch_devices("cuda"):
        return HardwareBackend.AMD if probe.torch_build("hip") else HardwareBackend.CUDA
    backend = hardware_backend(get_optimal_backend())
    gone = backend in (HardwareBackend.CUDA, HardwareBackend.AMD)
    return HardwareBackend.CPU if gone else backend


class HardwareConfig(Section):
    """Which backend runs models, and its settings."""

    backend: HardwareBackend = Field(default_factory=_backend)
    """Detected."""
    device_id: NotNegative | None = None
    multi_gpu: bool = False
    nvidia: NVIDIAConfig = Field(default_factory=NVIDIAConfig)
    tpu: TPUConfig = Field(default_factory=TPUConfig)
    amd: AMDConfig = Field(default_factory=AMDConfig)
    intel: IntelConfig = Field(default_factory=IntelConfig)
    tensor_cores_enabled: bool = True
    mixed_precision: bool = True
    torch_compile: bool = True
    triton_enabled: bool = True
    flashlight_enabled: bool = False
    optimization_level: AnyLevel = OptimizationLevel.BALANCED
