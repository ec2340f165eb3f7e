"""The compiled kernels for NVIDIA GPUs: whether they are here, and what they lack to run."""

from __future__ import annotations

from kernel_pytorch.cli.doctor.finding import Finding, Status
from kernel_pytorch.cli.doctor.software import module_fix, torch_problem
from kernel_pytorch.core.errors import NativeUnavailableError

__all__ = ["check"]

_OLDEST = (8, 0)


def check(gpus: int) -> list[Finding]:
    """``gpus``: how many NVIDIA GPUs are on the bus. Without any, nothing here is wanting."""
    if torch_problem():
        return []
    from kernel_pytorch.backends import cuda

    def finding(value: str, why: str = "", fix: str = "", **data: object) -> list[Finding]:
        status = Status.ADVICE if why and gpus else Status.OK
        if status is Status.OK and why:
            value, why, fix = f"{value}: {why}", "", ""
        return [
            Finding(
                area="gpus",
                name="CUDA kernels",
                value=value,
                status=status,
                why=why,
                fix=fix,
                data=data,
            )
        ]

    try:
        version, devices = cuda.runtime_version(), cuda.devices()
    except NativeUnavailableError as error:
        why = "this installation has no kernels for NVIDIA GPUs, where the references run"
        return finding("not installed", f"{why} ({error})", module_fix(error), loads=False)
    capabilities = [".".join(map(str, c)) for c in devices.capabilities]
    data = {
        "loads": True,
        "cuda_runtime": version,
        "capabilities": capabilities,
        "problem": devices.problem,
    }
    value = f"loaded, CUDA {version} inside"
    if devices.problem:
        return finding(value, f"no GPU to run on: {devices.problem}", "nvidia-smi", **data)
    old = [c for c in devices.capabilities if c < _OLDEST]
    value += f"; compute capability {', '.join(capabilities)}"
    if old:
        why = "Kernels are compiled for compute capability 8.0 and later; on older GPUs the "
        return finding(value, f"{why}references run.", "", **data)
    return finding(value, **data)
