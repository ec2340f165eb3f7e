"""Import path of earlier versions for the modules and functions with score functions."""

from kernel_pytorch.attention.score_mods import (
    FlexAttentionMaskGenerators,
    FlexAttentionScoreMods,
)
from kernel_pytorch.attention.variants import (
    FLEX_ATTENTION_AVAILABLE,
    FlexAttentionCausal,
    FlexAttentionLayer,
    FlexAttentionSlidingWindow,
    create_flex_attention,
    get_flex_attention_info,
    is_flex_attention_available,
)

__all__ = [
    "FLEX_ATTENTION_AVAILABLE",
    "FlexAttentionCausal",
    "FlexAttentionLayer",
    "FlexAttentionMaskGenerators",
    "FlexAttentionScoreMods",
    "FlexAttentionSlidingWindow",
    "create_flex_attention",
    "get_flex_attention_info",
    "is_flex_attention_available",
]
