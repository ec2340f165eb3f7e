"""What managers share: a context and a state, and that a manager which is not ready says so."""

from __future__ import annotations

import enum
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.errors import KernelPyTorchError

__all__ = ["BaseManager", "ManagerContext", "ManagerState", "ManagerStateError", "ManagerType"]


class ManagerType(enum.Enum):
    """What a manager is for."""

    HARDWARE = "hardware"
    OPTIMIZATION = "optimization"
    INFRASTRUCTURE = "infrastructure"


class ManagerState(enum.Enum):
    """Where a manager is in its life."""

    INITIALIZING = "initializing"
    READY = "ready"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ERROR = "error"
    """The last call failed; the next may work."""
    SHUTDOWN = "shutdown"
    """For good."""


class ManagerStateError(KernelPyTorchError, RuntimeError):
    """A manager that is suspended or shut down was asked for something."""


@dataclass
class ManagerContext:
    """Who a manager is, and what it last did."""

    manager_id: str
    manager_type: ManagerType
    state: ManagerState
    device: torch.device
    config: KernelPyTorchConfig
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    """Seconds since 1970, as ``last_activity``."""
    last_activity: float = field(default_factory=time.time)


class BaseManager(ABC):
    """A part of :class:`~kernel_pytorch.core.management.UnifiedManager`."""

    MANAGER_TYPE: ClassVar[ManagerType]

    def __init__(self, config: KernelPyTorchConfig, context: ManagerContext | None = None) -> None:
        self.config = config
        self.context = context or ManagerContext(
            manager_id=f"{self.MANAGER_TYPE.value}_{uuid.uuid4().hex[:8]}",
            manager_type=self.MANAGER_TYPE,
            state=ManagerState.INITIALIZING,
            device=torch.device("cpu"),
            config=config,
        )
        self.context.state = ManagerState.READY

    def optimize(self, target: Any, **kwargs: Any) -> Any:
        """What the manager does for ``target``; returns it. ManagerStateError when it is suspended
        or shut down."""
        self._require_ready()
        self.context.state = ManagerState.ACTIVE
        self.context.last_activity = time.time()
        try:
            result = self._optimize(target, **kwargs)
        except BaseException:
            self.context.state = ManagerState.ERROR
            raise
        self.context.state = ManagerState.READY
        return result

    @abstractmethod
    def _optimize(self, target: Any, **kwargs: Any) -> Any:
        """The work of :meth:`optimize`."""

    def _require_ready(self) -> None:
        state = self.context.state
        if state in (ManagerState.SUSPENDED, ManagerState.SHUTDOWN):
            cure = "call resume()" if state is ManagerState.SUSPENDED else "make a new one"
            raise ManagerStateError(f"{self.context.manager_id} is {state.value}: {cure}")

    def get_status(self) -> dict[str, Any]:
        """Id, type, state, device and times."""
        return {
            "manager_id": self.context.manager_id,
            "manager_type": self.context.manager_type.value,
            "state": self.context.state.value,
            "device": str(self.context.device),
            "created_at": self.context.created_at,
            "last_activity": self.context.last_activity,
        }

    def suspend(self) -> None:
        """Refuse work until :meth:`resume`."""
        if self.context.state is not ManagerState.SHUTDOWN:
            self.context.state = ManagerState.SUSPENDED

    def resume(self) -> None:
        """Take work again."""
        if self.context.state is ManagerState.SUSPENDED:
            self.context.state = ManagerState.READY

    def shutdown(self) -> None:
        """Refuse work for good."""
        self.context.state = ManagerState.SHUTDOWN
