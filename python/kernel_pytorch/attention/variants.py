"""The names under which :class:`Attention` is known, and the registry of implementations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from kernel_pytorch.attention.config import AttentionConfig, AttentionPatterns
from kernel_pytorch.attention.module import Attention
from kernel_pytorch.attention.pattern import ScoreMod

__all__ = [
    "FLEX_ATTENTION_AVAILABLE",
    "ChunkedAttention",
    "FlashAttention2",
    "FlashAttention3",
    "FlexAttentionCausal",
    "FlexAttentionLayer",
    "FlexAttentionSlidingWindow",
    "LongSequenceAttention",
    "MemoryEfficientAttention",
    "clear_registry",
    "create_attention",
    "create_flash_attention",
    "create_flex_attention",
    "create_memory_efficient_attention",
    "get_attention_registry",
    "get_flex_attention_info",
    "is_flex_attention_available",
    "list_available_attention",
    "register_attention",
    "unregister_attention",
]

FLEX_ATTENTION_AVAILABLE = True
"""Every supported torch (2.11 or newer) has ``torch.nn.attention.flex_attention``."""

_registry: dict[str, type[Attention]] = {}
_Class = TypeVar("_Class", bound=type)


def register_attention(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: ``create_attention(config, name)`` makes it. ValueError for a taken name."""

    def register(cls: _Class) -> _Class:
        if _registry.get(name, cls) is not cls:
            raise ValueError(f"register_attention: {name!r} is {_registry[name].__name__} already")
        _registry[name] = cls
        return cls

    return register


@register_attention("flex_attention")
class FlexAttentionLayer(Attention):
    """:class:`Attention`, by its name among those with score functions."""


@register_attention("flex_attention_causal")
class FlexAttentionCausal(FlexAttentionLayer):
    """Causal whatever the configuration says."""

    def __init__(self, config: AttentionConfig, **kwargs: Any) -> None:
        super().__init__(dataclasses.replace(config, causal=True), **kwargs)


@register_attention("flex_attention_sliding_window")
class FlexAttentionSlidingWindow(FlexAttentionLayer):
    """``window_size`` keys on both sides (on the left with a causal configuration)."""

    def __init__(self, config: AttentionConfig, window_size: int = 256, **kwargs: Any) -> None:
        pattern = AttentionPatterns.SLIDING_WINDOW
        causal = config.causal or config.pattern is AttentionPatterns.CAUSAL
        config = dataclasses.replace(
            config, pattern=pattern, causal=causal, sliding_window_size=window_size
        )
        super().__init__(config, **kwargs)


@register_attention("flash_attention3")
class FlashAttention3(Attention):
    """:class:`Attention`, by its name among those without score functions."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)


@register_attention("flash_attention2")
class FlashAttention2(FlashAttention3):
    """The same kernel: which version of the algorithm runs is the dispatch's choice."""


# No kernel of ours stores the scores: each of these is what its name says.
MemoryEfficientAttention = ChunkedAttention = LongSequenceAttention = FlashAttention3
register_attention("memory_efficient_attention")(FlashAttention3)
_built_in = dict(_registry)


def get_attention_registry() -> dict[str, type[Attention]]:
    """The implementations by name; a copy."""
    return dict(_registry)


def list_available_attention() -> list[str]:
    """The names of the implementations."""
    return sorted(_registry)


def unregister_attention(name: str) -> None:
    """Forget an implementation. ValueError for a name that is not registered."""
    if name not in _registry:
        raise ValueError(f"unregister_attention: no {name!r} among {list_available_attention()}")
    del _registry[name]


def clear_registry() -> None:
    """Forget all implementations but those of this package."""
    _registry.clear()
    _registry.update(_built_in)


def create_attention(
    config: AttentionConfig, implementation: str | None = None, **kwargs: Any
) -> Attention:
    """An attention module; ``kwargs`` go to its class.

    Without a name: ``flex_attention`` when a score or mask function is given, else
    ``flash_attention3``. ValueError for an unknown name.
    """
    if implementation is None:
        implementation = "flex_attention" if kwargs else "flash_attention3"
    if implementation not in _registry:
        raise ValueError(
            f"create_attention: argument 'implementation' must be one of "
            f"{list_available_attention()}, got {implementation!r}"
        )
    return _registry[implementation](config, **kwargs)


def create_flex_attention(
    embed_dim: int,
    num_heads: int,
    pattern: str | AttentionPatterns = "full",
    score_mod: str | ScoreMod | None = None,
    **kwargs: Any,
) -> FlexAttentionLayer:
    """A :class:`FlexAttentionLayer`; ``kwargs`` are fields of :class:`AttentionConfig`."""
    config = AttentionConfig(
        embed_dim=embed_dim, num_heads=num_heads, pattern=AttentionPatterns(pattern), **kwargs
    )
    return FlexAttentionLayer(config, score_mod=score_mod)


def create_flash_attention(embed_dim: int, num_heads: int, **kwargs: Any) -> Attention:
    """A :class:`FlashAttention3`; ``kwargs`` are fields of :class:`AttentionConfig`."""
    return FlashAttention3(AttentionConfig(embed_dim=embed_dim, num_heads=num_heads, **kwargs))


create_memory_efficient_attention = create_flash_attention


def is_flex_attention_available() -> bool:
    """Whether PyTorch has FlexAttention."""
    return FLEX_ATTENTION_AVAILABLE


def get_flex_attention_info() -> dict[str, Any]:
    """What is there: ``available``, ``torch_version``, ``supported_patterns``."""
    return {
        "available": FLEX_ATTENTION_AVAILABLE,
        "torch_version": torch.__version__,
        "supported_patterns": [
            "full",
            "causal",
            "sliding_window",
            "causal_sliding_window",
            "alibi",
            "document_masking",
            "prefix_lm",
            "soft_cap",
            "custom",
        ],
    }
