"""Import path of earlier versions for modules over the kernels."""

from kernel_pytorch.attention import (
    FlashAttentionV3,
    FusedLinearGELU,
    FusedLinearSiLU,
    create_flash_attention_v3,
    create_fused_ffn_layer,
)

__all__ = [
    "FlashAttentionV3",
    "FusedLinearGELU",
    "FusedLinearSiLU",
    "create_flash_attention_v3",
    "create_fused_ffn_layer",
]
