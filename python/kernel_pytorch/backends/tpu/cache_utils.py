"""The bounded cache by its older path."""

from kernel_pytorch.backends.lru_cache import LRUCache

__all__ = ["LRUCache"]
