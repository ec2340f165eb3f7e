"""Routers: which experts a token goes to, and with what weight.

Each takes ``[..., hidden_size]`` and returns, for the N tokens in their order: ``logits`` and
``probs`` ``[N, E]`` in float32, ``expert_indices`` and ``expert_weights`` ``[N, K]`` (also under
``top_k_indices`` and ``top_k_probs``). Logits are computed in float32 whatever the parameters' and
the tokens' dtype, also under autocast: rounding them moves tokens to other experts.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "BaseRouter",
    "DynamicCapacityRouter",
    "HashRouter",
    "LearnedRouter",
    "SwitchRouter",
    "TopKRouter",
    "create_router",
]


def _linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """The layer in float32; on a CPU summed in float64 before it is rounded, so that the number of
    tokens, which orders the sums, does not move a token to another expert."""
    wide = torch.float64 if x.device.type == "cpu" else torch.float32
    bias = None if layer.bias is None else layer.bias.to(wide)
    return F.linear(x.to(wide), layer.weight.to(wide), bias).float()


class BaseRouter(nn.Module):
    """A linear layer for the logits, and ``kpt::moe_route``.

    Args:
        hidden_size, num_experts, top_k: sizes D, E and K.
        dropout: of the router's input, in training.
        normalize_probs: weights are the chosen softmax probabilities over their sum; False: the
            sigmoids of the chosen logits.
        num_groups, top_groups: choose only from the best groups.
        scale: factor of the weights.
        balance: keep a buffer ``bias`` ``[E]``, added to the probabilities for the choice alone.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 2,
        dropout: float = 0.1,
        normalize_probs: bool = True,
        *,
        num_groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        balance: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"{type(self).__name__}: top_k must be from 1 to the {num_experts} experts, "
                f"got {top_k}"
            )
        self.hidden_size, self.num_experts, self.top_k = hidden_size, num_experts, top_k
        self.dropout, self.normalize_probs = dropout, normalize_probs
        self.num_groups, self.top_groups, self.scale = num_groups, top_groups, scale
        self.score, self.renormalize = ("softmax", True) if normalize_probs else ("sigmoid", False)
        bias = torch.zeros(num_experts, dtype=torch.float32, device=device) if balance else None
        self.register_buffer("bias", bias)
        self._build({"device": device, "dtype": dtype})

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Conversions keep what decides between experts in float32."""
        kept = {name: getattr(self, name, None) for name in ("bias", "direction")}
        super()._apply(fn, recurse)
        for name, old in kept.items():
            new = getattr(self, name, None)
            if old is not None and new is not None and new.dtype != torch.float32:
                setattr(self, name, old.to(new.device))
        return self

    def _build(self, to: dict[str, Any]) -> None:
        self.gate = nn.Linear(self.hidden_size, self.num_experts, bias=False, **to)

    def _logits(self, x: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        """``[..., D]`` in float32 to ``[..., E]``; may leave more in ``found``."""
        return _linear(x, self.gate)

    def forward(
        self, x: torch.Tensor, expert_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Route ``x`` ``[..., D]``; ``expert_mask``, bool ``[E]`` or ``[N, E]``, is False where an
        expert must not be chosen. ValueError for other shapes, NaN among the logits, or a mask that
        leaves fewer than ``top_k`` experts."""
        name = type(self).__name__
        if x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"{name}: x must be [..., {self.hidden_size}], got shape {list(x.shape)}"
            )
        found: dict[str, torch.Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            h = F.dropout(x.float(), self.dropout, self.training)
            logits = self._logits(h, found).reshape(-1, self.num_experts)
            if not torch.compiler.is_compiling() and bool(logits.isnan().any()):
                raise ValueError(f"{name}: logits must be numbers, got NaN")
            bias = self.bias
            if expert_mask is not None:
                logits, bias = self._masked(logits, expert_mask)
            weights, indices = torch.ops.kpt.moe_route(
                logits,
                self.top_k,
                score=self.score,
                renormalize=self.renormalize,
                bias=bias,
                num_groups=self.num_groups,
                top_groups=self.top_groups,
                scale=self.scale,
            )
            probs = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        return _result(logits, probs, indices, weights) | found

    def _masked(
        self, logits: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and bias with minus infinity where ``mask`` is False."""
        name = type(self).__name__
        _check_mask(name, mask, logits, self.top_k)
        bias = self.bias
        if bias is not None:
            if mask.dim() == 2:
                raise ValueError(
                    f"{name}: expert_mask must be [{self.num_experts}] for a router with a "
                    "balancing bias, got one per token"
                )
            bias = bias.masked_fill(~mask, float("-inf"))
        return logits.masked_fill(~mask, float("-inf")), bias


def _check_mask(name: str, mask: torch.Tensor, logits: torch.Tensor, top_k: int) -> None:
    tokens, experts = logits.shape
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expert_mask must be bool, got {mask.dtype}")
    if tuple(mask.shape) not in ((experts,), (tokens, experts)):
        raise ValueError(
            f"{name}: expert_mask must have shape [{experts}] or [{tokens}, {experts}], "
            f"got {list(mask.shape)}"
        )
    if not torch.compiler.is_compiling() and bool((mask.sum(-1) < top_k).any()):
        raise ValueError(f"{name}: expert_mask must leave at least top_k = {top_k} experts")


def _result(
    logits: torch.Tensor, probs: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    return {
        "logits": logits,
        "probs": probs,
        "expert_indices": indices,
        "expert_weights": weights,
        "top_k_indices": indices,
        "top_k_probs": weights,
    }


class TopKRouter(BaseRouter):
    """The ``top_k`` most probable experts; in training normal noise of deviation ``noise_epsilon``
    is added to the logits."""

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 2,
        dropout: float = 0.1,
        normalize_probs: bool = True,
        noise_epsilon: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self.noise_epsilon = noise_epsilon
        super().__init__(hidden_size, num_experts, top_k, dropout, normalize_probs, **kwargs)

    def _logits(self, x: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = _linear(x, self.gate)
        if self.training and self.noise_epsilon > 0:
            logits = logits + self.noise_epsilon * torch.randn_like(logits)
        return logits


class SwitchRouter(BaseRouter):
    """The most probable expert, weighted by its probability (Fedus et al. 2021); in training the
    logits are multiplied by uniform noise from ``1 - jitter_noise`` to ``1 + jitter_noise``.

    ``top_k`` is accepted and always 1.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        capacity_factor: float = 1.25,
        dropout: float = 0.1,
        jitter_noise: float = 0.01,
        top_k: int = 1,
        **kwargs: Any,
    ) -> None:
        self.jitter_noise = jitter_noise
        super().__init__(hidden_size, num_experts, 1, dropout, **kwargs)
        self.renormalize = False
        self.set_capacity_factor(capacity_factor)

    def set_capacity_factor(self, capacity_factor: float) -> None:
        """What a layer with ``drop_tokens`` gives the experts from now on."""
        _check_factor(type(self).__name__, capacity_factor)
        self.capacity_factor = capacity_factor

    def _logits(self, x: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = _linear(x, self.gate)
        if self.training and self.jitter_noise > 0:
            low, high = 1 - self.jitter_noise, 1 + self.jitter_noise
            logits = logits * torch.empty_like(logits).uniform_(low, high)
        return logits


def _check_factor(name: str, capacity_factor: float) -> None:
    if not capacity_factor > 0:
        raise ValueError(f"{name}: capacity_factor must be positive, got {capacity_factor}")


class LearnedRouter(BaseRouter):
    """Logits from a network: ``num_router_layers`` linear layers, GELU between them.

    ``use_attention`` lets the tokens of a sequence (the last but one dimension) see each other
    first; a token's experts then depend on its sequence. The result also has ``router_features``
    ``[N, router_hidden_size]`` (the input's width for one layer).
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 2,
        router_hidden_size: int = 512,
        num_router_layers: int = 2,
        use_attention: bool = False,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if num_router_layers < 1:
            raise ValueError(
                f"LearnedRouter: num_router_layers must be at least 1, got {num_router_layers}"
            )
        self.router_hidden_size, self.num_router_layers = router_hidden_size, num_router_layers
        self.use_attention = use_attention
        super().__init__(hidden_size, num_experts, top_k, dropout, **kwargs)

    def _build(self, to: dict[str, Any]) -> None:
        widths = [self.hidden_size] + [self.router_hidden_size] * (self.num_router_layers - 1)
        self.layers = nn.ModuleList(nn.Linear(a, b, **to) for a, b in pairwise(widths))
        self.gate = nn.Linear(widths[-1], self.num_experts, bias=False, **to)
        self.qkv = (
            nn.Linear(self.hidden_size, 3 * self.hidden_size, **to)
            if (self.use_attention)
            else None
        )

    def _logits(self, x: torch.Tensor, found: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.qkv is not None:
            q, k, v = _linear(x, self.qkv).chunk(3, dim=-1)
            x = x + F.scaled_dot_product_attention(q, k, v)
        for layer in self.layers:
            x = F.gelu(_linear(x, layer))
        found["router_features"] = x.flatten(0, -2)
        return _linear(x, self.gate)


class DynamicCapacityRouter(TopKRouter):
    """A top-k router whose ``capacity_factor`` follows the load in training.

    A step's need is ``E / (N K)`` times the largest load, where a token counts 1, or, when the
    entropy of its probabilities exceeds ``complexity_threshold`` nats, the threshold over the
    entropy: a token the router is unsure about fares nearly as well with its other experts. The
    factor moves to the need by ``adaptation_rate``, within its bounds.
    """

    capacity: torch.Tensor

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 2,
        initial_capacity_factor: float = 1.25,
        min_capacity_factor: float = 0.5,
        max_capacity_factor: float = 2.0,
        adaptation_rate: float = 0.01,
        complexity_threshold: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_size, num_experts, top_k, **kwargs)
        if not 0 < min_capacity_factor <= max_capacity_factor:
            raise ValueError(
                "DynamicCapacityRouter: min_capacity_factor must be positive and at most "
                f"max_capacity_factor = {max_capacity_factor}, got {min_capacity_factor}"
            )
        self.min_capacity_factor, self.max_capacity_factor = (
            min_capacity_factor,
            max_capacity_factor,
        )
        self.adaptation_rate, self.complexity_threshold = adaptation_rate, complexity_threshold
        self.register_buffer("capacity", torch.tensor(0.0, device=kwargs.get("device")))
        self.register_buffer("complexity", torch.tensor(0.0, device=kwargs.get("device")))
        self.set_capacity_factor(initial_capacity_factor)

    @property
    def capacity_factor(self) -> float:
        """What a layer with ``drop_tokens`` gives the experts now."""
        return float(self.capacity)

    def set_capacity_factor(self, capacity_factor: float) -> None:
        """Set it, within the bounds."""
        _check_factor("DynamicCapacityRouter", capacity_factor)
        self.capacity.fill_(capacity_factor)
        self.capacity.clamp_(self.min_capacity_factor, self.max_capacity_factor)

    def get_routing_stats(self) -> dict[str, Any]:
        """``capacity_factor`` and the last training step's ``mean_complexity`` in nats."""
        return {
            "capacity_factor": self.capacity_factor,
            "mean_complexity": float(self.complexity),
        }

    def forward(
        self, x: torch.Tensor, expert_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As :meth:`BaseRouter.forward`, with each token's ``complexity`` ``[N]`` in nats."""
        found = super().forward(x, expert_mask)
        with torch.no_grad():
            probs = found["probs"] / found["probs"].sum(-1, keepdim=True)
            complexity = torch.special.entr(probs).sum(-1)
            found["complexity"] = complexity
            if self.training and len(complexity):
                counts = self.complexity_threshold / complexity.clamp(min=self.complexity_threshold)
                indices = found["expert_indices"]
                load = counts.new_zeros(self.num_experts).index_add_(
                    0, indices.flatten(), counts.repeat_interleave(self.top_k)
                )
                need = load.max() * (self.num_experts / indices.numel())
                self.capacity.lerp_(need, self.adaptation_rate)
                self.capacity.clamp_(self.min_capacity_factor, self.max_capacity_factor)
                self.complexity.copy_(complexity.mean())
        return found


_LARGEST = 2**62


class HashRouter(BaseRouter):
    """Experts by a hash of the token's values, and of its position where ``use_token_position``;
    nothing is learned, the weights are ``1 / top_k``.

    The values are projected on one direction, drawn from the digest that ``hash_function`` names
    (any of ``hashlib``), and the bits of that number are mixed with each expert's own number; the
    ``top_k`` largest results win. Equal tokens go to equal experts, and removing an expert moves
    only its own tokens. The position is the place in the last but one dimension. ``probs`` are
    ``1 / top_k`` at the chosen experts; ``logits`` are ``-log E``: no preference.
    """

    direction: torch.Tensor
    salts: torch.Tensor

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 1,
        hash_function: str = "md5",
        use_token_position: bool = True,
        **kwargs: Any,
    ) -> None:
        if hash_function not in hashlib.algorithms_available:
            raise ValueError(
                f"HashRouter: hash_function must be one of hashlib's, got {hash_function!r}"
            )
        if kwargs.get("balance"):
            raise ValueError("HashRouter: balance must be False, there are no probabilities")
        self.hash_function, self.use_token_position = hash_function, use_token_position
        super().__init__(hidden_size, num_experts, top_k, **kwargs)

    def _build(self, to: dict[str, Any]) -> None:
        digest = hashlib.new(self.hash_function, b"HashRouter").digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        direction = torch.randn((1, self.hidden_size), generator=generator)
        salts = torch.randint(_LARGEST, (self.num_experts,), generator=generator)
        self.register_buffer("direction", direction.to(to["device"]), persistent=False)
        self.register_buffer("salts", salts.to(to["device"]), persistent=False)

    def forward(
        self, x: torch.Tensor, expert_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As :meth:`BaseRouter.forward`."""
        if x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"HashRouter: x must be [..., {self.hidden_size}], got shape {list(x.shape)}"
            )
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            key = (x.double() @ self.direction.double().T).float()
            # Adding 0 makes of the two zeros, which are equal, one.
            bits = (key + 0.0).view(torch.int32).to(torch.int64)
            if self.use_token_position and x.dim() > 1:
                bits = bits + (torch.arange(x.shape[-2], device=x.device)[:, None] << 32)
            mixed = _mix(_mix(bits.reshape(-1, 1)) ^ self.salts)
            logits = x.new_full(mixed.shape, 1 / self.num_experts, dtype=torch.float32).log_()
            if expert_mask is not None:
                _check_mask("HashRouter", expert_mask, logits, self.top_k)
                mixed = mixed.masked_fill(~expert_mask, -1)
            indices = mixed.topk(self.top_k, dim=-1).indices
            weights = logits.new_full(indices.shape, self.scale / self.top_k)
            probs = torch.zeros_like(logits).scatter_(-1, indices, 1 / self.top_k)
        return _result(logits, probs, indices, weights)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """A one-to-one scrambling of 62 bits and more (after MurmurHash3's finalizer), from 0 up."""
    for multiplier in (-49064778989728563, -4265267296055464877):
        bits = (bits ^ ((bits >> 33) & 0x7FFFFFFF)) * multiplier
    return (bits ^ ((bits >> 33) & 0x7FFFFFFF)) & (2**63 - 1)


_ROUTERS: dict[str, type[BaseRouter]] = {
    "topk": TopKRouter,
    "top_k": TopKRouter,
    "switch": SwitchRouter,
    "hash": HashRouter,
    "learned": LearnedRouter,
    "dynamic": DynamicCapacityRouter,
    "dynamic_capacity": DynamicCapacityRouter,
}


def create_router(
    router_type: str, hidden_size: int, num_experts: int, top_k: int = 2, **kwargs: Any
) -> BaseRouter:
    """A router by name: topk, switch, hash, learned or dynamic; ValueError for another."""
    if router_type not in _ROUTERS:
        raise ValueError(
            f"create_router: router_type must be one of {', '.join(_ROUTERS)}, got {router_type!r}"
        )
    return _ROUTERS[router_type](hidden_size, num_experts, top_k=top_k, **kwargs)
