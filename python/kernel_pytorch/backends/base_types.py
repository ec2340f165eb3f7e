"""The words that every backend speaks: device, strategy, result, kernel configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kernel_pytorch.core.optimization_level import OptimizationLevel

__all__ = [
    "DeviceInfo",
    "KernelConfig",
    "OptimizationLevel",
    "OptimizationResult",
    "OptimizationStrategy",
]


@dataclass
class DeviceInfo:
    """One device, as its driver describes it."""

    backend: str
    """"nvidia", "amd", "tpu", "intel" or "cpu"."""
    device_type: str
    """torch's word: "cuda", "xpu", "xla", "cpu"."""
    device_id: int
    device_name: str
    compute_capability: str | None = None
    """"9.0" for NVIDIA, the architecture ("gfx942") for AMD; None where there is no such thing."""
    total_memory_bytes: int = 0
    driver_version: str | None = None
    is_available: bool = True
    properties: dict[str, Any] = field(default_factory=dict)
    """What else is known, by the vendor's names."""

    @property
    def total_memory_gb(self) -> float:
        """In units of 2^30 bytes."""
        return self.total_memory_bytes / 2**30

    @property
    def total_memory_mb(self) -> float:
        """In units of 2^20 bytes."""
        return self.total_memory_bytes / 2**20

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "backend": self.backend,
            "device_type": self.device_type,
            "device_id": self.device_id,
            "device_name": self.device_name,
            "compute_capability": self.compute_capability,
            "total_memory_bytes": self.total_memory_bytes,
            "total_memory_gb": self.total_memory_gb,
            "total_memory_mb": self.total_memory_mb,
            "driver_version": self.driver_version,
            "is_available": self.is_available,
            "properties": dict(self.properties),
        }


@dataclass
class OptimizationResult:
    """What an optimisation did to a model: only what was really done is in the list."""

    success: bool
    model: nn.Module
    level: OptimizationLevel
    optimizations_applied: list[str] = field(default_factory=list)
    """Names of the strategies that changed something, in order."""
    warnings: list[str] = field(default_factory=list)
    """What the level names and was not done, with the reason: "name: reason"."""
    errors: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measurements by strategy; nothing in here is a constant."""

    def __post_init__(self) -> None:
        if isinstance(self.level, str):
            self.level = OptimizationLevel(self.level)

    @property
    def optimized_model(self) -> nn.Module:
        """The same as ``model``."""
        return self.model

    @property
    def optimization_level(self) -> str:
        """The level's old word: "balanced"."""
        return self.level.word

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model as plain data."""
        return {
            "success": self.success,
            "level": self.level.value,
            "optimizations_applied": list(self.optimizations_applied),
            "warnings": list(self.warnings),
            "errors": list(self.errors),
            "metrics": dict(self.metrics),
        }


@dataclass
class OptimizationStrategy:
    """One thing that a level does: an entry of the documented list, and the code behind it."""

    name: str
    """What a result lists when it was done."""
    description: str
    applicable_levels: list[OptimizationLevel]
    speedup_estimate: float = 1.0
    """1.0: nothing is claimed. Speed is measured, never assumed."""
    memory_impact: float = 1.0
    """Bytes of the model afterwards over those before."""
    precision_impact: str = "none"
    """"none", "rounding" (float arithmetic in another order), "bf16", "tf32", "int8"."""
    requires: list[str] = field(default_factory=list)
    """"sample_input", "device", "optimizer"; what lacks leaves the strategy undone."""
    purpose: str = "both"
    """"inference", "training" or "both"."""
    apply: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    """Called with a :class:`~kernel_pytorch.backends.strategies.Work`; None: a description only."""

    def is_applicable(self, level: OptimizationLevel) -> bool:
        """Whether ``level`` names it."""
        return level in self.applicable_levels


@dataclass
class KernelConfig:
    """How a kernel is to be tiled; "auto" leaves it to the operator."""

    algorithm: str = "auto"
    tile_sizes: tuple[int, ...] = (32, 32, 32)
    num_warps: int = 4
    num_stages: int = 2
    use_tensor_cores: bool = True
    memory_format: str = "contiguous"
    extra_params: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One flat mapping; ``extra_params`` stand beside the fields."""
        return {
            "algorithm": self.algorithm,
            "tile_sizes": self.tile_sizes,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "use_tensor_cores": self.use_tensor_cores,
            "memory_format": self.memory_format,
            **self.extra_params,
        }
