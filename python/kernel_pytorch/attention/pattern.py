"""Attention patterns that kernels know, each also a score function and a mask function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["MaskMod", "Pattern", "ScoreMod", "alibi_slopes"]

ScoreMod = Callable[[Any, Any, Any, Any, Any], Any]
"""(score, batch, head, query position, key position) -> score, as in FlexAttention."""
MaskMod = Callable[[Any, Any, Any, Any], Any]
"""(batch, head, query position, key position) -> whether the query sees the key."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """What ``attention_forward`` can do by itself, as one value.

    Called like a FlexAttention ``score_mod`` it computes the same for one score or for tensors of
    them; :meth:`mask` is its ``mask_mod``. Positions count keys: query i of Sq stands at
    i + Sk - Sq, so that patterns hold with a cache as without.

    ``window_left`` and ``window_right`` are inclusive distances (-1: no limit); ``alibi_slopes``
    ``[H]`` float32 adds ``-slope |q - kv|``; ``documents`` ``[Sk]`` or ``[B, Sk]`` (int32, int64)
    are the document of each position; the first ``prefix_len`` keys are seen despite ``is_causal``;
    scores become ``softcap * tanh(score / softcap)`` before anything is added.
    """

    is_causal: bool = False
    window_left: int = -1
    window_right: int = -1
    softcap: float = 0.0
    alibi_slopes: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    prefix_len: int = 0

    def __call__(self, score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
        score = self.scores(torch.as_tensor(score), b, h, q_idx, kv_idx)
        if not self.masks:
            return score
        return torch.where(self.mask(b, h, q_idx, kv_idx), score, float("-inf"))

    @property
    def masks(self) -> bool:
        """Whether it hides any key."""
        windowed = self.window_left >= 0 or self.window_right >= 0
        return self.is_causal or windowed or self.documents is not None

    def scores(self, score: torch.Tensor, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
        """``score`` with soft cap and ALiBi."""
        if self.softcap > 0:
            score = self.softcap * torch.tanh(score / self.softcap)
        if self.alibi_slopes is not None:
            distance = torch.as_tensor(q_idx - kv_idx, device=score.device).abs()
            score = score - self.alibi_slopes[h].to(score.dtype) * distance
        return score

    def mask(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
        """Whether the query sees the key."""
        distance = torch.as_tensor(q_idx - kv_idx)
        seen = torch.ones_like(distance, dtype=torch.bool)
        if self.is_causal:
            seen = seen & ((distance >= 0) | torch.as_tensor(kv_idx < self.prefix_len))
        if self.window_left >= 0:
            seen = seen & (distance <= self.window_left)
        if self.window_right >= 0:
            seen = seen & (distance >= -self.window_right)
        if self.documents is not None:
            mine = self.documents[b] if self.documents.dim() == 2 else self.documents
            seen = seen & (mine[q_idx] == mine[kv_idx])
        return seen

    def __and__(self, other: Pattern) -> Pattern:
        """Both: what both let see, with the scores of whichever changes them.

        Raises ValueError when both set the soft cap, ALiBi or the documents.
        """

        def one(name: str, absent: Any) -> Any:
            found = [v for v in (getattr(self, name), getattr(other, name)) if v is not absent]
            if len(found) == 2 and found[0] is not found[1]:
                raise ValueError(f"attention: both patterns set {name}")
            return found[0] if found else absent

        def nearer(a: int, b: int) -> int:
            return max(a, b) if min(a, b) < 0 else min(a, b)

        caps = sorted({self.softcap, other.softcap})
        if caps[0] > 0 and len(caps) == 2:
            raise ValueError("attention: both patterns set softcap")
        prefixes = [p.prefix_len for p in (self, other) if p.is_causal]
        return Pattern(
            is_causal=bool(prefixes),
            window_left=nearer(self.window_left, other.window_left),
            window_right=nearer(self.window_right, other.window_right),
            softcap=caps[-1],
            alibi_slopes=one("alibi_slopes", None),
            documents=one("documents", None),
            prefix_len=min(prefixes, default=0),
        )

    def options(self, batch: int, seqlen_q: int, seqlen_k: int) -> dict[str, Any]:
        """The arguments of ``attention_forward`` that mean this pattern."""
        options: dict[str, Any] = {
            "is_causal": self.is_causal,
            "window_left": self.window_left,
            "window_right": self.window_right,
            "softcap": self.softcap,
            "alibi_slopes": self.alibi_slopes,
            "prefix_len": self.prefix_len,
        }
        if self.documents is not None:
            ids = self.documents if self.documents.dim() == 2 else self.documents[None]
            if ids.shape[1] < seqlen_k or ids.shape[0] not in (1, batch):
                raise ValueError(
                    f"attention: document ids must have shape [{seqlen_k}] or [{batch}, "
                    f"{seqlen_k}], got {list(self.documents.shape)}"
                )
            ids = ids[:, :seqlen_k].expand(batch, seqlen_k).contiguous()
            options["k_doc"] = ids
            options["q_doc"] = ids[:, seqlen_k - seqlen_q :].contiguous()
        return options

    def to(self, device: torch.device) -> Pattern:
        """The same with its tensors on ``device``."""

        def moved(t: torch.Tensor | None) -> torch.Tensor | None:
            return None if t is None else t.to(device)

        slopes, documents = moved(self.alibi_slopes), moved(self.documents)
        if slopes is self.alibi_slopes and documents is self.documents:
            return self
        return Pattern(
            **{**self.__dict__, "alibi_slopes": slopes, "documents": documents},
        )


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """The slopes of ALiBi, float32 ``[num_heads]`` (Press, Smith and Lewis, "Train Short, Test
    Long", 2022): a geometric sequence from ``2^(-8/n)`` for n a power of two; otherwise that of the
    power below, filled up with every other one of the power above."""

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    below = 1 << (num_heads.bit_length() - 1)
    slopes = geometric(below)
    if below != num_heads:
        slopes += geometric(2 * below)[0::2][: num_heads - below]
    return torch.tensor(slopes, dtype=torch.float32)
