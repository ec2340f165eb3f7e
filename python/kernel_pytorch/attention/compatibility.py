"""Import path of earlier versions for names of :mod:`kernel_pytorch.attention`."""

from kernel_pytorch.attention import (
    AttentionConfig,
    AttentionPatterns,
    ContextParallelAttention,
    FlashAttention2,
    FlashAttention3,
    FP8AttentionConfig,
    MemoryEfficientAttention,
    RingAttentionLayer,
    create_attention,
)

__all__ = [
    "AttentionConfig",
    "AttentionPatterns",
    "ContextParallelAttention",
    "FP8AttentionConfig",
    "FlashAttention2",
    "FlashAttention3",
    "MemoryEfficientAttention",
    "RingAttentionLayer",
    "create_attention",
]
