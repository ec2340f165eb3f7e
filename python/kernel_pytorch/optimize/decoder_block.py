"""A whole decoder layer with its key-value cache: GPT-2's, and those built like Llama's.

Recognized by exactly their parts: ``ln_1, attn.{c_attn,c_proj}, ln_2, mlp.{c_fc,c_proj,act}``, or
``input_layernorm, self_attn.{q,k,v,o}_proj, post_attention_layernorm, mlp.{gate,up,down}_proj,
act_fn`` (Llama, Mistral, Qwen2 and the like, with grouped heads and rotary positions). What such a
layer computes beyond them shows when its output is compared with the original's.

The cache is the caller's: dynamic, static or sliding, whatever transformers made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernel_pytorch.optimize import kv_cache
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.recognize import (
    LinearWeights,
    NormWeights,
    activation_kind,
    as_linear,
    as_norm,
    hook_reason,
)
from kernel_pytorch.optimize.steps import AddNormStep, LinearStep, NormStep, attention_mask
from kernel_pytorch.optimize.stream import StreamBlock

__all__ = ["DecoderBlock", "DecoderParts", "find_decoder", "without_cache"]

_MASKED_AS_SDPA = ("sdpa", "kpt", "kpt_bf16")
"""Names of attention implementations whose masks are boolean or added, and have four dimensions."""

_POSITIONAL = {
    "gpt2": ("past_key_values", "attention_mask", "encoder_hidden_states"),
    "llama": ("attention_mask", "position_ids", "past_key_values", "use_cache"),
}
# Arguments that change nothing in the layer.
_HARMLESS = frozenset(
    ("cache_position", "position_ids", "use_cache", "output_attentions", "output_hidden_states")
)
_KNOWN = frozenset(("attention_mask", "past_key_values", "position_embeddings"))


@dataclass(frozen=True, kw_only=True)
class DecoderParts:
    """The parts of a decoder layer, whatever its class calls them."""

    module: nn.Module
    style: str
    """How it is called: "gpt2" or "llama"."""
    attention: Any
    """The attention module, for what it says of itself."""
    qkv: list[LinearWeights]
    output: LinearWeights
    up: list[LinearWeights]
    """One, or gate and up."""
    down: LinearWeights
    attention_norm: NormWeights
    mlp_norm: NormWeights
    activation: str
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype


class DecoderBlock(StreamBlock):
    """Norm, QKV in one product, rotation, cache, attention, output, residual + norm, MLP."""

    kind = "decoder block"

    def __init__(self, parts: DecoderParts, policy: Policy) -> None:
        dtype = policy.dtype_for(parts.dtype)

        def linear(weights: list[LinearWeights], activation: str = "none") -> LinearStep:
            return LinearStep(
                [w.weight for w in weights], [w.bias for w in weights], policy, activation
            )

        def norm(w: NormWeights, step: type[NormStep]) -> NormStep:
            return step(w.kind, w.weight, w.bias, w.eps, dtype)

        steps: dict[str, nn.Module] = {
            "attention_norm": norm(parts.attention_norm, NormStep),
            "qkv": linear(parts.qkv),
            "output": linear([parts.output]),
            "mlp_norm": norm(parts.mlp_norm, AddNormStep),
            "up": linear(parts.up, parts.activation),
            "down": linear([parts.down]),
        }
        super().__init__(parts.module, steps, parts.dtype, dtype)
        self.style = parts.style
        self.attention = parts.attention
        self.layer: int = parts.attention.layer_idx
        self.scale = float(parts.attention.scaling)
        self.head_dim = parts.head_dim
        self.heads = (parts.num_heads, parts.num_kv_heads, parts.num_kv_heads)
        self.attention_norm = steps["attention_norm"].forward
        self.qkv, self.out = steps["qkv"].forward, steps["output"].forward
        self.mlp_norm = steps["mlp_norm"].forward
        self.up, self.down = steps["up"].forward, steps["down"].forward

    @property
    def ops(self) -> tuple[str, ...]:
        norm, linear, *rest = super().ops
        rotation = ("rope",) if self.style == "llama" else ()
        return (norm, linear, *rotation, "attention_forward", "attention_decode", *rest)

    def refuse(self, hidden: Any = None, *args: Any, **kwargs: Any) -> str:
        if reason := self.refuse_stream(hidden):
            return reason
        given = _named(self.style, args, kwargs)
        if given is None:
            return "it is called with more arguments than it is known to take"
        for name in given.keys() - _HARMLESS - _KNOWN:
            if given[name] is not None and given[name] is not False:
                return f"{name} is given"
        if given.get("output_attentions") or _is_watched(self.attention):
            return "its attention weights are asked for"
        mask = given.get("attention_mask")
        if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 4):
            return "the attention mask does not have four dimensions"
        used = self.attention.config._attn_implementation
        if used not in _MASKED_AS_SDPA:
            return f"its attention implementation is {used!r}"
        cache = given.get("past_key_values")
        if cache is not None and hasattr(cache, "cross_attention_cache"):
            return "the cache holds cross-attention as well"
        if self.style == "gpt2":
            return ""
        tables = given.get("position_embeddings")
        if not isinstance(tables, tuple) or tables[0].shape[-1] != self.head_dim:
            return "its rotary tables are not those of whole heads"
        return ""

    def run(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = _named(self.style, args, kwargs)
        assert given is not None
        x = self.start(hidden)
        batch, tokens, _ = x.shape
        rows = self.qkv(self.attention_norm(x)).view(batch, tokens, -1, self.head_dim)
        q, k, v = rows.transpose(1, 2).split(self.heads, dim=1)
        tables = given.get("position_embeddings")
        if tables is not None:
            cos, sin = (t if t.dtype is self.dtype else t.float() for t in tables)
            q, k = torch.ops.kpt.rope.default(q, k, cos, sin)
        attended = self._attend(q, k, v, given)
        y = self.out(attended.transpose(1, 2).reshape(batch, tokens, -1))
        normed, total = self.mlp_norm(y, x)
        return self.finish(total + self.down(self.up(normed)))

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, given: dict[str, Any]
    ) -> torch.Tensor:
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        tokens = q.shape[2]
        if cache is None:
            stored = kv_cache.Stored(k, v, tokens)
        else:
            stored = kv_cache.append(cache, self.layer, k, v)
        keys, values, used = stored
        if keys.dtype is not self.dtype:
            keys, values = keys.to(self.dtype), values.to(self.dtype)
        if mask is None and tokens == 1:
            lens = kv_cache.lengths(q.shape[0], used)
            decoded: torch.Tensor = torch.ops.kpt.attention_decode.default(
                q, keys, values, lens, scale=self.scale
            )
            return decoded
        # Without a mask the new tokens are the first ones, perhaps of a static cache.
        end = tokens if mask is None else used
        out: torch.Tensor = torch.ops.kpt.attention_forward.default(
            q,
            keys[:, :, :end],
            values[:, :, :end],
            mask=attention_mask(mask, self.dtype),
            scale=self.scale,
            is_causal=mask is None,
        )[0]
        return out

    def repeatable(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        changed = without_cache(self.style, args, kwargs)
        if changed is None:
            return args, kwargs, output
        return *changed, self.run_original(*changed[0], **changed[1])


def _is_watched(attention: nn.Module) -> bool:
    """Whether a hook wants to see what the attention gives."""
    hooks = attention._forward_hooks
    if not hooks:
        return False
    from transformers.utils import output_capturing

    # transformers leaves its own hooks behind; they do nothing unless weights are asked for.
    if any(getattr(h, "__module__", "") != output_capturing.__name__ for h in hooks.values()):
        return True
    collected = output_capturing._active_collector.get()
    return collected is not None and any(n.endswith("attentions") for n in collected)


def _named(style: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The layer's arguments behind the stream, by name; None when there are too many."""
    if not args:
        return kwargs
    names = _POSITIONAL[style]
    return {**dict(zip(names, args)), **kwargs} if len(args) <= len(names) else None


def without_cache(
    style: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The same call with nothing cached before it and nothing kept; None when it has no cache.

    ``args`` include the stream. What the call computes is the same if the cache was empty.
    """
    given = _named(style, args[1:], kwargs)
    if given is None or given.get("past_key_values") is None:
        return None
    mask = given.get("attention_mask")
    if mask is not None:
        tokens = args[0].shape[1]
        given = {**given, "attention_mask": mask[..., :tokens, :tokens]}
    return args[:1], {**given, "past_key_values": None, "use_cache": False}


def find_decoder(module: nn.Module) -> DecoderParts | str | None:
    """The parts of a decoder layer; why one cannot be replaced; None for another module."""
    if not type(module).__module__.startswith("transformers.models."):
        return None
    children = {name: child for name, child in module.named_modules() if name}
    for style, linears, norms, others, act in _STYLES:
        expected = {*linears, *norms, *others, act}
        inside = {n for n in children if not n.startswith(f"{act}.")}
        if inside == expected and not any(children[n]._parameters for n in (*others, act)):
            return _parts(module, children, style, linears, norms, act)
    return None


_STYLES = (
    (
        "gpt2",
        ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        ("ln_1", "ln_2"),
        ("attn", "attn.attn_dropout", "attn.resid_dropout", "mlp", "mlp.dropout"),
        "mlp.act",
    ),
    (
        "llama",
        (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ),
        ("input_layernorm", "post_attention_layernorm"),
        ("self_attn", "mlp"),
        "mlp.act_fn",
    ),
)


def _parts(
    module: nn.Module,
    children: dict[str, nn.Module],
    style: str,
    linear_names: tuple[str, ...],
    norm_names: tuple[str, ...],
    act: str,
) -> DecoderParts | str:
    for name, child in children.items():
        if reason := hook_reason(child):
            return f"{name}: {reason}"
    attention: Any = children["attn" if style == "gpt2" else "self_attn"]
    if not isinstance(getattr(attention, "layer_idx", None), int):
        return "its attention does not know its layer"
    found = [as_linear(children[n]) for n in linear_names]
    linears = [linear for linear in found if linear is not None]
    norms = [norm for n in norm_names if (norm := as_norm(children[n])) is not None]
    activation = activation_kind(children[act])
    if len(linears) < len(linear_names) or len(norms) < len(norm_names):
        return "it has norms or linears of another kind"
    if activation is None:
        return "its activation has no kernel"
    if style == "gpt2":
        qkv, output, up, down = linears[:1], linears[1], linears[2:3], linears[3]
        heads = kv_heads = attention.num_heads
    else:
        gated = {"silu": "swiglu", "gelu": "geglu"}.get(activation)
        if gated is None:
            return f"it has a gate of {activation}"
        activation = gated
        qkv, output, up, down = linears[:3], linears[3], linears[4:6], linears[6]
        heads = linears[0].weight.shape[0] // attention.head_dim
        kv_heads = linears[1].weight.shape[0] // attention.head_dim
    return DecoderParts(
        module=module,
        style=style,
        attention=attention,
        qkv=qkv,
        output=output,
        up=up,
        down=down,
        attention_norm=norms[0],
        mlp_norm=norms[1],
        activation=activation,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=attention.head_dim,
    )
