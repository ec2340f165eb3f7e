"""Attention: ``nn.MultiheadAttention`` by type, Hugging Face models through their registration.

Hugging Face models look their attention up by the name in their config. :func:`registered` enters
``"kpt"`` in transformers' ``AttentionInterface`` and ``AttentionMaskInterface`` (the official way;
no existing entry changes), and :class:`AttentionSwitch` gives one model instance a config of its
own with that name.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from kernel_pytorch.optimize.kv_cache import lengths
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.recognize import LinearWeights, as_linear, hook_reason
from kernel_pytorch.optimize.replacement import Replacement
from kernel_pytorch.optimize.steps import LinearStep, attention_mask

__all__ = ["NAME", "AttentionSwitch", "MultiheadAttention", "find_attention", "registered"]

NAME = "kpt"
"""The name in transformers' registries ("kpt_bf16": computes in bfloat16 for any dtype)."""


class MultiheadAttention(Replacement):
    """``nn.MultiheadAttention`` as self-attention without returned weights."""

    kind = "attention"

    def __init__(self, module: Any, policy: Policy) -> None:
        biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        out = as_linear(module.out_proj)
        assert out is not None
        dtype = module.in_proj_weight.dtype
        qkv = LinearStep(module.in_proj_weight.chunk(3), biases, policy)
        output = LinearStep([out.weight], [out.bias], policy, emit=dtype)
        super().__init__(module, {"qkv": qkv, "output": output}, [module, module.out_proj])
        self.num_heads = module.num_heads
        self.batch_first = module.batch_first
        self.dtype = dtype
        self.compute_dtype = policy.dtype_for(dtype)
        self.qkv, self.out = qkv.forward, output.forward

    @property
    def ops(self) -> tuple[str, ...]:
        return (*super().ops, "attention_forward")

    def refuse(  # type: ignore[override]
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> str:
        if query is not key or key is not value:
            return "query, key and value are not one tensor"
        if need_weights:
            return "attention weights are asked for (need_weights=True)"
        if query.is_nested or query.dim() != 3 or query.dtype is not self.dtype:
            return f"the input is not a dense {self.dtype} tensor of three dimensions"
        if query.device.type != "cpu":
            return f"the input is on {query.device}"
        if key_padding_mask is not None and attn_mask is not None:
            return "both key_padding_mask and attn_mask are given"
        if attn_mask is not None and attn_mask.dim() != 2:
            return "attn_mask has a mask per head"
        return ""

    def run(  # type: ignore[override]
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:
        mask = attn_mask if key_padding_mask is None else key_padding_mask[:, None, None, :]
        if mask is not None and mask.dtype is torch.bool:
            mask = ~mask  # True means "not allowed" in nn.MultiheadAttention
        x = query if self.batch_first else query.transpose(0, 1).contiguous()
        batch, tokens, width = x.shape
        heads = self.qkv(x).view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mask = attention_mask(mask, self.compute_dtype)
        attended = torch.ops.kpt.attention_forward.default(q, k, v, mask=mask)[0]
        y = self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return (y if self.batch_first else y.transpose(0, 1)), None


def find_attention(module: nn.Module) -> LinearWeights | str | None:
    """The stacked projection of an ``nn.MultiheadAttention``; why it stays; None for others."""
    if type(module).forward is not nn.MultiheadAttention.forward:
        return None
    if hook_reason(module.out_proj):
        return f"out_proj: {hook_reason(module.out_proj)}"
    if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
        return "its projections are separate, or it adds keys of its own"
    if as_linear(module.out_proj) is None:
        return "its output projection is of another kind"
    return LinearWeights(weight=module.in_proj_weight, bias=module.in_proj_bias)


def _attention(
    compute_dtype: torch.dtype | None,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask_: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls; falls to transformers' SDPA one, which is
    recorded, for what the kernel does not cover (dropout, gradients, position bias, caches)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    extra = [n for n in ("position_bias", "cache", "s_aux") if kwargs.get(n) is not None]
    needs_grad = torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    )
    uncovered = "dropout is on" if dropout else "a gradient is needed" if needs_grad else ""
    uncovered = f"{extra[0]} is given" if extra else uncovered
    if query.device.type != "cpu":
        uncovered = f"the input is on {query.device}"
    if uncovered:
        _note(module, uncovered)
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask_,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return result
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(causal) and query.shape[2] > 1 and attention_mask_ is None
    if causal and key.shape[2] > query.shape[2]:
        # A prefill into a static cache: the keys past the queries are not filled yet.
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    dtype = compute_dtype or query.dtype
    if query.shape[2] == 1 and attention_mask_ is None:
        # One new token that sees everything in the cache.
        decoded = torch.ops.kpt.attention_decode.default(
            query.to(dtype),
            key.to(dtype),
            value.to(dtype),
            lengths(query.shape[0], key.shape[2]),
            scale=scaling,
            softcap=kwargs.get("softcap") or 0.0,
        )
        return decoded.transpose(1, 2).to(query.dtype).contiguous(), None
    out = torch.ops.kpt.attention_forward.default(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        mask=attention_mask(attention_mask_, dtype),
        scale=scaling,
        is_causal=causal,
        softcap=kwargs.get("softcap") or 0.0,
    )[0]
    return out.transpose(1, 2).to(query.dtype).contiguous(), None


def _note(module: nn.Module, reason: str) -> None:
    from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict

    name = f"attention ({type(module).__name__})"
    refuse_if_strict(name, "cpu", reason)
    record(DispatchRecord(name, "cpu", "original", "", reason))


def _mask(**kwargs: Any) -> torch.Tensor | None:
    """transformers' SDPA mask; for plain padding one row per sequence ``[B, 1, 1, S]`` instead of
    one per query."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    padding = kwargs.get("attention_mask")
    plain = kwargs.get("mask_function") is bidirectional_mask_function and not kwargs.get(
        "use_vmap"
    )
    kv_length = kwargs.get("kv_length")
    if plain and padding is not None and padding.dim() == 2 and padding.shape[1] == kv_length:
        padding = padding.to(torch.bool)
        if kwargs.get("allow_is_bidirectional_skip") and bool(padding.all()):
            return None
        return padding[:, None, None, :]
    mask: torch.Tensor | None = sdpa_mask(**kwargs)
    return mask


def registered(compute_dtype: torch.dtype | None = None) -> str:
    """Enter the attention in transformers' registries; its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface

    name = NAME if compute_dtype is None else f"{NAME}_bf16"
    AttentionInterface.register(name, functools.partial(_attention, compute_dtype))
    AttentionMaskInterface.register(name, _mask)
    return name


class AttentionSwitch:
    """One Hugging Face model instance's attention, by a config of its own."""

    kind = "attention"
    ops = ("attention_forward", "attention_decode")
    nbytes = 0

    def __init__(self, model: nn.Module, policy: Policy) -> None:
        self.config: Any = model.config
        self.holders = [m for m in model.modules() if m.__dict__.get("config") is self.config]
        self.own: Any = copy.deepcopy(self.config)
        self.own._attn_implementation = registered(policy.compute_dtype)

    def install(self) -> None:
        """Give the instance's modules the switched config."""
        for module in self.holders:
            module.__dict__["config"] = self.own

    def remove(self) -> None:
        """Give them the original config object back."""
        for module in self.holders:
            if module.__dict__.get("config") is self.own:
                module.__dict__["config"] = self.config

    @staticmethod
    def users(model: nn.Module) -> list[nn.Module]:
        """The modules that look their attention up by the model's config."""
        if AttentionSwitch.reason(model):
            return []
        return [m for m in model.modules() if type(m).__name__.endswith("Attention")]

    @staticmethod
    def reason(model: nn.Module) -> str:
        """Why a model's attention cannot be switched; "" when it can."""
        config = getattr(model, "config", None)
        if not hasattr(config, "_attn_implementation") or not hasattr(model, "can_generate"):
            return "not a Hugging Face model"
        used = config._attn_implementation
        if used not in ("sdpa", "eager"):
            return f"its attention implementation is {used!r}"
        if used == "eager" or getattr(config, "output_attentions", False):
            return "it was asked for the eager attention, which returns attention weights"
        if not any(type(m).__name__.endswith("Attention") for m in model.modules()):
            return "it has no attention module"
        check = getattr(type(model), "_can_set_attn_implementation", None)
        if check is not None and not check():
            return "its code does not use the attention registration"
        return ""
