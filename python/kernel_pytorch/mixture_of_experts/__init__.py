"""Mixture of experts: layers, routers, experts and balancing over the ``kpt::moe_*`` operators.

>>> layer = MoELayer(MoEConfig(num_experts=8, top_k=2), hidden_size=512)
>>> y, routing = layer(x, return_router_logits=True)              # [batch, tokens, 512]
>>> loss = task_loss(y) + routing["load_balance_loss"] + routing["router_z_loss"]
"""

from kernel_pytorch import backends
from kernel_pytorch.mixture_of_experts.config import MoEConfig
from kernel_pytorch.mixture_of_experts.expert_networks import (
    AttentionExpert,
    ConvolutionalExpert,
    FeedForwardExpert,
    HybridExpert,
    ParameterEfficientExpert,
)
from kernel_pytorch.mixture_of_experts.load_balancer import LoadBalancer
from kernel_pytorch.mixture_of_experts.moe_layers import (
    AdaptiveMoELayer,
    GLaMStyleMoE,
    MoELayer,
    SparseMoELayer,
    SwitchTransformerMoE,
    create_moe,
    create_moe_layer,
)
from kernel_pytorch.mixture_of_experts.parallel import ExpertParallelism
from kernel_pytorch.mixture_of_experts.routing import (
    DynamicCapacityRouter,
    HashRouter,
    LearnedRouter,
    SwitchRouter,
    TopKRouter,
    create_router,
)

__all__ = [
    "AdaptiveMoELayer",
    "AttentionExpert",
    "ConvolutionalExpert",
    "DynamicCapacityRouter",
    "ExpertParallelism",
    "FeedForwardExpert",
    "GLaMStyleMoE",
    "HashRouter",
    "HybridExpert",
    "LearnedRouter",
    "LoadBalancer",
    "MoEConfig",
    "MoELayer",
    "ParameterEfficientExpert",
    "SparseMoELayer",
    "SwitchRouter",
    "SwitchTransformerMoE",
    "TopKRouter",
    "create_moe",
    "create_moe_layer",
    "create_router",
]

assert backends  # imported for what it registers: torch.ops.kpt
