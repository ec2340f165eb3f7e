"""The CPU: its instruction sets, those the kernels use, its caches."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from kernel_pytorch.bench.caches import last_level_bytes
from kernel_pytorch.cli.doctor.finding import Finding, Status, read_text
from kernel_pytorch.cli.doctor.software import torch_problem
from kernel_pytorch.core.errors import NativeUnavailableError

__all__ = ["check"]

# What kernels are written for, as /proc/cpuinfo spells it.
_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512_bf16",
    "avx512_vnni",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)


def check() -> list[Finding]:
    """The CPU as the system describes it and, if the compiled module loads, as kernels use it."""
    info: dict[str, str] = {}
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    words = set((info.get("flags") or info.get("Features") or "").split())
    flags = [flag for flag in _FLAGS if flag in words]
    name = info.get("model name") or platform.processor() or platform.machine()
    allowed = len(os.sched_getaffinity(0))
    found = [
        Finding(
            area="cpu",
            name="model",
            value=f"{name}, {allowed} of {os.cpu_count()} CPUs usable",
            data={"model": name, "usable_cpus": allowed, "cpus": os.cpu_count()},
        ),
        Finding(
            area="cpu",
            name="flags",
            value=" ".join(flags) or "none that kernels use",
            data={"flags": flags},
        ),
    ]
    found += _levels(flags)
    return found


def _levels(flags: list[str]) -> list[Finding]:
    if torch_problem():
        return []
    from kernel_pytorch.backends import cpu

    try:
        detected, used, features = cpu.detected_isa(), cpu.isa(), cpu.cpu_features()
    except NativeUnavailableError:  # reported under software
        return []
    data = {"detected": detected, "in_use": used, "kernel_features": features}
    level = Finding(
        area="cpu",
        name="instruction sets",
        value=f"kernels use up to {used}, "
        + ("all that the CPU has" if used == detected else f"but the CPU has {detected}"),
        data=data,
    )
    if used != detected:
        level = Finding(
            area="cpu",
            name=level.name,
            value=level.value,
            status=Status.PROBLEM,
            why=f"KPT_ISA={os.environ.get('KPT_ISA', used)} keeps the kernels below what this CPU "
            "has.",
            fix="unset KPT_ISA",
            data=data,
        )
    elif "amx_tile" in flags and not features["amx_tile"]:
        level = Finding(
            area="cpu",
            name=level.name,
            value=level.value,
            status=Status.ADVICE,
            why="The CPU has AMX, but the system does not let processes use it: that needs Linux "
            "5.16 or newer, and a virtual machine must pass it through.",
            data=data,
        )
    elif detected == "baseline":
        level = Finding(
            area="cpu",
            name=level.name,
            value=level.value,
            status=Status.ADVICE,
            why="Without AVX2 most kernels gain little over PyTorch; run on a newer CPU, or let "
            "the virtual machine pass the host's instruction sets through.",
            data=data,
        )
    last = last_level_bytes()
    caches = (
        f"L1 {features['l1d_bytes'] >> 10} KiB and L2 {features['l2_bytes'] >> 10} KiB a core, "
        f"last level {last >> 10} KiB"
    )
    sizes = {
        "l1d_bytes": features["l1d_bytes"],
        "l2_bytes": features["l2_bytes"],
        "last_level_bytes": last,
    }
    return [level, Finding(area="cpu", name="caches", value=caches, data=sizes)]
