"""Named starting points: what each sets, everything else being as by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Fast, exact enough by measurement, nothing kept for a backward pass.
    "inference": {
        "optimization_level": "O3",
        "memory": {"deep_optimizer_states": False, "gradient_checkpointing": False},
        "validation": {"performance_tracking": True},
        "kernel": {"auto_select_optimal": True},
    },
    # Memory for activations and optimizer states is what is short.
    "training": {
        "optimization_level": "O2",
        "memory": {"deep_optimizer_states": True, "gradient_checkpointing": True},
        "validation": {"enabled": True},
    },
    # Everything is checked and told, and results are as exact as without optimization.
    "development": {
        "optimization_level": "O1",
        "debug": True,
        "profile": True,
        "validation": {"enabled": True, "strict_mode": True},
        "kernel": {"kernel_logging": True, "kernel_profiling": True},
    },
}
