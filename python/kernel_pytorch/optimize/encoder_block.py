"""A whole transformer encoder block as seven kernel calls, with the residual stream in one dtype.

Recognized: ``nn.TransformerEncoderLayer``, and Hugging Face's post-norm layers built like BERT's
(``attention.self.{query,key,value}``, ``attention.output``, ``intermediate``, ``output``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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

__all__ = ["BlockParts", "EncoderBlock", "find_block"]


@dataclass(frozen=True, kw_only=True)
class BlockParts:
    """The parts of an encoder block, whatever its class calls them."""

    module: nn.Module
    style: str
    """How it is called: "bert" or "torch"."""
    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    output: LinearWeights
    up: LinearWeights
    down: LinearWeights
    attention_norm: NormWeights
    mlp_norm: NormWeights
    activation: str
    num_heads: int
    norm_first: bool = False
    batch_first: bool = True

    @property
    def dtype(self) -> torch.dtype:
        return self.query.weight.dtype


class EncoderBlock(StreamBlock):
    """QKV in one product, attention, output, residual + norm, MLP with fused activation."""

    kind = "encoder block"

    def __init__(self, parts: BlockParts, policy: Policy) -> None:
        dtype = policy.dtype_for(parts.dtype)
        qkv = [parts.query, parts.key, parts.value]

        def linear(weights: list[LinearWeights], activation: str = "none") -> LinearStep:
            return LinearStep(
                [w.weight for w in weights], [w.bias for w in weights], policy, activation
            )

        def norm(w: NormWeights, step: type[NormStep]) -> NormStep:
            return step(w.kind, w.weight, w.bias, w.eps, dtype)

        steps: dict[str, nn.Module] = {
            "qkv": linear(qkv),
            "attention": nn.Identity(),
            "output": linear([parts.output]),
            "up": linear([parts.up], parts.activation),
            "down": linear([parts.down]),
        }
        if parts.norm_first:
            # The sum before the MLP feeds its norm; the first norm has no sum before it.
            steps["attention_norm"] = norm(parts.attention_norm, NormStep)
            steps["mlp_norm"] = norm(parts.mlp_norm, AddNormStep)
        else:
            steps["attention_norm"] = norm(parts.attention_norm, AddNormStep)
            steps["mlp_norm"] = norm(parts.mlp_norm, AddNormStep)
        del steps["attention"]
        super().__init__(parts.module, steps, parts.dtype, dtype)
        self.style = parts.style
        self.num_heads = parts.num_heads
        self.norm_first = parts.norm_first
        self.batch_first = parts.batch_first
        self.qkv, self.out = steps["qkv"].forward, steps["output"].forward
        self.up, self.down = steps["up"].forward, steps["down"].forward
        self.attention_norm = steps["attention_norm"].forward
        self.mlp_norm = steps["mlp_norm"].forward

    @property
    def ops(self) -> tuple[str, ...]:
        found = super().ops
        return (found[0], "attention_forward", *found[1:])

    def refuse(self, hidden: Any = None, *args: Any, **kwargs: Any) -> str:
        if reason := self.refuse_stream(hidden):
            return reason
        if self.style == "torch":
            return self._refuse_torch(*args, **kwargs)
        return _refuse_bert(*args, **kwargs)

    def _refuse_torch(
        self,
        src_mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> str:
        if src_mask is not None and src_mask.dim() != 2:
            return "src_mask has a mask per head"
        if src_mask is not None and src_key_padding_mask is not None:
            return "both src_mask and src_key_padding_mask are given"
        return ""

    def run(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.style == "torch":
            return self._run_torch(hidden, *args, **kwargs)
        mask = args[0] if args else kwargs.get("attention_mask")
        return self.finish(self._block(self.start(hidden), mask))

    def _run_torch(
        self,
        src: torch.Tensor,
        src_mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        # nn.TransformerEncoderLayer: a boolean mask is True where attention is not allowed, and
        # is_causal is only a hint about src_mask.
        mask = src_mask
        if src_key_padding_mask is not None:
            mask = src_key_padding_mask[:, None, None, :]
        if mask is not None and mask.dtype is torch.bool:
            mask = ~mask
        x = self.start(src)
        if not self.batch_first:
            x = x.transpose(0, 1).contiguous()
        x = self._block(x, mask)
        return self.finish(x if self.batch_first else x.transpose(0, 1))

    def _block(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, tokens, width = x.shape
        if mask is not None:
            mask = attention_mask(mask, self.dtype)
        qkv = self.qkv(self.attention_norm(x) if self.norm_first else x)
        heads = qkv.view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = torch.ops.kpt.attention_forward.default(q, k, v, mask=mask)[0]
        y = self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        if self.norm_first:
            normed, total = self.mlp_norm(y, x)
            return total + self.down(self.up(normed))
        x = self.attention_norm(y, x)[0]
        return self.mlp_norm(self.down(self.up(x)), x)[0]


# Arguments that change nothing in the layer: positions are in its input, the others are about what
# the model returns.
_HARMLESS = frozenset(
    ("cache_position", "output_hidden_states", "position_ids", "return_dict", "use_cache")
)


def _refuse_bert(attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> str:
    if any(a is not None for a in args):
        return "more than an attention mask is given"
    for name in kwargs.keys() - _HARMLESS:
        if kwargs[name] is not None and kwargs[name] is not False:
            return f"{name} is given"
    if attention_mask is not None and attention_mask.dim() != 4:
        return "the attention mask does not have four dimensions"
    return ""


def find_block(module: nn.Module) -> BlockParts | str | None:
    """The parts of an encoder block; why a block cannot be replaced; None for another module."""
    if type(module).forward is nn.TransformerEncoderLayer.forward:
        return _torch_block(module)
    if type(module).__module__.startswith("transformers.models."):
        return _bert_block(module)
    return None


def _inside_reason(module: nn.Module) -> str:
    for name, child in module.named_modules():
        reason = hook_reason(child) if name else ""
        if reason:
            return f"{name}: {reason}"
    return ""


def _torch_block(module: Any) -> BlockParts | str:
    attention = module.self_attn
    if reason := _inside_reason(module):
        return reason
    if not attention._qkv_same_embed_dim or attention.bias_k is not None:
        return "its attention has separate or biased key/value projections"
    if attention.add_zero_attn:
        return "its attention adds a zero key"
    activation = activation_kind(module.activation)
    norms = [as_norm(module.norm1), as_norm(module.norm2)]
    linears = [as_linear(m) for m in (attention.out_proj, module.linear1, module.linear2)]
    if activation is None:
        return "its activation has no kernel"
    if None in norms or None in linears:
        return "it has norms or linears of another kind"
    weights = attention.in_proj_weight.chunk(3)
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    query, key, value = (LinearWeights(weight=w, bias=b) for w, b in zip(weights, biases))
    return BlockParts(
        module=module,
        style="torch",
        query=query,
        key=key,
        value=value,
        output=linears[0],
        up=linears[1],
        down=linears[2],
        attention_norm=norms[0],
        mlp_norm=norms[1],
        activation=activation,
        num_heads=attention.num_heads,
        norm_first=module.norm_first,
        batch_first=attention.batch_first,
    )


_BERT_LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_BERT_OTHERS = (
    "attention",
    "attention.self",
    "attention.self.dropout",
    "attention.output",
    "attention.output.dropout",
    "intermediate",
    "intermediate.intermediate_act_fn",
    "output",
    "output.dropout",
)


def _bert_block(module: nn.Module) -> BlockParts | str | None:
    # Exactly these parts: a layer with more (cross-attention, adapters, relative positions, a norm
    # before the attention) does something else.
    children = {name: child for name, child in module.named_modules() if name}
    names = {n for n in children if not n.startswith("intermediate.intermediate_act_fn.")}
    if names - {"intermediate.intermediate_act_fn"} != {
        *_BERT_LINEARS,
        *_BERT_NORMS,
        *_BERT_OTHERS,
    } - {"intermediate.intermediate_act_fn"}:
        return None
    if module._parameters or any(children[n]._parameters for n in _BERT_OTHERS if n in children):
        return None
    attention: Any = children["attention.self"]
    if getattr(module, "is_decoder", False) or getattr(attention, "is_causal", False):
        return "it is a decoder layer"
    positions = getattr(attention, "position_embedding_type", "absolute")
    if positions not in ("absolute", None):
        return f"its attention has {positions} position embeddings"
    if reason := _inside_reason(module):
        return reason
    linears = [as_linear(children[n]) for n in _BERT_LINEARS]
    norms = [as_norm(children[n]) for n in _BERT_NORMS]
    activation = activation_kind(getattr(children["intermediate"], "intermediate_act_fn", None))
    if None in linears or None in norms:
        return "it has norms or linears of another kind"
    if activation is None:
        return "its activation has no kernel"
    scaling = getattr(attention, "scaling", None)
    heads = attention.num_attention_heads
    if scaling is not None and abs(scaling - attention.attention_head_size**-0.5) > 1e-12:
        return "its attention has a scale of its own"
    if attention.all_head_size != children["attention.output.dense"].out_features:
        return "its heads do not add up to its width"
    query, key, value, output, up, down = linears
    return BlockParts(
        module=module,
        style="bert",
        query=query,
        key=key,
        value=value,
        output=output,
        up=up,
        down=down,
        attention_norm=norms[0],
        mlp_norm=norms[1],
        activation=activation,
        num_heads=heads,
    )
