"""Whether a device is there and computes right."""

from __future__ import annotations

import functools

import torch

from kernel_pytorch.core.hardware_detector import detect_hardware
from kernel_pytorch.validation.report import (
    Check,
    Outcome,
    ValidationLevel,
    failed,
    passed,
    skipped,
    warned,
)

__all__ = ["hardware_checks"]

_EPSILONS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
_SIZE = 256


def _absent(device: torch.device) -> str:
    """Why a device cannot be used; "" when it can."""
    if device.type == "cpu":
        return ""
    try:
        module = torch.get_device_module(device)
    except (RuntimeError, ValueError) as error:
        return f"PyTorch knows no device {device.type}: {error}"
    count = module.device_count() if module.is_available() else 0
    if count <= (device.index or 0):
        return f"PyTorch sees {count} devices of type {device.type}"
    return ""


def hardware_checks(device: torch.device) -> list[Check]:
    """The device, its arithmetic against float64, its memory, the kernels for it."""
    why_not = _absent(device)

    def present() -> Outcome:
        if why_not:
            return failed(f"{device}: {why_not}")
        return passed(f"{device} can be used")

    def arithmetic(dtype: torch.dtype) -> Outcome:
        if why_not:
            return skipped(why_not)
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(_SIZE, _SIZE, generator=generator).to(dtype) for _ in range(2))
        exact = a.double() @ b.double()
        got = (a.to(device) @ b.to(device)).double().cpu()
        error = float((got - exact).norm() / exact.norm())
        bound = 4 * _EPSILONS[dtype]
        if not error <= bound:
            return failed(f"a product in {dtype} is off by {error:.2g}", error=error, bound=bound)
        return passed(f"a product in {dtype} is off by {error:.2g}", error=error, bound=bound)

    def memory() -> Outcome:
        if why_not:
            return skipped(why_not)
        profile = detect_hardware()
        if device.type == "cpu":
            total = profile.cpu.memory_bytes if profile.cpu is not None else 0
        else:
            index = device.index or 0
            total = next((a.memory_bytes for a in profile.accelerators if a.index == index), 0)
        if not total:
            return warned("nothing tells how much memory it has")
        written = torch.full((1 << 24,), 0xA5, dtype=torch.uint8, device=device)
        if not bool((written == 0xA5).all()):
            return failed("memory does not hold what was written")
        return passed(f"{total / 2**30:.1f} GiB; 16 MiB of it hold what was written", bytes=total)

    def kernels() -> Outcome:
        from kernel_pytorch.backends import cpu, cuda
        from kernel_pytorch.core.errors import NativeUnavailableError

        module = {"cpu": cpu, "cuda": cuda}.get(device.type)
        if module is None:
            return warned(f"there are no native kernels for {device.type}: references run")
        try:
            module.module_file()
        except NativeUnavailableError as error:
            return failed(f"the kernels do not load: {error}")
        if device.type == "cpu":
            return passed(f"the kernels load; in use up to {cpu.isa()}", isa=cpu.isa())
        return passed("the kernels load")

    checks = [Check(name="device", run=present)]
    for dtype in _EPSILONS:
        name = str(dtype).removeprefix("torch.")
        checks.append(Check(name=f"arithmetic {name}", run=functools.partial(arithmetic, dtype)))
    standard = ValidationLevel.STANDARD
    checks.append(Check(name="memory", run=memory, level=standard))
    checks.append(Check(name="kernels", run=kernels, level=standard))
    return checks
