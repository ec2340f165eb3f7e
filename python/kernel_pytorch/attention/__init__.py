"""Attention of any pattern: as a function, as modules, and what they are configured by.

>>> layer = create_flex_attention(256, 4, pattern="sliding_window", causal=True)
>>> y = layer(x)                                                  # [batch, tokens, 256]
>>> y = attention(q, k, v, score_mod=lambda s, b, h, i, j: s + bias[i - j])
"""

from kernel_pytorch import backends
from kernel_pytorch.attention.cache import KeyValueCache
from kernel_pytorch.attention.config import (
    AttentionConfig,
    AttentionModuleConfig,
    AttentionPatterns,
    DynamicSparseConfig,
    FP8AttentionConfig,
    RingAttentionConfig,
)
from kernel_pytorch.attention.distributed import (
    ContextParallelAttention,
    ContextParallelConfig,
    RingAttentionLayer,
    create_context_parallel_attention,
    create_ring_attention,
    ring_attention,
)
from kernel_pytorch.attention.flash import FlashAttentionV3, create_flash_attention_v3
from kernel_pytorch.attention.functional import Rules, attention
from kernel_pytorch.attention.fused_linear import (
    FusedLinearGELU,
    FusedLinearSiLU,
    create_fused_ffn_layer,
)
from kernel_pytorch.attention.module import Attention, AttentionWithCache, BaseAttention
from kernel_pytorch.attention.pattern import Pattern, alibi_slopes
from kernel_pytorch.attention.score_mods import (
    FlexAttentionMaskGenerators,
    FlexAttentionScoreMods,
)
from kernel_pytorch.attention.variants import (
    FLEX_ATTENTION_AVAILABLE,
    ChunkedAttention,
    FlashAttention2,
    FlashAttention3,
    FlexAttentionCausal,
    FlexAttentionLayer,
    FlexAttentionSlidingWindow,
    LongSequenceAttention,
    MemoryEfficientAttention,
    clear_registry,
    create_attention,
    create_flash_attention,
    create_flex_attention,
    create_memory_efficient_attention,
    get_attention_registry,
    get_flex_attention_info,
    is_flex_attention_available,
    list_available_attention,
    register_attention,
    unregister_attention,
)

__all__ = [
    "FLEX_ATTENTION_AVAILABLE",
    "Attention",
    "AttentionConfig",
    "AttentionModuleConfig",
    "AttentionPatterns",
    "AttentionWithCache",
    "BaseAttention",
    "ChunkedAttention",
    "ContextParallelAttention",
    "ContextParallelConfig",
    "DynamicSparseConfig",
    "FP8AttentionConfig",
    "FlashAttention2",
    "FlashAttention3",
    "FlashAttentionV3",
    "FlexAttentionCausal",
    "FlexAttentionLayer",
    "FlexAttentionMaskGenerators",
    "FlexAttentionScoreMods",
    "FlexAttentionSlidingWindow",
    "FusedLinearGELU",
    "FusedLinearSiLU",
    "KeyValueCache",
    "LongSequenceAttention",
    "MemoryEfficientAttention",
    "Pattern",
    "RingAttentionConfig",
    "RingAttentionLayer",
    "Rules",
    "alibi_slopes",
    "attention",
    "clear_registry",
    "create_attention",
    "create_context_parallel_attention",
    "create_flash_attention",
    "create_flash_attention_v3",
    "create_flex_attention",
    "create_fused_ffn_layer",
    "create_memory_efficient_attention",
    "create_ring_attention",
    "get_attention_registry",
    "get_flex_attention_info",
    "is_flex_attention_available",
    "list_available_attention",
    "register_attention",
    "ring_attention",
    "unregister_attention",
]

assert backends  # imported for what it registers: torch.ops.kpt
