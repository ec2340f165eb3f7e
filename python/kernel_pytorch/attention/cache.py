"""Keys and values of earlier tokens, in memory that is allocated once."""

from __future__ import annotations

import torch

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Room for ``capacity`` tokens of ``max_batch_size`` sequences; one layer's."""

    def __init__(self, max_batch_size: int, capacity: int) -> None:
        if max_batch_size < 1 or capacity < 1:
            raise ValueError(
                f"KeyValueCache: sizes must be positive, got {max_batch_size} and {capacity}"
            )
        self.max_batch_size = max_batch_size
        self.capacity = capacity
        self.length = 0
        """Tokens held."""
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def clear(self) -> None:
        """Forget the tokens; the memory stays."""
        self.length = 0

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds ``k`` and ``v`` ``[B, H, S, D]``; returns all of both, as views of the cache.

        ValueError when they do not fit: the cache is then as it was.
        """
        batch, heads, rows, dim = k.shape
        if batch > self.max_batch_size:
            raise ValueError(
                f"KeyValueCache: batch must be at most {self.max_batch_size} (enable_cache("
                f"max_batch_size=...)), got {batch}"
            )
        if self.length + rows > self.capacity:
            raise ValueError(
                f"KeyValueCache: holds {self.length} of {self.capacity} tokens (enable_cache("
                f"max_seq_len=...)), got {rows} more"
            )
        keys, values = self._keys, self._values
        if keys is None or values is None or self.length == 0:
            shape = (self.max_batch_size, heads, self.capacity, dim)
            if keys is None or keys.dtype != k.dtype or keys.device != k.device:
                keys = self._keys = k.new_empty(shape)
                values = self._values = v.new_empty(shape)
            self._batch = batch
        elif batch != self._batch:
            raise ValueError(
                f"KeyValueCache: holds {self._batch} sequences (clear_cache() forgets them), got "
                f"{batch}"
            )
        assert values is not None
        end = self.length + rows
        keys[:batch, :, self.length : end] = k.detach()
        values[:batch, :, self.length : end] = v.detach()
        self.length = end
        return keys[:batch, :, :end], values[:batch, :, :end]
