"""KernelPyTorch: hand-tuned kernels behind ``torch.ops.kpt.*``, and a framework over them.

Importing this registers the operators as soon as torch is imported (at once when it already is),
and nothing else; everything below loads when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from kernel_pytorch._version import __version__

if TYPE_CHECKING:
    from kernel_pytorch.core.dispatch_log import counters, explain, reset_counters, strict
    from kernel_pytorch.mixture_of_experts import (
        FeedForwardExpert,
        GLaMStyleMoE,
        LoadBalancer,
        MoEConfig,
        MoELayer,
        SparseMoELayer,
        SwitchRouter,
        SwitchTransformerMoE,
        TopKRouter,
        create_moe,
        create_moe_layer,
    )
    from kernel_pytorch.optimize import optimize, plan, report, revert

__all__ = [
    "FeedForwardExpert",
    "GLaMStyleMoE",
    "LoadBalancer",
    "MoEConfig",
    "MoELayer",
    "SparseMoELayer",
    "SwitchRouter",
    "SwitchTransformerMoE",
    "TopKRouter",
    "__version__",
    "counters",
    "create_moe",
    "create_moe_layer",
    "explain",
    "optimize",
    "plan",
    "report",
    "reset_counters",
    "revert",
    "strict",
]

_LAZY = {
    "FeedForwardExpert": "kernel_pytorch.mixture_of_experts",
    "GLaMStyleMoE": "kernel_pytorch.mixture_of_experts",
    "LoadBalancer": "kernel_pytorch.mixture_of_experts",
    "MoEConfig": "kernel_pytorch.mixture_of_experts",
    "MoELayer": "kernel_pytorch.mixture_of_experts",
    "SparseMoELayer": "kernel_pytorch.mixture_of_experts",
    "SwitchRouter": "kernel_pytorch.mixture_of_experts",
    "SwitchTransformerMoE": "kernel_pytorch.mixture_of_experts",
    "TopKRouter": "kernel_pytorch.mixture_of_experts",
    "create_moe": "kernel_pytorch.mixture_of_experts",
    "create_moe_layer": "kernel_pytorch.mixture_of_experts",
    "counters": "kernel_pytorch.core.dispatch_log",
    "explain": "kernel_pytorch.core.dispatch_log",
    "optimize": "kernel_pytorch.optimize",
    "plan": "kernel_pytorch.optimize",
    "report": "kernel_pytorch.optimize",
    "reset_counters": "kernel_pytorch.core.dispatch_log",
    "revert": "kernel_pytorch.optimize",
    "strict": "kernel_pytorch.core.dispatch_log",
}


@wrapt.when_imported("torch")
def _register_operators(_torch: Any) -> None:
    # The command line imports this package too and must start without the seconds torch takes.
    if "kernel_pytorch.ops" in sys.modules:
        return  # imported before torch, which it is importing now: it registers when it is done
    importlib.import_module("kernel_pytorch.backends")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
