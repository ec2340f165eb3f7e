"""Experts: networks of one shape, of which a token passes a few.

Each takes ``[N, input_size]``, rows that have nothing to do with each other, or ``[B, S,
input_size]``, sequences. In a mixture experts get rows, so that convolution and attention see one
token at a time there and a token's output never depends on its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.mixture_of_experts.activated import ActivatedLinear, activate, activation_named

__all__ = [
    "AttentionExpert",
    "ConvolutionalExpert",
    "FeedForwardExpert",
    "HybridExpert",
    "ParameterEfficientExpert",
]


class FeedForwardExpert(nn.Module):
    """``W2 act(W1 norm(x))`` with dropout after the activation; ``use_layernorm`` adds the norm."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        dropout: float = 0.1,
        activation_fn: str = "relu",
        use_bias: bool = True,
        use_layernorm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        activation = activation_named(activation_fn, type(self).__name__)
        output_size = input_size if output_size is None else output_size
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(input_size, **to) if use_layernorm else nn.Identity()
        self.w_in = ActivatedLinear(input_size, hidden_size, use_bias, activation, **to)
        self.dropout = nn.Dropout(dropout)
        self.w_out = ActivatedLinear(hidden_size, output_size, use_bias, **to)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., input_size]`` to ``[..., output_size]``."""
        y: torch.Tensor = self.w_out(self.dropout(self.w_in(self.norm(x))))
        return y


class ConvolutionalExpert(nn.Module):
    """Residual convolutions along the sequence, between two linear layers."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        kernel_size: int = 3,
        num_layers: int = 2,
        dropout: float = 0.1,
        activation_fn: str = "relu",
        use_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"ConvolutionalExpert: kernel_size must be positive and odd, got {kernel_size}"
            )
        activation = activation_named(activation_fn, "ConvolutionalExpert")
        output_size = input_size if output_size is None else output_size
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.w_in = ActivatedLinear(input_size, hidden_size, use_bias, activation, **to)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden_size, hidden_size, kernel_size, padding="same", bias=use_bias, **to)
            for _ in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.w_out = ActivatedLinear(hidden_size, output_size, use_bias, **to)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, input_size]`` (rows apart) or ``[B, S, input_size]`` (along S)."""
        h = self.w_in(x[:, None] if x.dim() == 2 else x).transpose(1, 2)
        for convolution in self.convolutions:
            h = h + self.dropout(F.relu(convolution(h)))
        y: torch.Tensor = self.w_out(h.transpose(1, 2))
        return y[:, 0] if x.dim() == 2 else y


class AttentionExpert(nn.Module):
    """Self-attention over the sequence, ``hidden_size`` wide, then a linear layer."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        num_heads: int = 8,
        dropout: float = 0.1,
        use_bias: bool = True,
        max_seq_len: int = 2048,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads != 0:
            raise ValueError(
                f"AttentionExpert: hidden_size must be a multiple of the {num_heads} heads, "
                f"got {hidden_size}"
            )
        output_size = input_size if output_size is None else output_size
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads, self.max_seq_len, self.dropout = num_heads, max_seq_len, dropout
        self.qkv = ActivatedLinear(input_size, 3 * hidden_size, use_bias, **to)
        self.w_out = ActivatedLinear(hidden_size, output_size, use_bias, **to)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, input_size]`` (rows apart) or ``[B, S, input_size]`` (over S). ValueError for
        sequences longer than ``max_seq_len``."""
        sequences = x[:, None] if x.dim() == 2 else x
        if sequences.shape[1] > self.max_seq_len:
            raise ValueError(
                f"AttentionExpert: x must have at most max_seq_len = {self.max_seq_len} tokens, "
                f"got {sequences.shape[1]}"
            )
        qkv = self.qkv(sequences).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], dropout_p=dropout)
        y: torch.Tensor = self.w_out(h.transpose(1, 2).flatten(2))
        return y[:, 0] if x.dim() == 2 else y


class ParameterEfficientExpert(nn.Module):
    """A frozen feed-forward network and the few trained parameters beside it.

    ``adaptation_type`` "lora" adds a product of two matrices of ``rank`` to each of the two linear
    layers (Hu et al. 2021); "adapter" adds a bottleneck of ``rank`` features to the output (Houlsby
    et al. 2019); "none" trains the network itself. What is added starts at zero.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        rank: int = 32,
        dropout: float = 0.1,
        activation_fn: str = "relu",
        use_bias: bool = True,
        adaptation_type: str = "lora",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if adaptation_type not in ("lora", "adapter", "none"):
            raise ValueError(
                "ParameterEfficientExpert: adaptation_type must be lora, adapter or none, "
                f"got {adaptation_type!r}"
            )
        if rank < 1:
            raise ValueError(f"ParameterEfficientExpert: rank must be at least 1, got {rank}")
        self.adaptation_type = adaptation_type
        base = FeedForwardExpert(
            input_size,
            hidden_size,
            output_size,
            dropout,
            activation_fn,
            use_bias,
            device=device,
            dtype=dtype,
        )
        self.base = base.requires_grad_(adaptation_type == "none")
        self.activation = base.w_in.activation
        to: dict[str, Any] = {"device": device, "dtype": dtype}

        def pair(features_in: int, features_out: int, activation: str = "none") -> nn.Sequential:
            down = ActivatedLinear(features_in, rank, False, activation, **to)
            up = ActivatedLinear(rank, features_out, False, **to)
            nn.init.zeros_(up.weight)
            return nn.Sequential(down, up)

        wide, out = base.w_in.out_features, base.w_out.out_features
        if adaptation_type == "lora":
            self.lora_in, self.lora_out = pair(input_size, wide), pair(hidden_size, out)
        elif adaptation_type == "adapter":
            self.adapter = pair(out, out, "gelu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., input_size]`` to ``[..., output_size]``."""
        base = self.base
        if self.adaptation_type != "lora":
            y: torch.Tensor = base(x)
            return y + self.adapter(y) if self.adaptation_type == "adapter" else y
        t = torch.ops.kpt.linear_act(x, base.w_in.weight, base.w_in.bias) + self.lora_in(x)
        h = base.dropout(activate(t, self.activation))
        y = base.w_out(h)
        return y + self.lora_out(h)

    def get_parameter_count(self) -> dict[str, int]:
        """Numbers of parameters: "total", "trainable" and "frozen"."""
        total = sum(p.numel() for p in self.parameters())
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {"total": total, "trainable": trainable, "frozen": total - trainable}


_TYPES: dict[str, type[nn.Module]] = {
    "feedforward": FeedForwardExpert,
    "convolutional": ConvolutionalExpert,
    "attention": AttentionExpert,
    "parameter_efficient": ParameterEfficientExpert,
}


class HybridExpert(nn.Module):
    """Several kinds of experts side by side.

    ``expert_types`` gives each kind ("feedforward", "convolutional", "attention",
    "parameter_efficient"; default: the first two) the further arguments of its class.
    ``combination_method``: "concat" (a linear layer over all outputs), "sum", or "weighted" (a mean
    with learned weights, even at first).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        expert_types: dict[str, dict[str, Any]] | None = None,
        combination_method: str = "concat",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if expert_types is None:
            expert_types = {"feedforward": {}, "convolutional": {}}
        if not expert_types or not expert_types.keys() <= _TYPES.keys():
            raise ValueError(
                f"HybridExpert: expert_types must be some of {', '.join(_TYPES)}, "
                f"got {list(expert_types)}"
            )
        if combination_method not in ("concat", "sum", "weighted"):
            raise ValueError(
                "HybridExpert: combination_method must be concat, sum or weighted, "
                f"got {combination_method!r}"
            )
        output_size = input_size if output_size is None else output_size
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.combination_method = combination_method
        self.experts = nn.ModuleDict(
            {
                name: _TYPES[name](input_size, hidden_size, output_size, **options, **to)
                for name, options in expert_types.items()
            }
        )
        if combination_method == "concat":
            self.projection = ActivatedLinear(len(expert_types) * output_size, output_size, **to)
        elif combination_method == "weighted":
            self.mixing = nn.Parameter(torch.zeros(len(expert_types), **to))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., input_size]`` to ``[..., output_size]``."""
        outputs = [expert(x) for expert in self.experts.values()]
        if self.combination_method == "concat":
            y: torch.Tensor = self.projection(torch.cat(outputs, dim=-1))
            return y
        stacked = torch.stack(outputs, dim=-1)
        if self.combination_method == "sum":
            return stacked.sum(-1)
        return (stacked * self.mixing.softmax(0)).sum(-1)
