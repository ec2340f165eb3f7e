"""Keeping the experts evenly loaded: losses, a bias on the choice, capacities, measures."""

from __future__ import annotations

import math

import torch

from kernel_pytorch.mixture_of_experts.config import LOAD_BALANCING

__all__ = ["LoadBalancer", "expert_counts"]


def expert_counts(expert_indices: torch.Tensor, num_experts: int) -> torch.Tensor:
    """How many choices fell on each expert, ``[E]`` int64."""
    flat = expert_indices.reshape(-1)
    return torch.zeros(num_experts, dtype=torch.int64, device=flat.device).scatter_add_(
        0, flat, torch.ones_like(flat)
    )


def _entropy(shares: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(shares).sum(-1)


class LoadBalancer:
    """The balancing rule of a layer.

    ``load_balance_loss_type``, with ``f`` the experts' shares of all choices, ``P`` the mean router
    probability and ``E`` experts:

    - "switch": ``E sum_e f_e P_e`` (Fedus et al. 2021, eq. 4); 1 when even.
    - "gshard": the same with the shares of first choices alone (Lepikhin et al. 2020).
    - "entropy": ``(log E - H(P)) / log E``; 0 when even.
    - "aux_loss_free": no loss; :meth:`update_bias` moves a bias on the choice instead (Wang et al.
      2024).
    """

    def __init__(
        self,
        num_experts: int,
        capacity_factor: float = 1.25,
        min_capacity: int = 4,
        load_balance_loss_type: str = "switch",
        epsilon: float = 1e-6,
    ) -> None:
        if num_experts < 1:
            raise ValueError(f"LoadBalancer: num_experts must be at least 1, got {num_experts}")
        if not capacity_factor > 0:
            raise ValueError(
                f"LoadBalancer: capacity_factor must be positive, got {capacity_factor}"
            )
        if min_capacity < 0:
            raise ValueError(f"LoadBalancer: min_capacity must be 0 or more, got {min_capacity}")
        if load_balance_loss_type not in LOAD_BALANCING:
            raise ValueError(
                f"LoadBalancer: load_balance_loss_type must be one of {', '.join(LOAD_BALANCING)}, "
                f"got {load_balance_loss_type!r}"
            )
        self.num_experts = num_experts
        self.capacity_factor = capacity_factor
        self.min_capacity = min_capacity
        self.load_balance_loss_type = load_balance_loss_type
        self.epsilon = epsilon

    def capacity(self, num_tokens: int, top_k: int, factor: float | None = None) -> int:
        """``max(min_capacity, ceil(factor * num_tokens * top_k / num_experts))``; the factor is
        ``capacity_factor`` unless given."""
        factor = self.capacity_factor if factor is None else factor
        return max(self.min_capacity, math.ceil(factor * num_tokens * top_k / self.num_experts))

    def get_capacity_info(
        self,
        router_probs: torch.Tensor,
        num_tokens: int,
        expert_mask: torch.Tensor | None = None,
        expert_indices: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """What the experts can take, and what they get.

        Args:
            router_probs: ``[N, E]``.
            num_tokens: N.
            expert_mask: bool ``[E]``; masked experts have no capacity.
            expert_indices: ``[N, K]``, the choices made; without them each token counts as one
                choice of its most probable expert.

        Returns:
            ``expert_capacities`` ``[E]``, ``expert_utilization`` ``[E]`` (choices over capacity),
            ``tokens_dropped`` (choices beyond the capacities), ``base_capacity`` and
            ``total_capacity``.
        """
        if router_probs.dim() != 2 or router_probs.shape[1] != self.num_experts:
            raise ValueError(
                f"LoadBalancer: router_probs must be [N, {self.num_experts}], "
                f"got {list(router_probs.shape)}"
            )
        if expert_indices is None:
            expert_indices = router_probs.argmax(-1, keepdim=True)
        base = self.capacity(num_tokens, expert_indices.shape[1])
        capacities = torch.full((self.num_experts,), base, device=router_probs.device)
        if expert_mask is not None:
            capacities = capacities.masked_fill(~expert_mask, 0)
        counts = expert_counts(expert_indices, self.num_experts)
        return {
            "expert_capacities": capacities,
            "expert_utilization": counts / capacities.clamp(min=1),
            "tokens_dropped": (counts - capacities).clamp(min=0).sum(),
            "base_capacity": torch.tensor(base),
            "total_capacity": capacities.sum(),
        }

    def compute_load_balance_loss(
        self,
        router_probs: torch.Tensor,
        expert_indices: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of ``router_probs`` ``[N, E]`` and ``expert_indices`` ``[N, K]``, a scalar of at
        least 0; ``mask`` bool ``[N]`` keeps only some tokens."""
        if mask is not None:
            router_probs, expert_indices = router_probs[mask], expert_indices[mask]
        if self.load_balance_loss_type == "aux_loss_free" or not len(router_probs):
            return router_probs.sum() * 0.0
        probs = router_probs / router_probs.sum(-1, keepdim=True).clamp(min=self.epsilon)
        mean = probs.mean(0)
        if self.load_balance_loss_type == "entropy":
            log = math.log(self.num_experts)
            return (log - _entropy(mean)).clamp(min=0) / log if log else mean.sum() * 0.0
        chosen = (
            expert_indices[:, :1] if self.load_balance_loss_type == "gshard" else expert_indices
        )
        counts = expert_counts(chosen, self.num_experts)
        return self.num_experts * (counts / chosen.numel() * mean).sum()

    @torch.no_grad()
    def update_bias(self, bias: torch.Tensor, counts: torch.Tensor, rate: float) -> None:
        """Move the bias of experts with less than the mean load up by ``rate``, of others down."""
        load = counts.to(bias.dtype)
        bias.add_(torch.sign(load.mean() - load), alpha=rate)

    def get_expert_balance_metrics(
        self, router_probs: torch.Tensor, expert_indices: torch.Tensor
    ) -> dict[str, float]:
        """Of the choices ("usage") and of the mean probabilities ("probability"): entropy over log
        E (1: even), coefficient of variation, largest over mean, smallest over mean."""
        counts = expert_counts(expert_indices, self.num_experts).double()
        log = math.log(self.num_experts)
        found: dict[str, float] = {}
        for name, values in (("usage", counts), ("probability", router_probs.double().mean(0))):
            shares = values / values.sum().clamp(min=self.epsilon)
            mean = 1 / self.num_experts
            found[f"{name}_entropy"] = float(_entropy(shares)) / log if log else 1.0
            found[f"{name}_cv"] = float((shares - mean).square().mean().sqrt()) / mean
            found[f"{name}_max_ratio"] = float(shares.max()) / mean
            found[f"{name}_min_ratio"] = float(shares.min()) / mean
        return found
