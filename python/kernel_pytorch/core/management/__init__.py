"""The unified manager: a model in, the best that this machine can make of it out.

It stands on ``backends`` and ``optimize``; only its public path lies in ``core``.
"""

from kernel_pytorch.core.management.base import (
    BaseManager,
    ManagerContext,
    ManagerState,
    ManagerStateError,
    ManagerType,
)
from kernel_pytorch.core.management.hardware_manager import HardwareManager
from kernel_pytorch.core.management.infrastructure_manager import InfrastructureManager
from kernel_pytorch.core.management.optimization_manager import OptimizationManager
from kernel_pytorch.core.management.unified_manager import (
    UnifiedManager,
    get_manager,
    optimize_with_unified_manager,
    reset_manager,
)

__all__ = [
    "BaseManager",
    "HardwareManager",
    "InfrastructureManager",
    "ManagerContext",
    "ManagerState",
    "ManagerStateError",
    "ManagerType",
    "OptimizationManager",
    "UnifiedManager",
    "get_manager",
    "optimize_with_unified_manager",
    "reset_manager",
]
