"""What a mixture of experts is configured by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOAD_BALANCING", "MoEConfig"]

LOAD_BALANCING = ("switch", "gshard", "entropy", "aux_loss_free")


@dataclass
class MoEConfig:
    """Configuration of a :class:`MoELayer`; a layer keeps a copy, so later changes do not reach it.

    Attributes:
        num_experts, top_k: experts, and how many of them a token goes to.
        drop_tokens: False (the default) computes every choice. True gives each expert a capacity in
            training, ``max(min_capacity, ceil(capacity_factor * tokens * top_k / num_experts))``,
            beyond which choices are dropped and counted; evaluation never drops.
        capacity_factor, min_capacity: the terms of that capacity.
        expert_dropout, router_dropout: dropout inside the experts and of the router's input.
        load_balance_loss_weight, router_z_loss_weight: factors of the two losses.
        load_balancing: "switch", "gshard", "entropy" (a loss) or "aux_loss_free" (no loss: a bias
            on the choice, moved by ``bias_update_rate`` after each training step).
        expert_parallelism: share the experts among the processes of ``torch.distributed``.
        use_bias, activation_fn: of the experts; relu, gelu, gelu_tanh, silu (or swish), mish, or
            the gates swiglu and geglu.
        normalize_router_probs: weights are softmax probabilities over their sum; False: sigmoids.
        num_shared_experts: experts that see every token, added to the chosen ones.
        num_groups, top_groups: choose only from the best ``top_groups`` of ``num_groups`` groups.
        routed_scale: factor of the chosen experts' weights.

    Raises:
        ValueError: when a value is out of range.
    """

    num_experts: int = 8
    top_k: int = 2
    capacity_factor: float = 1.25
    min_capacity: int = 4
    expert_dropout: float = 0.1
    router_dropout: float = 0.1
    load_balance_loss_weight: float = 0.01
    router_z_loss_weight: float = 0.001
    expert_parallelism: bool = False
    use_bias: bool = True
    activation_fn: str = "relu"
    normalize_router_probs: bool = True
    drop_tokens: bool = False
    load_balancing: str = "switch"
    bias_update_rate: float = 0.001
    num_shared_experts: int = 0
    num_groups: int = 1
    top_groups: int = 1
    routed_scale: float = 1.0

    def __post_init__(self) -> None:
        def refuse(name: str, expected: str) -> None:
            raise ValueError(f"MoEConfig: {name} must be {expected}, got {getattr(self, name)!r}")

        if self.num_experts < 1:
            refuse("num_experts", "at least 1")
        if not 1 <= self.top_k <= self.num_experts:
            refuse("top_k", f"from 1 to the {self.num_experts} experts")
        if not self.capacity_factor > 0:
            refuse("capacity_factor", "positive")
        for name in ("min_capacity", "num_shared_experts"):
            if getattr(self, name) < 0:
                refuse(name, "0 or more")
        for name in ("expert_dropout", "router_dropout"):
            if not 0 <= getattr(self, name) < 1:
                refuse(name, "from 0 to below 1")
        if self.load_balancing not in LOAD_BALANCING:
            refuse("load_balancing", f"one of {', '.join(LOAD_BALANCING)}")
