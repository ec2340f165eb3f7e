"""Import path of earlier versions for :mod:`kernel_pytorch.attention.config`."""

from kernel_pytorch.attention.config import (
    AttentionConfig,
    AttentionModuleConfig,
    AttentionPatterns,
    DynamicSparseConfig,
    FP8AttentionConfig,
    RingAttentionConfig,
)

__all__ = [
    "AttentionConfig",
    "AttentionModuleConfig",
    "AttentionPatterns",
    "DynamicSparseConfig",
    "FP8AttentionConfig",
    "RingAttentionConfig",
]
