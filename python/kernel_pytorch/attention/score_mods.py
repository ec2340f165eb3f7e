"""Score functions and block masks by name."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.attention.pattern import MaskMod, Pattern, ScoreMod, alibi_slopes

__all__ = [
    "NAMES",
    "FlexAttentionMaskGenerators",
    "FlexAttentionScoreMods",
    "named_score_mod",
]

NAMES = ("causal", "sliding_window", "causal_sliding_window", "alibi", "soft_cap")
"""What a ``score_mod`` may be called by."""


class FlexAttentionScoreMods:
    """The usual score functions. All but ``relative_position_bias`` are patterns a kernel knows.

    Windows are inclusive distances in keys. A position counts keys (see :class:`Pattern`).
    """

    causal = Pattern(is_causal=True)
    """No key behind the query."""

    @staticmethod
    def sliding_window(window_size: int) -> Pattern:
        """Keys up to ``window_size`` away, on both sides."""
        size = _not_negative("window_size", window_size)
        return Pattern(window_left=size, window_right=size)

    @staticmethod
    def causal_sliding_window(window_size: int) -> Pattern:
        """The query's own key and up to ``window_size`` before it."""
        return Pattern(is_causal=True, window_left=_not_negative("window_size", window_size))

    @staticmethod
    def alibi(num_heads: int, alibi_slopes: torch.Tensor | None = None) -> Pattern:
        """``score - slope[h] |q - kv|``, by default with the slopes of the ALiBi paper."""
        slopes = _slopes(num_heads) if alibi_slopes is None else alibi_slopes.float()
        if list(slopes.shape) != [num_heads]:
            raise ValueError(
                f"alibi: argument 'alibi_slopes' must have shape [{num_heads}], got "
                f"{list(slopes.shape)}"
            )
        return Pattern(alibi_slopes=slopes)

    @staticmethod
    def soft_cap(cap_value: float = 50.0) -> Pattern:
        """``cap * tanh(score / cap)`` (Gemma 2)."""
        if not 0.0 < cap_value < float("inf"):
            raise ValueError(f"soft_cap: argument 'cap_value' must be positive, got {cap_value}")
        return Pattern(softcap=float(cap_value))

    @staticmethod
    def document_masking(document_ids: torch.Tensor) -> Pattern:
        """Keys of the query's own document; ``document_ids`` is ``[S]`` or ``[B, S]``."""
        if document_ids.dim() not in (1, 2) or document_ids.is_floating_point():
            raise ValueError(
                f"document_masking: argument 'document_ids' must be integers [S] or [B, S], got "
                f"{document_ids.dtype} {list(document_ids.shape)}"
            )
        narrow = document_ids.dtype in (torch.int32, torch.int64)
        return Pattern(documents=document_ids if narrow else document_ids.long())

    @staticmethod
    def prefix_lm(prefix_length: int) -> Pattern:
        """The first ``prefix_length`` keys, and none behind the query (Raffel et al., 2020)."""
        return Pattern(is_causal=True, prefix_len=_not_negative("prefix_length", prefix_length))

    @staticmethod
    def relative_position_bias(
        max_distance: int = 128, table: torch.Tensor | None = None
    ) -> ScoreMod:
        """``score + table[..., clip(kv - q, -max, max) + max]``.

        ``table`` is ``[2 max + 1]`` or, one row a head, ``[H, 2 max + 1]``, and may be a parameter
        (gradients flow to it). Without one, ``score - min(|q - kv|, max) / max``.
        """
        if max_distance < 1:
            raise ValueError(
                f"relative_position_bias: argument 'max_distance' must be positive, got "
                f"{max_distance}"
            )
        if table is not None and table.shape[-1] != 2 * max_distance + 1:
            raise ValueError(
                f"relative_position_bias: argument 'table' must have {2 * max_distance + 1} "
                f"columns, got shape {list(table.shape)}"
            )

        def biased(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            away = torch.as_tensor(kv_idx - q_idx).clamp(-max_distance, max_distance)
            if table is None:
                return score - away.abs() / max_distance
            row = table[h] if table.dim() == 2 else table
            return score + row[away + max_distance]

        return biased


_slopes = alibi_slopes


class FlexAttentionMaskGenerators:
    """Block masks (``torch.nn.attention.flex_attention.BlockMask``) for FlexAttention itself."""

    @staticmethod
    def causal_mask(batch_size: int, num_heads: int, seq_len: int, device: Any) -> Any:
        """Keys not behind the query."""
        mask = FlexAttentionScoreMods.causal.mask
        return _block_mask(mask, batch_size, num_heads, seq_len, device)

    @staticmethod
    def sliding_window_mask(
        batch_size: int, num_heads: int, seq_len: int, window_size: int, device: Any
    ) -> Any:
        """Keys up to ``window_size`` away, on both sides."""
        mask = FlexAttentionScoreMods.sliding_window(window_size).mask
        return _block_mask(mask, batch_size, num_heads, seq_len, device)

    @staticmethod
    def full_mask(batch_size: int, num_heads: int, seq_len: int, device: Any) -> Any:
        """Every key."""
        return _block_mask(_everything, batch_size, num_heads, seq_len, device)


def _everything(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
    return torch.ones_like(q_idx, dtype=torch.bool)


def _block_mask(mask: MaskMod, batch: int, heads: int, length: int, device: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def function(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mask(b, h, q_idx, kv_idx)  # torch takes no bound method

    return create_block_mask(
        function, batch, heads, length, length, device=str(torch.device(device))
    )


def named_score_mod(name: str, num_heads: int, window_size: int | None) -> Pattern:
    """The score function called ``name``, with windows of ``window_size`` (default 256).

    Raises ValueError for another name.
    """
    window = 256 if window_size is None else window_size
    if name == "causal":
        return FlexAttentionScoreMods.causal
    if name == "sliding_window":
        return FlexAttentionScoreMods.sliding_window(window)
    if name == "causal_sliding_window":
        return FlexAttentionScoreMods.causal_sliding_window(window)
    if name == "alibi":
        return FlexAttentionScoreMods.alibi(num_heads)
    if name == "soft_cap":
        return FlexAttentionScoreMods.soft_cap()
    raise ValueError(f"attention: score_mod must be a function or one of {NAMES}, got {name!r}")


def _not_negative(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"attention: argument '{name}' must not be negative, got {value}")
    return value
