"""Settings that contradict the hardware they are for. They are told, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_pytorch.core.enums import HardwareBackend
from kernel_pytorch.core.hardware_detector.tables import traits_by_name

if TYPE_CHECKING:
    from kernel_pytorch.core.config.root import KernelPyTorchConfig

__all__ = ["conflicts"]

_DEVICES = {
    HardwareBackend.CUDA: ("cuda",),
    HardwareBackend.AMD: ("cuda",),
    HardwareBackend.INTEL: ("xpu", "cpu"),
    HardwareBackend.TPU: ("xla", "tpu", "cpu"),
    HardwareBackend.CPU: ("cpu",),
}


def conflicts(config: KernelPyTorchConfig) -> list[str]:
    """One sentence for each setting that cannot hold."""
    found = []
    hardware = config.hardware
    nvidia = traits_by_name(hardware.nvidia.architecture.value)
    if nvidia is not None:
        name = nvidia.name
        if hardware.nvidia.fp8_enabled and not nvidia.fp8:
            found.append(f"hardware.nvidia.fp8_enabled: {name} has no FP8")
        if hardware.nvidia.tensor_core_version and not nvidia.matrix_units:
            found.append(f"hardware.nvidia.tensor_core_version: {name} has no tensor cores")
    amd = traits_by_name(hardware.amd.architecture.value)
    if amd is not None and hardware.amd.enable_matrix_cores and not amd.matrix_units:
        found.append(f"hardware.amd.enable_matrix_cores: {amd.name} has no matrix units")
    wanted = _DEVICES.get(hardware.backend)
    if wanted and config.device.type not in (*wanted, "meta"):
        found.append(
            f"device: {config.device} does not belong to the backend {hardware.backend.value!r}"
        )
    fp8 = (nvidia and nvidia.fp8 and hardware.backend is HardwareBackend.CUDA) or (
        amd and amd.fp8 and hardware.backend is HardwareBackend.AMD
    )
    gpu = hardware.backend in (HardwareBackend.CUDA, HardwareBackend.AMD)
    for key in ("fp8_layernorm", "fp8_attention", "fp8_matmul"):
        if getattr(config.kernel, key) and gpu and not fp8:
            found.append(f"kernel.{key}: the {hardware.backend.value} device has no FP8")
    distributed = config.distributed
    if distributed.rank >= distributed.world_size:
        found.append(
            f"distributed.rank: {distributed.rank} of {distributed.world_size} processes "
            "(ranks count from 0)"
        )
    if distributed.enabled and distributed.backend == "nccl" and not gpu:
        found.append("distributed.backend: nccl needs GPUs of NVIDIA or AMD; gloo runs on CPUs")
    return found
