"""Import path of earlier versions."""

from kernel_pytorch.attention.variants import (
    ChunkedAttention,
    LongSequenceAttention,
    MemoryEfficientAttention,
)

__all__ = ["ChunkedAttention", "LongSequenceAttention", "MemoryEfficientAttention"]
