"""All experts of a layer: feed-forward ones as stacked weights, any others as modules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.mixture_of_experts.activated import activate, activation_named, gated

__all__ = ["ExpertList", "StackedExperts", "through_experts"]


def through_experts(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    num_experts: int,
    capacity: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens to their experts and back: the output ``[T, D]`` and how many choices were dropped.

    ``run(rows, offsets)`` gives what the experts make of rows sorted by expert.
    """
    rows, offsets, row_of = torch.ops.kpt.moe_dispatch(x, indices, num_experts, capacity=capacity)
    y: torch.Tensor = torch.ops.kpt.moe_combine(run(rows, offsets), row_of, weights)
    return y, (row_of < 0).sum()


class StackedExperts(nn.Module):
    """Feed-forward experts ``W2[e] act(W1[e] x + b1[e]) + b2[e]`` in two stacked weights.

    Parameters: ``w_in`` ``[E, F, D]`` (``[E, 2 F, D]`` with a gate), ``w_out`` ``[E, D, F]``,
    ``b_in`` and ``b_out`` to match. ``experts[e]`` calls one expert.
    """

    def __init__(
        self,
        num_experts: int,
        input_size: int,
        hidden_size: int,
        dropout: float = 0.0,
        activation_fn: str = "relu",
        use_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation_named(activation_fn, "StackedExperts")
        self.dropout = dropout
        wide = 2 * hidden_size if gated(self.activation) else hidden_size

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_experts, *shape, device=device, dtype=dtype))

        self.w_in, self.w_out = parameter(wide, input_size), parameter(input_size, hidden_size)
        self.register_parameter("b_in", parameter(wide) if use_bias else None)
        self.register_parameter("b_out", parameter(input_size) if use_bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values as in ``nn.Linear``."""
        for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
            bound = 1 / math.sqrt(max(1, weight.shape[2]))
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def __len__(self) -> int:
        return len(self.w_in)

    def __getitem__(self, expert: int) -> Callable[[torch.Tensor], torch.Tensor]:
        if not -len(self) <= expert < len(self):
            raise IndexError(f"StackedExperts: no expert {expert} of {len(self)}")

        def call(x: torch.Tensor) -> torch.Tensor:
            b_in = None if self.b_in is None else self.b_in[expert]
            b_out = None if self.b_out is None else self.b_out[expert]
            h = activate(torch.ops.kpt.linear_act(x, self.w_in[expert], b_in), self.activation)
            h = F.dropout(h, self.dropout, self.training)
            y: torch.Tensor = torch.ops.kpt.linear_act(h, self.w_out[expert], b_out)
            return y

        return call

    def run(self, rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """The experts' outputs for rows sorted by expert, expert ``e``'s up to ``offsets[e]``."""
        place = torch.arange(len(rows), device=rows.device)
        expert = torch.searchsorted(offsets, place, right=True).clamp(max=len(self) - 1)
        t = torch.ops.kpt.grouped_gemm(rows, self.w_in, offsets)
        if self.b_in is not None:
            t = t + self.b_in[expert]
        h = F.dropout(activate(t, self.activation), self.dropout, self.training)
        y: torch.Tensor = torch.ops.kpt.grouped_gemm(h, self.w_out, offsets)
        return y if self.b_out is None else y + self.b_out[expert]

    def forward(
        self, x: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, capacity: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` ``[T, D]``, ``weights`` and ``indices`` ``[T, K]``: the weighted outputs ``[T, D]``
        and the number of choices dropped (0 for capacity -1)."""
        drops_out = self.training and self.dropout > 0
        if capacity >= 0 or drops_out or self.activation == "mish":
            return through_experts(self.run, x, weights, indices, len(self), capacity)
        y = torch.ops.kpt.moe_ffn(
            x,
            self.w_in,
            self.w_out,
            weights,
            indices,
            activation=self.activation,
            b_in=self.b_in,
            b_out=self.b_out,
        )
        return y, indices.new_zeros(())

    def extra_repr(self) -> str:
        experts, width, hidden = self.w_out.shape
        return f"{experts} x {width}-{hidden}, activation={self.activation}, dropout={self.dropout}"


class ExpertList(nn.ModuleList):
    """Experts of any kind, called one after the other on their rows."""

    def run(self, rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """As :meth:`StackedExperts.run`. Idle experts are called with no rows: that costs nothing
        and gives their parameters a gradient of zero."""
        ends = offsets.tolist()
        outputs = [
            expert(rows[start:end]) for expert, start, end in zip(self, [0, *ends[:-1]], ends)
        ]
        rest = rows[ends[-1] :]  # past the last expert: 0, and asked for by nobody
        return torch.cat([*outputs, rest]) if len(rest) else torch.cat(outputs)

    def forward(
        self, x: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, capacity: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`StackedExperts.forward`."""
        return through_experts(self.run, x, weights, indices, len(self), capacity)
