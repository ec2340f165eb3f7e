"""The backend of NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.accelerator import AcceleratorBackend
from kernel_pytorch.backends.base_optimizer import add_undo
from kernel_pytorch.backends.linear_activation import fuse_linear_activation
from kernel_pytorch.backends.nvidia.memory_manager import NVIDIAMemoryManager
from kernel_pytorch.backends.nvidia.nvidia_optimizer import NVIDIAOptimizer
from kernel_pytorch.core.config import KernelPyTorchConfig, NVIDIAConfig, PrecisionFormat
from kernel_pytorch.core.enums import NVIDIAArchitecture
from kernel_pytorch.core.hardware_detector import HardwareType
from kernel_pytorch.core.kernel_registry import KernelRegistry, get_kernel_registry

__all__ = ["NVIDIABackend"]

_FLASH_HEAD_DIMS = range(8, 257, 8)


class NVIDIABackend(AcceleratorBackend):
    """NVIDIA GPUs through ``torch.cuda``; on a machine without one, models stay on the CPU."""

    BACKEND_NAME = "nvidia"
    HARDWARE = HardwareType.NVIDIA_GPU
    TITLE = "NVIDIA GPU"

    def __init__(self, config: KernelPyTorchConfig | None = None) -> None:
        self.config: KernelPyTorchConfig = KernelPyTorchConfig() if config is None else config
        super().__init__(self.config, self.config.hardware.device_id)

    def _make_optimizer(self) -> NVIDIAOptimizer:
        return NVIDIAOptimizer(self.config, self.device, self.found)

    def _make_memory_manager(self) -> NVIDIAMemoryManager:
        return NVIDIAMemoryManager(self.config, self.device)

    @property
    def nvidia_config(self) -> NVIDIAConfig:
        """NVIDIA's part of the configuration."""
        return self.config.hardware.nvidia

    @property
    def kernel_registry(self) -> KernelRegistry:
        """Every kernel that is known."""
        return get_kernel_registry()

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of the chosen GPU; None without one."""
        if not self.is_available:
            return None
        chosen = self.found.usable[self._device_id]
        if chosen.compute_capability is not None:
            return chosen.compute_capability
        properties = torch.cuda.get_device_properties(self._device_id)
        return properties.major, properties.minor

    @property
    def is_cuda_available(self) -> bool:
        """Whether there is a GPU that torch can use."""
        return self.is_available

    @property
    def is_h100(self) -> bool:
        """Whether the configuration is for Hopper (H100, H200)."""
        return self.nvidia_config.architecture is NVIDIAArchitecture.HOPPER

    @property
    def is_blackwell(self) -> bool:
        """Whether the configuration is for Blackwell."""
        return self.nvidia_config.architecture is NVIDIAArchitecture.BLACKWELL

    @property
    def supports_fp8(self) -> bool:
        """Whether the configuration's architecture multiplies FP8 (Ada, Hopper, Blackwell)."""
        return self.nvidia_config.architecture in (
            NVIDIAArchitecture.ADA,
            NVIDIAArchitecture.HOPPER,
            NVIDIAArchitecture.BLACKWELL,
        )

    def get_device_info_dict(self) -> dict[str, Any]:
        """The chosen device as plain data, with cuda_available and device_count."""
        return {
            **self.get_device_info(self._device_id if self.is_available else 0).to_dict(),
            "cuda_available": self.is_available,
            "device_count": self.device_count,
            "architecture": self.nvidia_config.architecture.value,
        }

    def get_optimal_attention_kernel(
        self, head_dim: int, precision: PrecisionFormat | None = None
    ) -> type[nn.Module] | None:
        """The attention module for heads of this size; None where no GPU runs it (head sizes up to
        256 in steps of 8, 16-bit and 32-bit formats)."""
        served = (None, PrecisionFormat.FP32, PrecisionFormat.FP16, PrecisionFormat.BF16)
        enabled = self.config.kernel.enabled and self.config.kernel.flash_attention_enabled
        if not self.is_available or not enabled:
            return None
        if head_dim not in _FLASH_HEAD_DIMS or precision not in served:
            return None
        from kernel_pytorch.backends.nvidia.flash_attention_integration import FlashAttention3

        return FlashAttention3

    def prepare_model_with_custom_kernels(self, model: nn.Module) -> nn.Module:
        """:meth:`prepare_model`, and on a GPU each linear layer together with the activation after
        it as one operator (``config.kernel.fuse_linear_activation``)."""
        prepared: nn.Module = self.prepare_model(model)
        wanted = self.config.kernel.enabled and self.config.kernel.fuse_linear_activation
        if self.is_available and wanted:
            assert self.last_result is not None
            try:
                pairs = fuse_linear_activation(prepared)
            except RuntimeError as error:
                self.last_result.warnings.append(f"fuse_linear_activation: {error}")
                return prepared
            if pairs:
                add_undo(prepared, [pair.remove for pair in pairs])
                self.last_result.optimizations_applied.append("fuse_linear_activation")
        return prepared

    def _optimize_for_tensor_cores(self, model: nn.Module) -> nn.Module:
        """Older callers' name for what level O2 does."""
        return self._done(self.optimizer.optimize(model, "O2"))
