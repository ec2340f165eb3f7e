"""Transformers' key-value caches: new tokens in, everything out, without copying what is there.

``DynamicCache`` concatenates, which copies all keys and values of a layer for each token. Here its
layers keep their tensors as the used part of a buffer that is larger: the same values in the same
place, so that the cache stays what it is to everybody else. Other caches (static, sliding,
quantized) do their own update.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

__all__ = ["Stored", "append", "lengths"]

_BUFFER = "_kpt_buffer"
_GROWTH = 1.5
_LEAST = 64


class Stored(NamedTuple):
    """Keys and values of a layer, ``[B, heads, capacity, D]`` of which ``used`` are there."""

    keys: torch.Tensor
    values: torch.Tensor
    used: int


@functools.lru_cache(maxsize=8)
def lengths(batch: int, used: int) -> torch.Tensor:
    """The ``seq_lens`` of sequences of equal length; the same tensor for every layer of a model."""
    with torch.inference_mode(False):
        return torch.full((batch,), used)


def append(cache: Any, layer: int, k: torch.Tensor, v: torch.Tensor) -> Stored:
    """Put new tokens ``[B, heads, S, D]`` into layer ``layer`` of ``cache``."""
    found = _dynamic_layer(cache, layer)
    if found is None:
        keys, values = cache.update(k, v, layer)
        return Stored(keys, values, keys.shape[2])
    if not found.is_initialized:
        found.lazy_initialization(k, v)
    if found.dtype != k.dtype:  # filled by the model's own code before
        k, v = k.to(found.dtype), v.to(found.dtype)
    before = found.keys.shape[-2] if found.keys.dim() == 4 else 0
    used = before + k.shape[2]
    buffers = _buffers(found, before, used, k, v)
    for buffer, new in zip(buffers, (k, v)):
        buffer[:, :, before:used] = new
    found.keys, found.values = (b[:, :, :used] for b in buffers)
    return Stored(*buffers, used)


def _dynamic_layer(cache: Any, layer: int) -> Any:
    """The layer where it is one that just concatenates; None for all others."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if type(cache) is not DynamicCache or cache.offloading:
        return None
    if cache.layer_class_to_replicate is not None:
        while len(cache.layers) <= layer:
            cache.layers.append(cache.layer_class_to_replicate())
    found = cache.layers[layer]
    return found if type(found) is DynamicLayer else None


def _buffers(
    layer: Any, before: int, used: int, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Buffers with room for ``used`` tokens that hold the layer's first ``before``."""
    own = layer.__dict__.get(_BUFFER)
    # Beam search and the like give the layer new tensors: then these are what counts.
    if own is not None and own[0].shape[2] >= used and before > 0:
        same = all(
            mine.data_ptr() == theirs.data_ptr() and mine.shape[:2] == theirs.shape[:2]
            for mine, theirs in zip(own, (layer.keys, layer.values))
        )
        if same and own[0].shape[0] == k.shape[0]:
            return own
    capacity = max(_LEAST, int(used * _GROWTH))
    made = tuple(t.new_empty((*t.shape[:2], capacity, t.shape[3])) for t in (k, v))
    if before > 0:
        for buffer, old in zip(made, (layer.keys, layer.values)):
            buffer[:, :, :before] = old
    layer.__dict__[_BUFFER] = made
    return made[0], made[1]
