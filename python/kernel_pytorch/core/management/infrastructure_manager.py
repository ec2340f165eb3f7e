"""What is known of what goes through: deprecations, and checks of models."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.management.base import BaseManager, ManagerType

__all__ = ["InfrastructureManager"]


class InfrastructureManager(BaseManager):
    """Deprecations, and checks of what goes through."""

    MANAGER_TYPE = ManagerType.INFRASTRUCTURE

    def __init__(self, config: KernelPyTorchConfig) -> None:
        super().__init__(config)
        self._deprecations: dict[str, dict[str, Any]] = {}
        self._results: list[dict[str, Any]] = []

    def _optimize(self, target: Any, **kwargs: Any) -> Any:
        """Notes whether a model's parameters and buffers are finite; returns it unchanged."""
        if isinstance(target, nn.Module):
            named = [*target.named_parameters(), *target.named_buffers()]
            bad = [
                name
                for name, tensor in named
                if tensor.is_floating_point()
                and tensor.device.type != "meta"
                and not bool(tensor.isfinite().all())
            ]
            self._results.append(
                {"model": type(target).__name__, "valid": not bad, "not_finite": bad}
            )
            if bad:
                warnings.warn(
                    f"{type(target).__name__} has values that are not finite in {', '.join(bad)}",
                    UserWarning,
                    stacklevel=4,
                )
        return target

    def register_deprecation(
        self,
        component_name: str,
        message: str,
        removal_version: str | None = None,
        replacement: str | None = None,
    ) -> None:
        """Note that a component goes, and warn (DeprecationWarning)."""
        self._deprecations[component_name] = {
            "message": message,
            "removal_version": removal_version,
            "replacement": replacement,
        }
        until = f"; it goes with {removal_version}" if removal_version else ""
        instead = f"; use {replacement}" if replacement else ""
        warnings.warn(
            f"{component_name}: {message}{until}{instead}", DeprecationWarning, stacklevel=2
        )

    def get_deprecations(self) -> dict[str, dict[str, Any]]:
        """By component."""
        return {name: dict(entry) for name, entry in self._deprecations.items()}

    def get_validation_results(self) -> list[dict[str, Any]]:
        """The checks of models, oldest first."""
        return [dict(result) for result in self._results]

    def clear_validation_results(self) -> None:
        """Forget them."""
        self._results.clear()
