"""Which modules of a model can be replaced, and why the others are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from kernel_pytorch.optimize.attention import MultiheadAttention, find_attention
from kernel_pytorch.optimize.capture import Call, Captured, Shapes
from kernel_pytorch.optimize.decoder_block import (
    DecoderBlock,
    DecoderParts,
    find_decoder,
    without_cache,
)
from kernel_pytorch.optimize.encoder_block import EncoderBlock, find_block
from kernel_pytorch.optimize.fuse import NO_PATTERN, Convention, find_fusion
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.recognize import activation_kind, as_linear, as_norm
from kernel_pytorch.optimize.replacement import LeafReplacement, Replacement
from kernel_pytorch.optimize.steps import ActivationStep, LinearStep, NormStep

__all__ = ["Candidate", "Group", "Survey", "groups_of", "survey"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_BLOCKS = (EncoderBlock.kind, DecoderBlock.kind)
_RANKS = (*_BLOCKS, "traced", "attention", "linear", "norm", "activation")
"""Coarse before fine: what a coarse replacement takes in is not replaced again."""


@dataclass
class Candidate:
    """A module that may be replaced, before its calls were seen."""

    name: str
    module: nn.Module
    rank: str
    dtype: torch.dtype
    """Of its weights; float32 where it has none."""
    build: Callable[[Policy], Replacement] | None
    """None for "traced": decided by :func:`find_fusion` with a real call."""
    consumed: list[nn.Module] = field(default_factory=list)

    def trace(self, convention: Convention) -> str:
        """Give a traced candidate its builder; why it has none, "" when it has."""
        fusion = find_fusion(self.module, convention, self.dtype)
        if isinstance(fusion, str):
            return fusion
        self.build = fusion.build
        self.consumed = fusion.consumed
        self.rank = " + ".join(dict.fromkeys(fusion.kinds))
        return ""

    @property
    def key(self) -> Any:
        """Equal for modules that do the same work with other weights."""
        shapes = tuple((n, tuple(t.shape), str(t.dtype)) for n, t in _tensors(self.module))
        return (self.rank, type(self.module), self.module.extra_repr(), shapes)


@dataclass
class Survey:
    """What was found in a model."""

    candidates: list[Candidate] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """By module name: why it stays as it is."""


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def survey(model: nn.Module) -> Survey:
    """Look at every module of ``model`` once; run nothing but activations on small inputs."""
    found = Survey()
    bypassed: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in bypassed:
            continue
        _look(found, name, module)
        if type(module).forward in (
            nn.TransformerEncoderLayer.forward,
            nn.MultiheadAttention.forward,
        ):
            # Their forward reads their children's weights instead of calling them.
            bypassed.update(id(m) for m in module.modules())
            if name in found.left:
                found.left[name] += " (and it calls none of its children, which stay too)"
    found.candidates.sort(key=lambda c: _RANKS.index(c.rank))
    return found


def _look(found: Survey, name: str, module: nn.Module) -> None:
    shown = name or "(the model)"
    rank, build, reason = _classify(module)
    if rank is None and not reason:
        return
    reason = reason or _common_reason(module, weightless=rank == "activation")
    if reason:
        if rank != "traced" or isinstance(module, fx.GraphModule):
            found.left[shown] = reason
        return
    assert rank is not None
    consumed = [m for m in module.modules() if m is not module] if rank != "traced" else []
    floating = [t.dtype for _, t in _tensors(module) if t.is_floating_point()]
    dtype = floating[0] if floating else torch.float32
    found.candidates.append(Candidate(name, module, rank, dtype, build, consumed))


def _classify(module: nn.Module) -> tuple[str | None, Any, str]:
    """(rank, builder, reason it stays)."""
    block = find_block(module)
    if isinstance(block, str):
        return "encoder block", None, block
    if block is not None:
        return "encoder block", lambda policy: EncoderBlock(block, policy), ""
    decoder = find_decoder(module)
    if isinstance(decoder, str):
        return "decoder block", None, decoder
    if decoder is not None:
        return "decoder block", lambda policy: DecoderBlock(decoder, policy), ""
    attention = find_attention(module)
    if isinstance(attention, str):
        return "attention", None, attention
    if attention is not None:
        return "attention", lambda policy: MultiheadAttention(module, policy), ""
    linear = as_linear(module)
    if linear is not None:
        return "linear", lambda policy: _linear_leaf(module, policy), ""
    norm = as_norm(module)
    if norm is not None:
        return "norm", lambda policy: _norm_leaf(module, policy), ""
    name = type(module).__name__
    if isinstance(module, nn.Linear) or name.endswith(("LayerNorm", "RMSNorm", "Linear")):
        return None, None, f"{name} has a forward or weights of its own"
    has_children = bool(module._modules) and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if isinstance(module, fx.GraphModule) or (has_children and not hasattr(module, "can_generate")):
        return "traced", None, ""
    if has_children or module._modules or type(module).forward is nn.Module.forward:
        return None, None, ""
    kind = activation_kind(module)
    if kind is not None and getattr(module, "inplace", False):
        return None, None, "it works in place"
    if kind is not None:
        return "activation", lambda policy: _activation_leaf(module, kind), ""
    if isinstance(module, (nn.modules.dropout._DropoutNd, nn.Identity)):
        return None, None, "it does nothing in evaluation"
    if module._parameters and not type(module).__module__.startswith("torch.nn."):
        return "traced", None, ""
    return None, None, f"no kernel for {name}"


def _common_reason(module: nn.Module, *, weightless: bool) -> str:
    tensors = _tensors(module)
    floating = {t.dtype for _, t in tensors if t.is_floating_point()}
    devices = {t.device.type for _, t in tensors} - {"cpu"}
    if "forward" in module.__dict__ and not isinstance(module, fx.GraphModule):
        return "its forward is already replaced on the instance"
    if module.training and not isinstance(module, fx.GraphModule):
        return "it is in training mode"
    if devices:
        return f"its weights are on {', '.join(sorted(devices))}; native kernels run on the CPU"
    if weightless:
        return ""
    if not floating:
        return "it has no weights"
    if len(floating) > 1:
        return f"its weights are of several dtypes: {', '.join(sorted(map(str, floating)))}"
    if not floating <= set(_DTYPES):
        return f"no kernel for {next(iter(floating))} weights"
    return ""


def _linear_leaf(module: nn.Module, policy: Policy) -> Replacement:
    weights = as_linear(module)
    assert weights is not None
    dtype = weights.weight.dtype
    step = LinearStep([weights.weight], [weights.bias], policy, emit=dtype)
    return LeafReplacement(module, step, "linear", (dtype,))


def _norm_leaf(module: nn.Module, policy: Policy) -> Replacement:
    weights = as_norm(module)
    assert weights is not None
    dtype = next(iter(t.dtype for _, t in _tensors(module)))
    # A norm alone reads and writes the model's dtype: a cast around it would cost what it saves.
    step = NormStep(weights.kind, weights.weight, weights.bias, weights.eps, dtype)
    return LeafReplacement(module, step, "norm", (dtype,))


def _activation_leaf(module: nn.Module, kind: str) -> Replacement:
    return LeafReplacement(module, ActivationStep(kind), "activation", _DTYPES)


@dataclass
class Group:
    """Candidates that do the same work on inputs of the same shape: measured once."""

    members: list[Candidate]
    call: Call
    shapes: Shapes
    kind: str = ""


def _uncached(module: nn.Module, call: Call) -> Call:
    """The call of a decoder layer without its cache, which a repeated call would change."""
    parts = find_decoder(module)
    assert isinstance(parts, DecoderParts)
    changed = without_cache(parts.style, call.args, call.kwargs)
    if changed is None:
        return call
    with torch.no_grad():
        return Call(*changed, type(module).forward(module, *changed[0], **changed[1]))


def groups_of(found: Survey, captured: Captured) -> tuple[list[Group], dict[str, str]]:
    """Candidates grouped by work and shapes, coarse first; and why candidates drop out.

    Traced modules get their builders here.
    """
    groups: dict[Any, Group] = {}
    left: dict[str, str] = {}
    for candidate in found.candidates:
        shown = candidate.name or "(the model)"
        if candidate.name not in captured.shapes:
            left[shown] = "the example inputs do not reach it"
            continue
        shapes = captured.shapes[candidate.name]
        key = (candidate.key, shapes)
        call = captured.calls[key]
        if candidate.rank == DecoderBlock.kind:
            call = _uncached(candidate.module, call)
        reason = call.replayable
        if candidate.rank == "traced" and not reason:
            reason = candidate.trace(Convention.of(call))
        if reason:
            if candidate.rank != "traced" or isinstance(candidate.module, fx.GraphModule):
                left[shown] = reason
            elif not candidate.module._modules:
                left[shown] = f"no kernel for {type(candidate.module).__name__}"
            elif reason != NO_PATTERN:
                # Its children are candidates themselves; a container without a pattern is no news.
                left[shown] = f"only its children were looked at: {reason}"
            continue
        groups.setdefault(key, Group([], call, shapes, candidate.rank)).members.append(candidate)
    return list(groups.values()), left
