"""From a level to a changed model: the optimizer of a backend is a list of strategies.

:class:`BaseOptimizer` goes through the strategies that the level names, in their order, and lists
those that changed something; the others stand in the result's warnings with the reason. Every
optimisation can be undone, and a new one on the same model undoes the last.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends import strategies
from kernel_pytorch.backends.base_exceptions import ConfigurationError, OptimizationError
from kernel_pytorch.backends.base_types import (
    KernelConfig,
    OptimizationLevel,
    OptimizationResult,
    OptimizationStrategy,
)
from kernel_pytorch.backends.lru_cache import LRUCache
from kernel_pytorch.backends.strategies import Work

__all__ = [
    "BaseKernelOptimizer",
    "BaseOptimizer",
    "CPUOptimizer",
    "KernelConfig",
    "OptimizationStrategy",
    "add_undo",
    "as_inputs",
    "as_level",
    "is_optimized",
    "revert",
]

_HISTORY = 100

_ATTRIBUTE = "_kpt_backend"


class _Done:
    """What takes back the optimisation of a model: kept on the model, not copied with it."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], object]] = []

    def __reduce__(self) -> tuple[type[_Done], tuple[()]]:
        return _Done, ()


def as_level(level: str | OptimizationLevel | None, default: OptimizationLevel) -> Any:
    """The level that is meant; ConfigurationError (a ValueError) for an unknown one."""
    if level is None:
        return default
    try:
        return OptimizationLevel(level)
    except ValueError as error:
        raise ConfigurationError("optimization_level", level, str(error)) from error


def as_inputs(sample: Any) -> tuple[Any, ...] | Mapping[str, Any] | None:
    """A sample as the model is called: a tensor alone becomes a tuple of one."""
    if sample is None or isinstance(sample, (tuple, Mapping)):
        return sample
    if isinstance(sample, torch.Tensor):
        return (sample,)
    if isinstance(sample, list):
        return tuple(sample)
    raise ConfigurationError(
        "sample_input",
        type(sample).__name__,
        "expected a tensor, a tuple of positional inputs or a mapping of keyword inputs",
    )


def is_optimized(model: nn.Module) -> bool:
    """Whether a backend has optimised ``model`` and it was not reverted."""
    return _ATTRIBUTE in model.__dict__


def revert(model: nn.Module) -> nn.Module:
    """Undo the last optimisation of ``model`` by a backend; returns it. Does nothing where there
    is none."""
    done = model.__dict__.pop(_ATTRIBUTE, None)
    if done is not None:
        strategies.undo(done.undo)
    return model


def add_undo(model: nn.Module, steps: list[Callable[[], object]]) -> None:
    """Let :func:`revert` call ``steps`` too, the last first, before what it already has to undo."""
    if steps:
        model.__dict__.setdefault(_ATTRIBUTE, _Done()).undo.extend(steps)


class BaseOptimizer(ABC):
    """What the optimizers of all backends share.

    Args:
        config: a :class:`~kernel_pytorch.core.config.KernelPyTorchConfig`, a vendor's part of one,
            or None.
        device: where models are to run; None: the backend's first device, the CPU without one.
    """

    OPTIMIZER_NAME = "base"
    default_level = OptimizationLevel.O2
    time_budget: float | None = None
    """Seconds that measuring replacements may take in one optimisation; None: what it takes."""

    def __init__(self, config: Any = None, device: torch.device | str | None = None) -> None:
        self.config = config
        self._device = None if device is None else torch.device(device)
        self._history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)

    @abstractmethod
    def get_available_strategies(self) -> list[OptimizationStrategy]:
        """Everything that some level of this backend does, in the order in which it is done."""

    def absent(self) -> str:
        """Why the backend's device is not there; "" when it is."""
        return ""

    @property
    def device(self) -> torch.device:
        """Where models are placed."""
        return torch.device("cpu") if self._device is None or self.absent() else self._device

    def get_strategies_for_level(
        self, level: OptimizationLevel, purpose: str | None = None
    ) -> list[OptimizationStrategy]:
        """The strategies that ``level`` names; only those for a ``purpose`` ("inference" or
        "training") when that is given."""
        return [
            s
            for s in self.get_available_strategies()
            if s.is_applicable(level) and (purpose is None or s.purpose in (purpose, "both"))
        ]

    def optimize(
        self,
        model: nn.Module,
        level: str | OptimizationLevel | None = None,
        sample_input: Any = None,
        dtype: torch.dtype | None = None,
        for_inference: bool = False,
        for_training: bool = False,
        *,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> tuple[nn.Module, OptimizationResult]:
        """Do to ``model``, in place, what ``level`` names; returns it and what was done.

        Without ``for_inference`` and ``for_training`` the model's own mode says which is meant, and
        stays. ``sample_input`` is a tensor, a tuple of positional or a mapping of keyword inputs.
        Parameters and state dict keep names, values and dtypes; :func:`revert` undoes it all.

        Raises TypeError for what is no module, ConfigurationError (a ValueError) for an unknown
        level, both purposes at once or a sample of another kind, OptimizationError when a strategy
        fails; the model then is as it was.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"optimize: argument 'model' must be a torch.nn.Module, got {type(model).__name__}"
            )
        if for_inference and for_training:
            raise ConfigurationError("for_training", True, "for_inference is given too: choose one")
        chosen: OptimizationLevel = as_level(level, self.default_level)
        training = for_training or (not for_inference and model.training)
        sample = as_inputs(sample_input)
        revert(model)
        work = Work(
            model=model,
            device=self.device,
            absent=self.absent(),
            sample=sample,
            dtype=dtype,
            explicit_mode=for_inference or for_training,
            optimizer=optimizer,
            time_budget=self.time_budget,
        )
        result = OptimizationResult(True, model, chosen)
        started = time.perf_counter()
        for strategy in self.get_strategies_for_level(
            chosen, "training" if training else "inference"
        ):
            assert strategy.apply is not None
            try:
                reason = strategy.apply(work)
            except BaseException as error:
                strategies.undo(work.undo)
                if not isinstance(error, Exception) or isinstance(error, OptimizationError):
                    raise
                raise OptimizationError(strategy.name, str(error)) from error
            if reason == strategies.DONE:
                result.optimizations_applied.append(strategy.name)
            elif reason is not strategies.NOTHING:
                result.warnings.append(f"{strategy.name}: {reason}")
        result.metrics = {**work.metrics, "seconds": time.perf_counter() - started}
        if work.undo:
            done = model.__dict__[_ATTRIBUTE] = _Done()
            done.undo = work.undo
        self._history.append(
            {"model": type(model).__name__, "optimizer": self.OPTIMIZER_NAME, **result.to_dict()}
        )
        return model, result

    def optimize_for_inference(
        self,
        model: nn.Module,
        sample_input: Any = None,
        level: str | OptimizationLevel | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[nn.Module, OptimizationResult]:
        """:meth:`optimize` for evaluation."""
        return self.optimize(model, level, sample_input, dtype, for_inference=True)

    def optimize_for_training(
        self,
        model: nn.Module,
        level: str | OptimizationLevel | None = None,
        dtype: torch.dtype | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> tuple[nn.Module, OptimizationResult]:
        """:meth:`optimize` for training."""
        return self.optimize(model, level, None, dtype, for_training=True, optimizer=optimizer)

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo the last optimisation of ``model``."""
        return revert(model)

    def get_optimization_recommendations(
        self, model: nn.Module, target_use: str = "inference"
    ) -> Any:
        """For each strategy: what it would do to ``model``, from which level on, and whether it
        would change anything now; touches nothing that stays.

        What needs a sample to be measured is marked so. ConfigurationError for another
        ``target_use`` than "inference" and "training".
        """
        if target_use not in ("inference", "training"):
            raise ConfigurationError("target_use", target_use, "expected inference or training")
        found = []
        for strategy in self.get_available_strategies():
            if strategy.purpose not in (target_use, "both"):
                continue
            missing = [r for r in strategy.requires if r != "device"]
            if "device" in strategy.requires and self.absent():
                reason = self.absent()
            elif missing:
                reason = f"needs {', '.join(missing)}"
            else:
                reason = ""
            found.append(
                {
                    "strategy": strategy.name,
                    "description": strategy.description,
                    "from_level": min(level.value for level in strategy.applicable_levels),
                    "precision_impact": strategy.precision_impact,
                    "applicable": not reason,
                    "reason": reason,
                }
            )
        return found

    def get_optimization_history(self) -> list[dict[str, Any]]:
        """The last 100 results of this optimizer as plain data, oldest first."""
        return list(self._history)

    def clear_cache(self) -> None:
        """Forget the history."""
        self._history.clear()


class CPUOptimizer(BaseOptimizer):
    """The CPU: native kernels where they win on a sample, bf16 training where the processor can."""

    OPTIMIZER_NAME = "cpu"

    def get_available_strategies(self) -> list[OptimizationStrategy]:
        s = strategies
        return [
            s.EVAL_MODE,
            s.TRAIN_MODE,
            dataclasses.replace(s.DEVICE, description="parameters and buffers move to the CPU"),
            s.FROZEN_PARAMETERS,
            s.FOLD_CONV_BN,
            s.KERNELS_KEEP,
            s.KERNELS_BF16,
            s.KERNELS_INT8,
            s.FUSED_OPTIMIZER,
            dataclasses.replace(s.AUTOCAST, purpose="training"),
        ]


class BaseKernelOptimizer(ABC):
    """Kernel configurations for given sizes, remembered."""

    OPTIMIZER_NAME = "base_kernel"

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self._configs: LRUCache[KernelConfig] = LRUCache(256)

    @abstractmethod
    def get_optimal_gemm_config(
        self, m: int, n: int, k: int, dtype: torch.dtype = torch.float32
    ) -> Any:
        """For ``[m, k] x [k, n]``."""

    @abstractmethod
    def get_optimal_conv_config(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """For a convolution."""

    @abstractmethod
    def get_optimal_attention_config(
        self, seq_len: int, head_dim: int, num_heads: int, dtype: torch.dtype = torch.float32
    ) -> Any:
        """For attention over ``seq_len`` tokens."""

    def get_cached_config(self, key: str) -> KernelConfig | None:
        """What :meth:`cache_config` got for ``key``; None when nothing or no longer."""
        return self._configs.get(key)

    def cache_config(self, key: str, config: KernelConfig) -> None:
        """Remember ``config``; the 256 that were used last are kept."""
        self._configs.set(key, config)

    def clear_cache(self) -> None:
        """Forget all configurations."""
        self._configs.clear()
