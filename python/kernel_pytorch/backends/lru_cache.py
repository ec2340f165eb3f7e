"""A bounded cache that forgets what was not used for longest, with counts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from kernel_pytorch.backends.base_exceptions import ConfigurationError

__all__ = ["LRUCache"]

V = TypeVar("V")


class LRUCache(Generic[V]):
    """At most ``max_size`` values; threads may share it."""

    def __init__(self, max_size: int) -> None:
        if max_size < 1:
            raise ConfigurationError("max_size", max_size, "a cache holds at least 1 value")
        self.max_size = max_size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._evictions = 0

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key``, which counts as used; ``default`` when there is none."""
        with self._lock:
            if key not in self._values:
                self._misses += 1
                return default
            self._hits += 1
            self._values.move_to_end(key)
            return self._values[key]

    def set(self, key: Hashable, value: V) -> None:
        """Keep ``value``, in place of an older one, or of the one unused for longest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self.max_size:
                self._values.popitem(last=False)
                self._evictions += 1

    def clear(self) -> None:
        """Forget all values; the counts stay."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def keys(self) -> list[Hashable]:
        """From the one unused for longest to the last used."""
        with self._lock:
            return list(self._values)

    def get_stats(self) -> dict[str, Any]:
        """hits, misses, evictions, size, max_size, hit_rate (0 before the first look-up)."""
        looked = self._hits + self._misses
        return {
            "hits": self._hits,
            "misses": self._misses,
            "evictions": self._evictions,
            "size": len(self._values),
            "max_size": self.max_size,
            "hit_rate": self._hits / looked if looked else 0.0,
        }
