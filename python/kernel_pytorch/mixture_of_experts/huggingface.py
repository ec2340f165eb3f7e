"""Models of Hugging Face transformers with their experts in ``kpt::moe_ffn``.

>>> register_experts()
>>> model = AutoModelForCausalLM.from_pretrained(path, experts_implementation="kpt")
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["experts_forward", "register_experts"]

_PLAIN = {"relu": "relu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
_GATED = {"silu": "swiglu", "gelu": "geglu"}


def register_experts(name: str = "kpt") -> None:
    """Add :func:`experts_forward` to transformers' experts interface under ``name``, for
    ``experts_implementation=name`` and ``model.set_experts_implementation(name)``. ImportError
    where transformers is not installed or has no such interface (it came with version 5)."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(name, experts_forward)


def experts_forward(
    experts: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The forward of an experts module of transformers.

    Args:
        experts: with ``gate_up_proj`` ``[E, 2 F, D]`` (or ``up_proj`` ``[E, F, D]``) and
            ``down_proj`` ``[E, D, F]``, and their biases if any.
        hidden_states: ``[T, D]``.
        top_k_index, top_k_weights: ``[T, K]``.

    Raises:
        ValueError: for another layout of the weights, or an activation that ``kpt::moe_ffn`` does
            not have; such a model needs another ``experts_implementation``.
    """
    weight = experts.gate_up_proj if experts.has_gate else experts.up_proj
    bias = None
    if experts.has_bias:
        bias = experts.gate_up_proj_bias if experts.has_gate else experts.up_proj_bias
    y: torch.Tensor = torch.ops.kpt.moe_ffn(
        hidden_states,
        weight,
        experts.down_proj,
        top_k_weights.to(torch.float32),
        top_k_index,
        activation=_activation(experts),
        b_in=bias,
        b_out=experts.down_proj_bias if experts.has_bias else None,
    )
    return y


def _activation(experts: Any) -> str:
    from transformers.integrations.moe import _default_apply_gate

    name = type(experts).__name__
    for unlike, what in (
        (experts.is_transposed, "transposed weights"),
        (not experts.is_concatenated, "interleaved gates"),
        (experts.has_post_expert_norm, "a norm after each expert"),
        (experts._is_expert_parallel, "experts of other processes"),
        (
            experts.has_gate and type(experts)._apply_gate is not _default_apply_gate,
            "a gate of its own",
        ),
    ):
        if unlike:
            raise ValueError(f"experts_forward: {name} has {what}, which moe_ffn does not compute")
    known = _GATED if experts.has_gate else _PLAIN
    kind = getattr(experts.config, "hidden_act", None)
    if kind not in known:
        raise ValueError(
            f"experts_forward: hidden_act of {name} must be one of {', '.join(known)}, got {kind!r}"
        )
    return known[kind]
