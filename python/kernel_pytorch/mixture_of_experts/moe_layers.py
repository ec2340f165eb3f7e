"""The mixture-of-experts layer, and its usual configurations under their names."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kernel_pytorch.mixture_of_experts.config import MoEConfig
from kernel_pytorch.mixture_of_experts.expert_networks import (
    FeedForwardExpert,
    ParameterEfficientExpert,
)
from kernel_pytorch.mixture_of_experts.experts import ExpertList, StackedExperts
from kernel_pytorch.mixture_of_experts.load_balancer import LoadBalancer, expert_counts
from kernel_pytorch.mixture_of_experts.parallel import ExpertParallelism
from kernel_pytorch.mixture_of_experts.routing import SwitchRouter, TopKRouter

__all__ = [
    "AdaptiveMoELayer",
    "GLaMStyleMoE",
    "MoEConfig",
    "MoELayer",
    "SparseMoELayer",
    "SwitchTransformerMoE",
    "create_moe",
    "create_moe_layer",
]


class MoELayer(nn.Module):
    """A router, experts of which each token passes ``top_k``, and shared experts for all tokens.

    Feed-forward experts are stacked weights and run as one operator, ``kpt::moe_ffn``; any other
    ``expert_class`` is called expert by expert. Evaluation is deterministic, drops nothing, and a
    token's output does not depend on the other tokens.

    Args:
        config: copied.
        hidden_size: width D of the tokens.
        expert_hidden_size: width of the experts' hidden layer; 4 D unless given.
        expert_class: ``FeedForwardExpert`` or any module class with arguments ``(input_size,
            hidden_size, output_size)``; it also gets those of dropout, activation_fn, use_bias,
            device and dtype that its constructor names.
        router_class: one of ``routing``.
        expert_options, router_options: further arguments of those classes.

    Buffers: ``expert_usage_count`` ``[E]`` and ``total_tokens_processed``, counted in training.
    """

    parallel: ExpertParallelism | None
    expert_usage_count: torch.Tensor
    total_tokens_processed: torch.Tensor

    def __init__(
        self,
        config: MoEConfig,
        hidden_size: int,
        expert_hidden_size: int | None = None,
        expert_class: type[nn.Module] = FeedForwardExpert,
        router_class: type[nn.Module] = TopKRouter,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        expert_options: dict[str, Any] | None = None,
        router_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        config = self.config = replace(config)
        self.num_experts, self.top_k = config.num_experts, config.top_k
        self.hidden_size = hidden_size
        self.expert_hidden_size = expert_hidden_size or 4 * hidden_size
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.router = router_class(
            hidden_size,
            config.num_experts,
            **{
                "top_k": config.top_k,
                "dropout": config.router_dropout,
                "normalize_probs": config.normalize_router_probs,
                "num_groups": config.num_groups,
                "top_groups": config.top_groups,
                "scale": config.routed_scale,
                "balance": config.load_balancing == "aux_loss_free",
                **to,
                **(router_options or {}),
            },
        )
        self.experts = self._make_experts(expert_class, expert_options or {}, to)
        parallel = None
        if config.expert_parallelism and dist.is_available() and dist.is_initialized():
            parallel = ExpertParallelism(config.num_experts, self.experts)
            self.experts = parallel.experts
        # Not a submodule: its experts are this module's, and are to be in a checkpoint once.
        object.__setattr__(self, "parallel", parallel)
        # Several shared experts, added up, are one as wide as all of them.
        self.shared_expert = (
            StackedExperts(
                1,
                hidden_size,
                config.num_shared_experts * self.expert_hidden_size,
                config.expert_dropout,
                config.activation_fn,
                config.use_bias,
                **to,
            )
            if config.num_shared_experts
            else None
        )
        self.load_balancer = LoadBalancer(
            config.num_experts, config.capacity_factor, config.min_capacity, config.load_balancing
        )
        counts = torch.zeros(config.num_experts, dtype=torch.int64, device=device)
        self.register_buffer("expert_usage_count", counts)
        self.register_buffer("total_tokens_processed", counts.new_zeros(()))

    def _make_experts(
        self, expert_class: type[nn.Module], options: dict[str, Any], to: dict[str, Any]
    ) -> StackedExperts | ExpertList:
        config = self.config
        given: dict[str, Any] = {
            "dropout": config.expert_dropout,
            "activation_fn": config.activation_fn,
            "use_bias": config.use_bias,
            **to,
        }
        sizes = (self.hidden_size, self.expert_hidden_size)
        if expert_class is FeedForwardExpert and not options:
            return StackedExperts(config.num_experts, *sizes, **given)
        accepted = inspect.signature(expert_class).parameters
        given = {name: value for name, value in given.items() if name in accepted} | options
        return ExpertList(
            expert_class(*sizes, self.hidden_size, **given) for _ in range(config.num_experts)
        )

    def _capacity(self, tokens: int) -> int:
        """How many choices an expert takes now; -1: all."""
        if not (self.config.drop_tokens and self.training):
            return -1
        factor = getattr(self.router, "capacity_factor", None)
        return self.load_balancer.capacity(tokens, self.router.top_k, factor)

    def forward(
        self,
        x: torch.Tensor,
        expert_mask: torch.Tensor | None = None,
        return_router_logits: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The layer's output, of the shape of ``x`` ``[..., D]``.

        Args:
            x: tokens, in the dtype of the parameters.
            expert_mask: bool ``[E]`` or ``[N, E]``; False where an expert must not be chosen.
            return_router_logits: also return a dict of ``load_balance_loss`` and ``router_z_loss``
                (scalars, times their weights), ``expert_utilization`` (``[E]``, shares of the
                choices), ``tokens_dropped`` (choices dropped), ``router_logits`` and
                ``expert_indices``.
        """
        if x.dim() < 1 or x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"{type(self).__name__}: x must be [..., {self.hidden_size}], "
                f"got shape {list(x.shape)}"
            )
        routed = self.router(x, expert_mask)
        indices, weights = routed["expert_indices"], routed["expert_weights"]
        tokens = x.reshape(-1, self.hidden_size).contiguous()
        run = self.experts if self.parallel is None else self.parallel.dispatch
        y, dropped = run(tokens, weights, indices, self._capacity(len(tokens)))
        if self.shared_expert is not None:
            all_tokens = torch.zeros_like(indices[:, :1])
            y = y + self.shared_expert(tokens, torch.ones_like(weights[:, :1]), all_tokens)[0]
        counts = expert_counts(indices, self.num_experts)
        if self.training:
            self._count(counts, len(tokens))
        y = y.view(x.shape)
        if not return_router_logits:
            return y
        return y, {
            **self._losses(routed),
            "expert_utilization": counts / max(1, indices.numel()),
            "tokens_dropped": dropped,
            "router_logits": routed["logits"],
            "expert_indices": indices,
        }

    def _losses(self, routed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        balance = self.load_balancer.compute_load_balance_loss(
            routed["probs"], routed["expert_indices"]
        )
        logits = routed["logits"]
        z = logits.logsumexp(-1).square().sum() / max(1, len(logits))
        return {
            "load_balance_loss": self.config.load_balance_loss_weight * balance,
            "router_z_loss": self.config.router_z_loss_weight * z,
        }

    @torch.no_grad()
    def _count(self, counts: torch.Tensor, tokens: int) -> None:
        self.expert_usage_count.add_(counts)
        self.total_tokens_processed.add_(tokens)
        bias = getattr(self.router, "bias", None)
        if isinstance(bias, torch.Tensor):
            self.load_balancer.update_bias(bias, counts, self.config.bias_update_rate)

    def reset_statistics(self) -> None:
        """Forget the counts."""
        self.expert_usage_count.zero_()
        self.total_tokens_processed.zero_()

    def get_expert_utilization_stats(self) -> dict[str, Any]:
        """Of the choices counted in training: ``expert_balance`` (entropy of the experts' shares
        over log E, 1 when even), ``expert_efficiency`` (share of experts that were used at all)
        and, once there are any, ``usage_rates`` (each expert's share)."""
        counts = self.expert_usage_count.double()
        if not counts.any():
            return {"expert_balance": 0.0, "expert_efficiency": 0.0}
        shares = counts / counts.sum()
        even = torch.full_like(shares, 1 / len(shares))
        entropy, most = (float(torch.special.entr(p).sum()) for p in (shares, even))
        return {
            "expert_balance": entropy / most if most else 1.0,
            "expert_efficiency": float((counts > 0).double().mean()),
            "usage_rates": shares.tolist(),
        }

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, top {self.top_k} of {self.num_experts} experts"


class SparseMoELayer(MoELayer):
    """At most a share ``sparsity_level`` of the experts, and at least one, for each token."""

    def __init__(
        self, config: MoEConfig, hidden_size: int, sparsity_level: float = 0.1, **kwargs: Any
    ) -> None:
        if not 0 < sparsity_level <= 1:
            raise ValueError(
                f"SparseMoELayer: sparsity_level must be above 0 and at most 1, "
                f"got {sparsity_level}"
            )
        top_k = min(config.top_k, max(1, int(config.num_experts * sparsity_level)))
        super().__init__(replace(config, top_k=top_k), hidden_size, **kwargs)
        self.sparsity_level = sparsity_level


class SwitchTransformerMoE(MoELayer):
    """One expert for each token, weighted by its probability (Fedus et al. 2021)."""

    def __init__(self, config: MoEConfig, hidden_size: int, **kwargs: Any) -> None:
        if "router_class" not in kwargs:
            options = {"capacity_factor": config.capacity_factor}
            kwargs["router_options"] = options | (kwargs.get("router_options") or {})
        super().__init__(
            replace(config, top_k=1), hidden_size, **{"router_class": SwitchRouter, **kwargs}
        )


class GLaMStyleMoE(MoELayer):
    """Experts of few trained parameters each, shared among processes where there are several."""

    def __init__(self, config: MoEConfig, hidden_size: int, **kwargs: Any) -> None:
        super().__init__(
            replace(config, expert_parallelism=True),
            hidden_size,
            **{"expert_class": ParameterEfficientExpert, **kwargs},
        )


class AdaptiveMoELayer(MoELayer):
    """Balanced by a bias on the choice, which moves by ``adaptation_rate`` each training step
    towards an even load; there is no balancing loss to weigh against the task's."""

    def __init__(
        self, config: MoEConfig, hidden_size: int, adaptation_rate: float = 0.01, **kwargs: Any
    ) -> None:
        config = replace(config, load_balancing="aux_loss_free", bias_update_rate=adaptation_rate)
        super().__init__(config, hidden_size, **kwargs)
        self.adaptation_rate = adaptation_rate


_LAYERS: dict[str, type[MoELayer]] = {
    "standard": MoELayer,
    "sparse": SparseMoELayer,
    "switch": SwitchTransformerMoE,
    "glam": GLaMStyleMoE,
    "adaptive": AdaptiveMoELayer,
}


def create_moe_layer(
    moe_type: str, hidden_size: int, num_experts: int = 8, top_k: int = 2, **kwargs: Any
) -> MoELayer:
    """A layer by name: standard, sparse, switch, glam or adaptive.

    Further arguments are fields of :class:`MoEConfig` or arguments of the layer. ValueError for
    another name, TypeError for an argument that is neither.
    """
    if moe_type not in _LAYERS:
        raise ValueError(
            f"create_moe_layer: moe_type must be one of {', '.join(_LAYERS)}, got {moe_type!r}"
        )
    names = {field.name for field in fields(MoEConfig)}
    of_config = {name: kwargs.pop(name) for name in names & kwargs.keys()}
    config = MoEConfig(num_experts=num_experts, top_k=top_k, **of_config)
    return _LAYERS[moe_type](config, hidden_size, **kwargs)


def create_moe(
    hidden_size: int,
    num_experts: int = 8,
    top_k: int = 2,
    moe_type: str = "standard",
    **kwargs: Any,
) -> MoELayer:
    """As :func:`create_moe_layer`."""
    return create_moe_layer(moe_type, hidden_size, num_experts, top_k, **kwargs)
