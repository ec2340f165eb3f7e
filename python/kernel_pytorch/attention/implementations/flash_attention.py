"""Import path of earlier versions."""

from kernel_pytorch.attention.variants import FlashAttention2, FlashAttention3

__all__ = ["FlashAttention2", "FlashAttention3"]
