"""Whether a configuration fits together, and fits the machine."""

from __future__ import annotations

import torch

from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.enums import HardwareBackend
from kernel_pytorch.core.hardware_detector import HardwareType, detect_hardware
from kernel_pytorch.validation.report import (
    Check,
    Outcome,
    failed,
    passed,
    skipped,
    warned,
)

__all__ = ["configuration_checks"]

_KINDS = {
    HardwareBackend.CUDA: HardwareType.NVIDIA_GPU,
    HardwareBackend.AMD: HardwareType.AMD_GPU,
    HardwareBackend.INTEL: HardwareType.INTEL_GPU,
    HardwareBackend.TPU: HardwareType.TPU,
}


def configuration_checks(config: KernelPyTorchConfig) -> list[Check]:
    """Values against each other, and against what this machine has."""

    def consistent() -> Outcome:
        found = config.conflicts()
        if found:
            return failed("; ".join(found), conflicts=found)
        return passed("no values contradict each other")

    def kept() -> Outcome:
        again = KernelPyTorchConfig.from_json(config.to_json())
        if again.to_json() != config.to_json():
            return failed("written as JSON and read again it is another configuration")
        return passed("written as JSON and read again it is the same")

    def device() -> Outcome:
        wanted = torch.device(config.device)
        if wanted.type == "cuda" and not torch.cuda.is_available():
            return failed(f"device {wanted}: this PyTorch sees no such device")
        if wanted.type == "xpu" and not torch.xpu.is_available():
            return failed(f"device {wanted}: this PyTorch sees no such device")
        return passed(f"device {wanted} can be used")

    def backend() -> Outcome:
        wanted = config.hardware.backend
        kind = _KINDS.get(wanted)
        if kind is None:
            return passed(f"backend {wanted.value}")
        if all(a.hardware_type is not kind for a in detect_hardware().accelerators):
            return failed(f"backend {wanted.value}: this machine has none")
        return passed(f"backend {wanted.value}: this machine has it")

    def precision() -> Outcome:
        wanted = [
            name
            for name, on in (
                ("precision.fp8_enabled", config.precision.fp8_enabled),
                ("kernel.fp8_attention", config.kernel.fp8_attention),
                ("kernel.fp8_matmul", config.kernel.fp8_matmul),
                ("kernel.fp8_layernorm", config.kernel.fp8_layernorm),
            )
            if on
        ]
        if not wanted:
            return passed("no FP8 is asked for")
        traits = [a.traits for a in detect_hardware().accelerators if a.traits is not None]
        if any(t.fp8 for t in traits):
            return passed("FP8 is asked for, and an accelerator has it")
        return warned(f"{', '.join(wanted)}: no accelerator here has FP8: it is converted")

    def memory() -> Outcome:
        limit = config.memory.max_memory_gb
        cpu = detect_hardware().cpu
        if limit is None or cpu is None or not cpu.memory_bytes:
            return skipped("no limit is set, or nothing tells how much memory there is")
        have = max(cpu.memory_bytes, *(a.memory_bytes for a in detect_hardware().accelerators), 0)
        if limit > have / 2**30:
            return failed(f"memory.max_memory_gb {limit:g}: this machine has {have / 2**30:.1f}")
        return passed(f"memory.max_memory_gb {limit:g} of {have / 2**30:.1f}")

    def distributed() -> Outcome:
        d = config.distributed
        if not d.enabled:
            return skipped("one process")
        if d.rank >= d.world_size:
            return failed(f"distributed.rank {d.rank}: must be below world_size {d.world_size}")
        available = {
            "nccl": torch.distributed.is_nccl_available,
            "gloo": torch.distributed.is_gloo_available,
            "mpi": torch.distributed.is_mpi_available,
        }
        check = available.get(d.backend)
        if check is None:
            return failed(f"distributed.backend {d.backend}: there are {', '.join(available)}")
        if not check():
            return failed(f"distributed.backend {d.backend}: this PyTorch was built without it")
        return passed(f"rank {d.rank} of {d.world_size} over {d.backend}")

    return [
        Check(name="consistent", run=consistent),
        Check(name="round trip", run=kept),
        Check(name="device", run=device),
        Check(name="backend", run=backend),
        Check(name="precision", run=precision),
        Check(name="memory", run=memory),
        Check(name="distributed", run=distributed),
    ]
