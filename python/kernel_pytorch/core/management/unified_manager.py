"""One call from a model to the best that this machine can make of it."""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

from kernel_pytorch.backends.base_optimizer import as_inputs
from kernel_pytorch.backends.base_types import OptimizationResult
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.hardware_detector import HardwareDetector, HardwareProfile
from kernel_pytorch.core.management.base import BaseManager
from kernel_pytorch.core.management.hardware_manager import HardwareManager
from kernel_pytorch.core.management.infrastructure_manager import InfrastructureManager
from kernel_pytorch.core.management.optimization_manager import OptimizationManager
from kernel_pytorch.optimize import plan

__all__ = ["UnifiedManager", "get_manager", "optimize_with_unified_manager", "reset_manager"]


class UnifiedManager:
    """Detection, choice of backend and level, optimisation, and the way back.

    On every backend :meth:`auto_optimize` returns the model it was given, changed in place, and
    :attr:`last_result` says what was done.
    """

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config = KernelPyTorchConfig() if config is None else config
        self.hardware_detector = HardwareDetector()
        self._hardware_profile: HardwareProfile | None = None
        self.hardware_manager = HardwareManager(self.config)
        self.optimization_manager = OptimizationManager(self.config, self.hardware_manager.backend)
        self.infrastructure_manager = InfrastructureManager(self.config)

    @property
    def managers(self) -> tuple[BaseManager, ...]:
        """All parts."""
        return self.hardware_manager, self.optimization_manager, self.infrastructure_manager

    @property
    def last_result(self) -> OptimizationResult | None:
        """What the last optimisation did; None before the first."""
        return self.optimization_manager.last_result

    def optimize(self, target: Any, **kwargs: Any) -> Any:
        """A model through :meth:`auto_optimize` (which takes ``kwargs``); tensors, alone or in
        tuples, lists and mappings, onto the device."""
        if isinstance(target, nn.Module):
            return self.auto_optimize(target, **kwargs)
        return self.hardware_manager.optimize(target)

    def auto_optimize(
        self,
        model: nn.Module,
        sample_inputs: Any = None,
        optimization_level: str | None = None,
        for_inference: bool = False,
    ) -> nn.Module:
        """``model`` placed and optimised in place, for inference or training; returns it.

        Args:
            model: any module.
            sample_inputs: a tensor, a tuple of positional or a mapping of keyword inputs, as in
                real use. Kernels replace parts of a model only where they win on these.
            optimization_level: "O0" to "O3" or its word; None: what suits the hardware.
            for_inference: evaluation mode and inference's strategies, else training's.

        Raises TypeError for what is no module, ConfigurationError (a ValueError) for an unknown
        level or another kind of sample, ManagerStateError when suspended or shut down. The model
        then is as it was. :meth:`revert` undoes what was done.
        """
        level = optimization_level
        if level is None:
            level = self.hardware_detector.get_recommended_optimization_level()
        self.infrastructure_manager.optimize(model)
        optimized: nn.Module = self.optimization_manager.optimize(
            model,
            level=level,
            sample_input=sample_inputs,
            for_inference=for_inference,
            for_training=not for_inference,
        )
        return optimized

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo what was done to ``model``; returns it."""
        return self.optimization_manager.revert(model)

    def get_hardware_profile(self, force_redetect: bool = False) -> HardwareProfile:
        """The machine."""
        self._hardware_profile = self.hardware_detector.detect(force_redetect)
        return self._hardware_profile

    def get_optimization_recommendations(
        self, model: nn.Module | None = None, sample_inputs: Any = None
    ) -> dict[str, Any]:
        """hardware_type, device_name, backend, optimization_level and capabilities; for a model
        also the strategies with what stands against each; with a sample, on the CPU and for a model
        in evaluation mode, also ``plan``: what kernels would gain, quickly measured. The model is
        not changed."""
        profile = self.get_hardware_profile()
        backend = self.hardware_manager.backend
        found: dict[str, Any] = {
            "hardware_type": profile.hardware_type.value,
            "device_name": profile.device_name,
            "backend": backend.BACKEND_NAME,
            "optimization_level": self.hardware_detector.get_recommended_optimization_level(),
            "capabilities": [c.value for c in profile.capabilities],
        }
        if model is None:
            return found
        use = "training" if model.training else "inference"
        advice = backend.optimizer.get_optimization_recommendations(model, use)
        found["strategies"] = advice["strategies"] if isinstance(advice, dict) else advice
        inputs = as_inputs(sample_inputs)
        if inputs is not None and not model.training and backend.device.type == "cpu":
            found["plan"] = plan(model, inputs, progress=False).to_dict()
        return found

    def get_status(self) -> dict[str, Any]:
        """Each part's status, the hardware, and what the last optimisation did."""
        return {
            **{m.context.manager_type.value: m.get_status() for m in self.managers},
            "backend": self.hardware_manager.backend.BACKEND_NAME,
            "device": str(self.hardware_manager.backend.device),
            "last_result": self.last_result.to_dict() if self.last_result else None,
        }

    def suspend_all(self) -> None:
        """Refuse work until :meth:`resume_all`."""
        for manager in self.managers:
            manager.suspend()

    def resume_all(self) -> None:
        """Take work again."""
        for manager in self.managers:
            manager.resume()

    def shutdown_all(self) -> None:
        """Give the device's caches back, and refuse work for good."""
        for manager in self.managers:
            manager.shutdown()


_manager: UnifiedManager | None = None
_lock = threading.Lock()


def get_manager(config: KernelPyTorchConfig | None = None) -> UnifiedManager:
    """The manager that everybody shares, made at first use; ``config`` makes a new one of it."""
    global _manager
    with _lock:
        if _manager is None or config is not None:
            _manager = UnifiedManager(config)
        return _manager


def reset_manager() -> None:
    """Shut the shared manager down; the next use makes a new one."""
    global _manager
    with _lock:
        if _manager is not None:
            _manager.shutdown_all()
        _manager = None


def optimize_with_unified_manager(target: Any, **kwargs: Any) -> Any:
    """:meth:`UnifiedManager.optimize` of the shared manager."""
    return get_manager().optimize(target, **kwargs)
