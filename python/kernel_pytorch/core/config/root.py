"""The whole configuration, and the one that a process shares."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, PlainSerializer

from kernel_pytorch.core.config import files
from kernel_pytorch.core.config.base import Section
from kernel_pytorch.core.config.conflicts import conflicts
from kernel_pytorch.core.config.hardware import HardwareConfig
from kernel_pytorch.core.config.presets import PRESETS
from kernel_pytorch.core.config.sections import (
    AnyLevel,
    AttentionConfig,
    DistributedConfig,
    KernelConfig,
    MemoryConfig,
    PrecisionConfig,
    ValidationConfig,
)
from kernel_pytorch.core.enums import HardwareBackend, OptimizationLevel

__all__ = ["KernelPyTorchConfig", "configure", "get_config", "set_config"]

_DEVICES = {
    HardwareBackend.CUDA: "cuda",
    HardwareBackend.AMD: "cuda",  # as PyTorch calls it
    HardwareBackend.INTEL: "xpu",
}


def _device(value: Any) -> torch.device:
    if isinstance(value, torch.device):
        return value
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise ValueError("should be a device of PyTorch, such as 'cpu' or 'cuda:1'") from None


def _default_device(values: Mapping[str, Any]) -> torch.device:
    hardware = values.get("hardware")
    kind = _DEVICES.get(hardware.backend, "cpu") if hardware else "cpu"
    index = hardware.device_id if hardware and kind != "cpu" else None
    return torch.device(kind) if index is None else torch.device(kind, index)


class KernelPyTorchConfig(Section):
    """Everything that can be set, in sections.

    Values are checked when they are given and whenever they are set; what is not given is filled in
    (some of it from the machine). :meth:`load` reads files, the environment and assignments;
    :meth:`save`, :meth:`to_toml` and :meth:`to_json` write what reads back the same.
    """

    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    memory: MemoryConfig = Field(default_factory=MemoryConfig)
    attention: AttentionConfig = Field(default_factory=AttentionConfig)
    hardware: HardwareConfig = Field(default_factory=HardwareConfig)
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    kernel: KernelConfig = Field(default_factory=KernelConfig)
    device: Annotated[
        torch.device, BeforeValidator(_device), PlainSerializer(str, return_type=str)
    ] = Field(default_factory=_default_device)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    debug: bool = False
    profile: bool = False
    optimization_level: AnyLevel = OptimizationLevel.BALANCED
    experimental_features: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KernelPyTorchConfig:
        """The configuration with these values, nested as :meth:`to_dict` has them."""
        return cls(**values)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        preset: str | None = None,
        environment: Mapping[str, str] | None = None,
        assignments: Mapping[str, Any] | None = None,
    ) -> KernelPyTorchConfig:
        """Defaults, then a preset, then a TOML or JSON file, then the environment, then
        assignments: each may set what those before it set, and what then holds is told by
        :meth:`origin`.

        ``preset``: "inference", "training" or "development". ``environment`` (default: the
        process's): ``KPT_CONFIG__PRECISION__FP8_ENABLED=1`` sets precision.fp8_enabled, and
        ``KPT_CONFIG_FILE`` names the file when ``path`` is None. ``assignments``: dotted keys, as
        the command line's ``--set``. Raises ConfigValidationError.
        """
        layers = files.layers(cls, path, preset, environment, assignments)
        values, origins = files.merged(layers)
        config = cls(**values)
        config.__dict__["_origins"] = origins  # no field: configurations are equal without it
        return config

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from when this was loaded: "preset inference",
        "environment", "assignment", a file's name, or "default"."""
        files.check_key(type(self), key)
        origins: dict[str, str] = self.__dict__.get("_origins", {})
        return origins.get(key, "default")

    @classmethod
    def for_inference(cls, **values: Any) -> KernelPyTorchConfig:
        """The preset for inference; ``values`` (sections as mappings) come before it."""
        return cls._preset("inference", values)

    @classmethod
    def for_training(cls, **values: Any) -> KernelPyTorchConfig:
        """The preset for training; ``values`` come before it."""
        return cls._preset("training", values)

    @classmethod
    def for_development(cls, **values: Any) -> KernelPyTorchConfig:
        """The preset for development; ``values`` come before it."""
        return cls._preset("development", values)

    @classmethod
    def _preset(cls, name: str, values: Mapping[str, Any]) -> KernelPyTorchConfig:
        found, _ = files.merged([(f"preset {name}", PRESETS[name]), ("argument", values)])
        return cls(**found)

    def conflicts(self) -> list[str]:
        """What is set and cannot hold on the hardware it is set for, a sentence each; nothing is
        changed."""
        return conflicts(self)

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads back the same."""
        return files.to_json(self.to_dict())

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back the same. What is None is left out, for TOML
        has no such value."""
        return files.to_toml(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> KernelPyTorchConfig:
        """Raises ConfigValidationError, as :meth:`from_toml` does."""
        return cls(**files.from_json(text, "JSON text"))

    @classmethod
    def from_toml(cls, text: str) -> KernelPyTorchConfig:
        return cls(**files.from_toml(text, "TOML text"))

    def save(self, path: str | Path) -> None:
        """Writes a .toml or .json file, whole or not at all."""
        files.write(Path(path), self.to_dict())


_shared: KernelPyTorchConfig | None = None
_lock = threading.RLock()


def get_config() -> KernelPyTorchConfig:
    """The configuration that the process shares, loaded when it is first asked for."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = KernelPyTorchConfig.load()
        return _shared


def set_config(config: KernelPyTorchConfig) -> None:
    """Makes ``config`` the shared one. Raises TypeError for anything else."""
    if not isinstance(config, KernelPyTorchConfig):
        raise TypeError(f"set_config: expected a KernelPyTorchConfig, got {type(config).__name__}")
    global _shared
    with _lock:
        _shared = config


def configure(**values: Any) -> KernelPyTorchConfig:
    """Sets values of the shared configuration, all or none, and returns it."""
    with _lock:
        config = get_config()
        config.update(**values)
        return config
