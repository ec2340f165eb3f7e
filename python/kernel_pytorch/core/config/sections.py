"""The sections that are about models: precision, memory, attention, distribution, validation,
kernels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kernel_pytorch.core.config.base import Section
from kernel_pytorch.core.enums import OptimizationLevel, PrecisionFormat

__all__ = [
    "AnyLevel",
    "AttentionConfig",
    "DistributedConfig",
    "DynamicSparseConfig",
    "FP8AttentionConfig",
    "Fraction",
    "KernelConfig",
    "MemoryConfig",
    "NotNegative",
    "Positive",
    "PrecisionConfig",
    "RingAttentionConfig",
    "ValidationConfig",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
# By any of its names; pydantic would take the values alone.
AnyLevel = Annotated[OptimizationLevel, BeforeValidator(OptimizationLevel)]
NotNegative = Annotated[int, Field(ge=0)]


class PrecisionConfig(Section):
    """Number formats, and how much error they may cost."""

    default_format: PrecisionFormat = PrecisionFormat.FP32
    adaptive_allocation: bool = True
    entropy_threshold: Fraction = 0.5
    memory_budget: Fraction = 0.5
    quality_target: Fraction = 0.3
    fp8_enabled: bool = False
    fp8_margin: NotNegative = 0
    """FP8 scales leave this many powers of two above the largest value."""
    fp8_interval: Positive = 1
    """Steps between new FP8 scales."""
    quantization_enabled: bool = False
    calibration_samples: Positive = 1000


class MemoryConfig(Section):
    """What memory is spent on."""

    deep_optimizer_states: bool = True
    gradient_checkpointing: bool = False
    memory_pool_enabled: bool = True
    offloading_enabled: bool = False
    max_memory_gb: Annotated[float, Field(gt=0)] | None = None
    memory_fraction: Fraction = 0.8
    fragmentation_threshold: Fraction = 0.1
    long_sequence_optimization: bool = False
    sequence_length_threshold: Positive = 8192


class AttentionConfig(Section):
    """Attention in general."""

    mechanism: str = "flash_attention"
    sparse_enabled: bool = False
    sparsity_ratio: Fraction = 0.5
    ring_enabled: bool = False
    max_sequence_length: Positive = 1_000_000
    fusion_enabled: bool = True
    fusion_strategy: str = "attention_ffn"
    context_parallel_size: Positive = 1


class FP8AttentionConfig(Section):
    """Attention in FP8."""

    use_fp8: bool = False
    fp8_format: Literal["e4m3", "e5m2"] = "e4m3"
    async_compute: bool = True
    warp_specialization: bool = True
    tensor_core_utilization: Fraction = 0.75
    sequence_length_threshold: Positive = 8192
    gradient_checkpointing: bool = False
    mixed_precision: bool = True


class DynamicSparseConfig(Section):
    """Attention that leaves out what matters little."""

    sparsity_threshold: Fraction = 0.1
    adaptive_threshold: bool = True
    content_aware: bool = True
    efficiency_target: Fraction = 0.8
    pattern_learning: bool = False
    min_sparsity: Fraction = 0.05
    max_sparsity: Fraction = 0.9


class RingAttentionConfig(Section):
    """Attention over sequences that are split among devices."""

    segment_size: Positive = 2048
    communication_backend: str = "nccl"
    overlap_communication: bool = True
    pipeline_parallel: bool = False
    memory_efficient: bool = True


class DistributedConfig(Section):
    """Several processes."""

    enabled: bool = False
    backend: str = "nccl"
    world_size: Positive = 1
    rank: NotNegative = 0
    fsdp_enabled: bool = False
    sharding_strategy: Literal["full_shard", "shard_grad_op", "no_shard", "hybrid_shard"] = (
        "full_shard"
    )
    cpu_offload: bool = False
    communication_backend: str = "nccl"
    timeout_minutes: Positive = 30


class ValidationConfig(Section):
    """What is checked, and what counts as good enough."""

    enabled: bool = True
    strict_mode: bool = False
    performance_tracking: bool = True
    accuracy_threshold: Fraction = 0.95
    performance_threshold: Annotated[float, Field(ge=0)] = 0.8
    memory_threshold_gb: Annotated[float, Field(gt=0)] = 16.0
    benchmark_iterations: Positive = 10
    warmup_iterations: NotNegative = 3


class KernelConfig(Section):
    """Which kernels may be chosen."""

    enabled: bool = True
    validate_kernels_on_load: bool = True
    auto_select_optimal: bool = True
    flash_attention_enabled: bool = True
    flash_attention_version: Literal["auto", "2", "3"] = "auto"
    flash_attention_split_k: bool = True
    flash_attention_causal_default: bool = False
    fuse_linear_activation: bool = True
    fused_gelu_enabled: bool = True
    fused_silu_enabled: bool = True
    fused_relu_enabled: bool = True
    fp8_layernorm: bool = False
    fp8_attention: bool = False
    fp8_matmul: bool = False
    fusion_enabled: bool = True
    fusion_threshold: Positive = 2
    """Operations in a row from which on they become one."""
    kernel_cache_enabled: bool = True
    benchmark_on_init: bool = False
    fallback_to_pytorch: bool = True
    preallocate_kernel_memory: bool = False
    kernel_memory_pool_mb: NotNegative = 512
    kernel_profiling: bool = False
    kernel_logging: bool = False
    save_kernel_stats: bool = False
