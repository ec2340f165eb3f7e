"""Import path of earlier versions for :mod:`kernel_pytorch.attention.module`."""

from kernel_pytorch.attention.module import AttentionWithCache, BaseAttention

__all__ = ["AttentionWithCache", "BaseAttention"]
