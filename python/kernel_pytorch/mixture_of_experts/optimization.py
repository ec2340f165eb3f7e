"""Load and placement of experts, under one path as in earlier versions."""

from kernel_pytorch.mixture_of_experts.load_balancer import LoadBalancer
from kernel_pytorch.mixture_of_experts.parallel import ExpertParallelism

__all__ = ["ExpertParallelism", "LoadBalancer"]
