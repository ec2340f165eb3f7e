"""What the operators of a mixture of experts share: choices of experts, and where rows go."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernel_pytorch.ops.spec import Case

__all__ = [
    "SCORES",
    "bounded",
    "choices_of",
    "dispatched",
    "largest",
    "rows_of",
    "scores_of",
    "tokens_of",
]

SCORES = ("softmax", "sigmoid")

EVEN, RANDOM, ONE = 0, 1, 2
"""How a case spreads its tokens: in turn; at random; nearly all to one expert."""


def scores_of(logits: torch.Tensor, score: str) -> torch.Tensor:
    """The experts' scores of each token."""
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` largest of each row, largest first; the lower one where equal."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def bounded(
    op: str, name: str, values: torch.Tensor, least: int, count: int, of: str
) -> torch.Tensor:
    """``values``, all of which must be from ``least`` to below ``count``; ValueError otherwise.
    Tracers, whose tensors have no values, pass."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return values
    bad = ((values < least) | (values >= count)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{op}: argument '{name}' must be from {least} to {count - 1}, below the {count} {of}, "
            f"got {int(values[row, column])} at [{row}, {column}]"
        )
    return values


def dispatched(
    indices: torch.Tensor, num_experts: int, capacity: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choices in the order of their rows (t * K + j), where each expert's rows end, and the row of
    each choice (-1: dropped)."""
    flat = indices.reshape(-1)
    kept = torch.ones_like(flat, dtype=torch.bool)
    if capacity >= 0 and flat.numel():
        turn = indices.t().reshape(-1)  # all first choices, then all second ones
        place = torch.nn.functional.one_hot(turn, max(1, num_experts)).cumsum(0) - 1
        fits = place.gather(1, turn[:, None])[:, 0] < capacity
        kept = fits.view(indices.shape[1], indices.shape[0]).t().reshape(-1)
    order = flat.masked_fill(~kept, num_experts).sort(stable=True).indices[: int(kept.sum())]
    counts = torch.bincount(flat[kept], minlength=num_experts)
    row_of = torch.full_like(flat, -1)
    row_of[order] = torch.arange(len(order), device=flat.device)
    return order, counts.cumsum(0).to(torch.int32), row_of.view(indices.shape)


def rows_of(tokens: Any, top_k: Any, num_experts: int, capacity: int) -> Any:
    """How many rows the experts' input has."""
    rows = tokens * top_k
    return rows if capacity < 0 else torch.sym_min(rows, num_experts * capacity)


def tokens_of(case: Case) -> int:
    """The number of tokens of a case."""
    return math.prod(case.lead)


def choices_of(case: Case, generator: torch.Generator) -> torch.Tensor:
    """``[T, K]`` experts of a case with sizes E and K, each once in a row; "spread" says how."""
    tokens, experts, top_k = tokens_of(case), case.sizes["E"], case.sizes["top"]
    if tokens == 0 or experts == 0:
        return torch.zeros((tokens, top_k), dtype=torch.int64)
    spread = case.sizes.get("spread", RANDOM)
    if spread == EVEN:
        start = torch.arange(tokens)[:, None] * top_k
        return (start + torch.arange(top_k)) % experts
    values = torch.rand((tokens, experts), generator=generator)
    if spread == ONE:
        values[:, experts // 2] += 1.0
    return values.topk(top_k, dim=-1).indices
