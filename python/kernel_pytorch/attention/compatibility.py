"""Import path of earlier versions for names of :mod:`kernel_pytorch.attention`."""

from kernel_pytorch.attention import (
    AttentionConfig,
    AttentionPatterns,
    FlashAttention2,
    FlashAttention3,
    FP8AttentionConfig,
    MemoryEfficientAttention,
    create_attention,
)

__all__ = [
    "AttentionConfig",
    "AttentionPatterns",
    "FP8AttentionConfig",
    "FlashAttention2",
    "FlashAttention3",
    "MemoryEfficientAttention",
    "create_attention",
]
