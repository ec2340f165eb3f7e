"""The CPU: its instruction sets, those the kernels use, its caches."""

from __future__ import annotations

import dataclasses
import os

from kernel_pytorch.bench.caches import last_level_bytes
from kernel_pytorch.cli.doctor.finding import Finding, Status
from kernel_pytorch.cli.doctor.software import torch_problem
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.core.hardware_detector import detect_hardware

__all__ = ["check"]


def check() -> list[Finding]:
    """The CPU as the system describes it and, if the compiled module loads, as kernels use it."""
    cpu = detect_hardware().cpu
    assert cpu is not None
    memory = f"{cpu.memory_bytes / 2**30:.0f} GiB"
    nodes = f", {len(cpu.numa_nodes)} NUMA nodes" if len(cpu.numa_nodes) > 1 else ""
    found = [
        Finding(
            area="cpu",
            name="model",
            value=f"{cpu.vendor} {cpu.model}, {cpu.usable_cpus} of {cpu.logical_cpus} CPUs usable "
            f"({cpu.physical_cores} cores), {memory}{nodes}",
            data={
                "vendor": cpu.vendor,
                "model": cpu.model,
                "machine": cpu.machine,
                "usable_cpus": cpu.usable_cpus,
                "cpus": cpu.logical_cpus,
                "physical_cores": cpu.physical_cores,
                "memory_bytes": cpu.memory_bytes,
                "numa_nodes": [dataclasses.asdict(node) for node in cpu.numa_nodes],
            },
        ),
        Finding(
            area="cpu",
            name="flags",
            value=" ".join(cpu.flags) or "none that kernels use",
            data={"flags": list(cpu.flags)},
        ),
    ]
    found += _levels(list(cpu.flags))
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
