"""Experts shared among processes: tokens travel to their experts and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kernel_pytorch.mixture_of_experts.experts import ExpertList, StackedExperts

__all__ = ["ExpertParallelism"]


class _Exchange(torch.autograd.Function):
    """``all_to_all_single`` of rows; the gradient travels the same way back."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int], group: Any
    ) -> torch.Tensor:
        ctx.splits, ctx.group = (sent, received), group
        out = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        sent, received = ctx.splits
        return _Exchange.apply(grads[0], received, sent, ctx.group), None, None, None


class ExpertParallelism(nn.Module):
    """``num_experts`` experts, of which each process of ``group`` holds an equal, contiguous part.

    Every process routes its own tokens; their rows are exchanged by ``all_to_all`` with uneven
    splits, computed where their experts are, exchanged back and combined: the results are those of
    one process with all experts. Without ``torch.distributed`` all experts are here. All processes
    must call it together, also those without tokens.

    The gradients of the experts are those of all processes' tokens, summed; divide the loss by the
    number of processes to match parameters whose gradients are averaged.

    Args:
        num_experts: in all processes together; a multiple of their number.
        experts: this process's own part, or all of them, of which it keeps its own.
        expert_parallel_size: if given, must be the number of processes of the group.
        all_to_all_communication: False computes here, with all the experts.
        group: of ``torch.distributed``; the default group unless given.
    """

    def __init__(
        self,
        num_experts: int,
        experts: nn.ModuleList | StackedExperts,
        expert_parallel_size: int | None = None,
        all_to_all_communication: bool = True,
        group: Any = None,
    ) -> None:
        super().__init__()
        there = all_to_all_communication and dist.is_available() and dist.is_initialized()
        self.world = dist.get_world_size(group) if there else 1
        self.rank = dist.get_rank(group) if there else 0
        self.num_experts, self.group = num_experts, group
        self.all_to_all_communication = all_to_all_communication
        if expert_parallel_size not in (None, self.world):
            raise ValueError(
                "ExpertParallelism: expert_parallel_size must be the number of processes, "
                f"{self.world}, got {expert_parallel_size}"
            )
        if num_experts < 1 or num_experts % self.world:
            raise ValueError(
                f"ExpertParallelism: num_experts must be a multiple of the {self.world} processes, "
                f"got {num_experts}"
            )
        own = num_experts // self.world
        if len(experts) not in (own, num_experts):
            raise ValueError(
                f"ExpertParallelism: experts must be this process's {own} or all {num_experts}, "
                f"got {len(experts)}"
            )
        if len(experts) == num_experts and self.world > 1:
            experts = _part(experts, self.rank * own, own)
        elif not isinstance(experts, (StackedExperts, ExpertList)):
            experts = ExpertList(experts)
        self.experts: StackedExperts | ExpertList = experts

    def forward(
        self,
        tokens: torch.Tensor,
        expert_indices: torch.Tensor,
        expert_weights: torch.Tensor,
        capacity_info: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The weighted outputs ``[T, D]`` for ``tokens`` ``[T, D]``, with ``expert_indices`` and
        ``expert_weights`` ``[T, K]``. With ``capacity_info`` each expert takes ``base_capacity`` of
        this process's choices."""
        capacity = -1 if capacity_info is None else int(capacity_info["base_capacity"])
        return self.dispatch(tokens, expert_weights, expert_indices, capacity)[0]

    def dispatch(
        self, x: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, capacity: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``StackedExperts.forward``: the output, and how many choices were dropped."""
        if self.world == 1:
            found: tuple[torch.Tensor, torch.Tensor] = self.experts(x, weights, indices, capacity)
            return found
        kpt = torch.ops.kpt
        rows, offsets, row_of = kpt.moe_dispatch(x, indices, self.num_experts, capacity=capacity)
        counts = offsets.diff(prepend=offsets.new_zeros(1)).view(self.world, -1)
        arriving = torch.empty_like(counts)
        dist.all_to_all_single(arriving, counts.contiguous(), group=self.group)
        sent, received = counts.sum(1).tolist(), arriving.sum(1).tolist()
        there = _Exchange.apply(rows[: sum(sent)], sent, received, self.group)
        # They arrive by process and, within a process, by expert.
        expert = torch.arange(counts.shape[1], device=x.device).repeat(self.world)
        expert = expert.repeat_interleave(arriving.flatten().long())[:, None]
        ordered, ends, place = kpt.moe_dispatch(there, expert, counts.shape[1])
        done = self.experts.run(ordered, ends)[place[:, 0]]
        back = _Exchange.apply(done, received, sent, self.group)
        y: torch.Tensor = kpt.moe_combine(back, row_of, weights)
        return y, (row_of < 0).sum()


def _part(
    experts: nn.ModuleList | StackedExperts, start: int, count: int
) -> StackedExperts | ExpertList:
    """Experts ``start`` to ``start + count`` of them all."""
    if not isinstance(experts, StackedExperts):
        return ExpertList(list(experts)[start : start + count])
    for name, parameter in list(experts.named_parameters()):
        part = parameter.detach()[start : start + count].clone()
        setattr(experts, name, nn.Parameter(part, parameter.requires_grad))
    return experts
