"""Attention over a sequence that is split among processes, exact, forward and backward.

Each process holds consecutive tokens of every sequence, the first process the first ones, all the
same number. Keys and values travel around a ring (Liu, Zaharia and Abbeel, "Ring Attention with
Blockwise Transformers", 2023): while one block is worked on, the next is on its way, and no process
ever holds more than two. Partial results are put together by their log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = [
    "ContextParallelAttention",
    "ContextParallelConfig",
    "RingAttentionLayer",
    "create_context_parallel_attention",
    "create_ring_attention",
    "ring_attention",
]


class _Ring:
    """This process's place in a ring, and what it sends around it."""

    def __init__(self, group: Any) -> None:
        on = dist.is_available() and dist.is_initialized()
        self.group = group
        self.size = dist.get_world_size(group) if on else 1
        self.rank = dist.get_rank(group) if on else 0

    def start(self, tensors: tuple[torch.Tensor, ...]) -> tuple[list[torch.Tensor], list[Any]]:
        """Send ``tensors`` to the next process; (what comes from the one before, the requests)."""
        into = [torch.empty_like(t) for t in tensors]
        place = self._global
        ahead, behind = place((self.rank + 1) % self.size), place((self.rank - 1) % self.size)
        operations = []
        for sent, received in zip(tensors, into):
            operations.append(dist.P2POp(dist.isend, sent, ahead, self.group))
            operations.append(dist.P2POp(dist.irecv, received, behind, self.group))
        return into, dist.batch_isend_irecv(operations)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def blocks(self) -> list[int]:
        """Whose block is here at each step."""
        return [(self.rank - step) % self.size for step in range(self.size)]


def ring_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    group: Any = None,
) -> torch.Tensor:
    """``softmax(scale q K^T) V`` of this process's queries and the keys of all of ``group``.

    ``q`` ``[B, Hq, S, D]``, ``k`` and ``v`` ``[B, Hkv, S, D]``: this process's tokens, S the same
    everywhere. Without an initialized process group there is one process. Every process of the
    group must call it, also for the backward pass.

    Raises ValueError when the processes' lengths differ or shapes do not fit.
    """
    ring = _Ring(group)
    if k.shape[2] != q.shape[2] or v.shape[:3] != k.shape[:3] or q.dim() != 4:
        raise ValueError(
            f"ring_attention: q, k and v must be [B, H, S, D] with the same S, got "
            f"{list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    if ring.size > 1:
        lengths = [torch.zeros(1, dtype=torch.int64, device=q.device) for _ in range(ring.size)]
        dist.all_gather(lengths, torch.tensor([q.shape[2]], device=q.device), group=group)
        found = [int(n) for n in lengths]
        if len(set(found)) > 1:
            raise ValueError(f"ring_attention: every process must hold as many tokens, got {found}")
    scale = float(max(1, q.shape[-1])) ** -0.5 if scale is None else scale
    out: torch.Tensor = _RingAttention.apply(q, k, v, is_causal, scale, ring)
    return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        is_causal: bool,
        scale: float,
        ring: _Ring,
    ) -> torch.Tensor:
        block = [k.detach().contiguous(), v.detach().contiguous()]
        total = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float32, device=q.device)
        lse = torch.full(q.shape[:3], float("-inf"), device=q.device)
        for step, owner in enumerate(ring.blocks()):
            coming = ring.start((block[0], block[1])) if step + 1 < ring.size else None
            if not is_causal or owner <= ring.rank:
                part, part_lse = torch.ops.kpt.attention_forward.default(
                    q.detach(),
                    block[0],
                    block[1],
                    scale=scale,
                    is_causal=is_causal and owner == ring.rank,
                )
                both = torch.logaddexp(lse, part_lse)
                # Two parts without any key: their weights are 0, not exp(-inf + inf).
                base = both.masked_fill(both == float("-inf"), 0.0)
                total = total * torch.exp(lse - base)[..., None]
                total += part.float() * torch.exp(part_lse - base)[..., None]
                lse = both
            if coming is not None:
                block, requests = coming
                for request in requests:
                    request.wait()
        out = total.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.is_causal, ctx.scale, ctx.ring = is_causal, scale, ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        ring = ctx.ring
        g = grads[0].float()
        wide_q = q.float()
        # sum_j p_ij dp_ij of all keys is the same as g_i . out_i.
        delta = (g * out.float()).sum(-1, keepdim=True)
        grad_q = torch.zeros_like(wide_q)
        # A block's gradients travel with it, and are at home after a whole turn.
        carried = [
            k.detach().contiguous(),
            v.detach().contiguous(),
            torch.zeros(k.shape, dtype=torch.float32, device=k.device),
            torch.zeros(v.shape, dtype=torch.float32, device=v.device),
        ]
        group = q.shape[1] // max(1, k.shape[1])
        for owner in ring.blocks():
            if not ctx.is_causal or owner <= ring.rank:
                keys, values = (t.float().repeat_interleave(group, 1) for t in carried[:2])
                scores = wide_q @ keys.mT * ctx.scale
                if ctx.is_causal and owner == ring.rank:
                    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
                    scores = scores.masked_fill(hidden.triu(1), float("-inf"))
                p = torch.exp(scores - lse[..., None])
                ds = p * (g @ values.mT - delta) * ctx.scale
                grad_q += ds @ keys
                carried[2] += (ds.mT @ wide_q).unflatten(1, (-1, group)).sum(2)
                carried[3] += (p.mT @ g).unflatten(1, (-1, group)).sum(2)
            if ring.size > 1:
                carried, requests = ring.start(tuple(carried))
                for request in requests:
                    request.wait()
        grad_k, grad_v = carried[2].to(k.dtype), carried[3].to(v.dtype)
        return grad_q.to(q.dtype), grad_k, grad_v, None, None, None


@dataclass(frozen=True, kw_only=True)
class ContextParallelConfig:
    """A sequence split among processes. ``group`` is theirs (None: all)."""

    context_parallel_size: int | None = None
    """How many processes there must be; None: as many as there are."""
    group: Any = None


class RingAttentionLayer(nn.Module):
    """Multi-head attention on ``[batch, this process's tokens, d_model]``, over those of all."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        config: ContextParallelConfig | None = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(
                f"{type(self).__name__}: d_model must be divisible by num_heads = {num_heads}, got "
                f"{d_model}"
            )
        self.d_model, self.num_heads = d_model, num_heads
        self.config = config or ContextParallelConfig()
        wanted, found = self.config.context_parallel_size, _Ring(self.config.group).size
        if wanted is not None and wanted != found:
            raise ValueError(
                f"{type(self).__name__}: context_parallel_size is {wanted}, but there are {found} "
                f"processes"
            )
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(d_model, d_model, device=device) for _ in range(4)
        )

    def _attend(self, hidden_states: torch.Tensor, is_causal: bool) -> torch.Tensor:
        q, k, v = (
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = ring_attention(q, k, v, is_causal=is_causal, group=self.config.group)
        y: torch.Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return y

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        causal_mask: bool = True,
    ) -> Any:
        """(output, None). ValueError for an ``attention_mask``: it would have to be split too."""
        _refuse_mask(self, attention_mask)
        return self._attend(hidden_states, causal_mask), None


class ContextParallelAttention(RingAttentionLayer):
    """The same, by another name: returns the output alone, and is not causal by default."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        causal_mask: bool = False,
    ) -> torch.Tensor:
        _refuse_mask(self, attention_mask)
        return self._attend(hidden_states, causal_mask)


def _refuse_mask(module: nn.Module, mask: torch.Tensor | None) -> None:
    if mask is not None:
        raise ValueError(
            f"{type(module).__name__}: argument 'attention_mask' must be None: the sequence is "
            f"split among processes"
        )


def create_ring_attention(
    d_model: int,
    num_heads: int,
    max_sequence_length: int = 1_000_000,
    ring_size: int | None = None,
    device: Any = None,
) -> RingAttentionLayer:
    """A :class:`RingAttentionLayer` for ``ring_size`` processes (None: those there are). Nothing is
    sized by ``max_sequence_length``."""
    config = ContextParallelConfig(context_parallel_size=ring_size)
    return RingAttentionLayer(d_model, num_heads, config, device)


def create_context_parallel_attention(
    d_model: int, num_heads: int, context_parallel_size: int | None = None, device: Any = None
) -> ContextParallelAttention:
    """A :class:`ContextParallelAttention` for so many processes (None: those there are)."""
    config = ContextParallelConfig(context_parallel_size=context_parallel_size)
    return ContextParallelAttention(d_model, num_heads, config, device)
