"""The processor: vendor, instruction sets, cores, caches, NUMA nodes, memory."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from kernel_pytorch.core.hardware_detector.probe import Probe
from kernel_pytorch.core.hardware_detector.records import CpuInfo, NumaNode

__all__ = ["KERNEL_FLAGS", "find_cpu", "parse_cpu_list", "physical_cores"]

KERNEL_FLAGS = (
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
"""What kernels are written for, as /proc/cpuinfo spells it."""

_VENDORS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "0x41": "ARM",  # implementer codes: Arm Architecture Reference Manual, MIDR_EL1
    "0x61": "Apple",
    "0xc0": "Ampere",
    "0x4e": "NVIDIA",
}
_SIZE = re.compile(r"(\d+)([KMG]?)")


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPUs of a list as Linux writes it: "0-3,8" is (0, 1, 2, 3, 8)."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def find_cpu(probe: Probe) -> CpuInfo:
    """The processor that ``probe`` sees."""
    info: dict[str, str] = {}
    for line in probe.read("proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    words = set((info.get("flags") or info.get("Features") or "").split())
    vendor = info.get("vendor_id") or info.get("CPU implementer") or ""
    native = probe.native_cpu() or {}
    usable = probe.usable_cpus()
    return CpuInfo(
        vendor=_VENDORS.get(vendor, vendor) or ("Apple" if probe.machine() == "arm64" else ""),
        model=info.get("model name") or probe.machine(),
        machine=probe.machine(),
        isa=str(native.get("isa", "")),
        # Where the system lists none (macOS, Windows) the kernels' own view is all there is.
        flags=tuple(f for f in KERNEL_FLAGS if f in words or (not words and native.get(f))),
        logical_cpus=probe.logical_cpus(),
        usable_cpus=len(usable),
        physical_cores=physical_cores(probe, usable),
        numa_nodes=_numa_nodes(probe),
        memory_bytes=probe.memory_bytes(),
        **_caches(probe, min(usable, default=0), native),
    )


def physical_cores(probe: Probe, cpus: AbstractSet[int]) -> int:
    """Cores among ``cpus``: hardware threads of one core count once."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({probe.read(topology.format(cpu)) or str(cpu) for cpu in cpus})


def _numa_nodes(probe: Probe) -> tuple[NumaNode, ...]:
    nodes = []
    for folder in probe.glob("sys/devices/system/node/node[0-9]*"):
        where = f"sys/devices/system/node/{folder.name}"
        total = re.search(r"MemTotal:\s+(\d+) kB", probe.read(f"{where}/meminfo"))
        nodes.append(
            NumaNode(
                index=int(folder.name.removeprefix("node")),
                cpus=parse_cpu_list(probe.read(f"{where}/cpulist")),
                memory_bytes=int(total[1]) << 10 if total else 0,
            )
        )
    return tuple(sorted(nodes, key=lambda node: node.index))


def _caches(probe: Probe, cpu: int, native: object) -> dict[str, int]:
    sizes = {"l1d_bytes": 0, "l2_bytes": 0, "l3_bytes": 0}
    for folder in probe.glob(f"sys/devices/system/cpu/cpu{cpu}/cache/index*"):
        where = f"sys/devices/system/cpu/cpu{cpu}/cache/{folder.name}"
        level, kind = probe.read(f"{where}/level"), probe.read(f"{where}/type")
        size = _SIZE.match(probe.read(f"{where}/size"))
        if kind == "Instruction" or level not in ("1", "2", "3") or size is None:
            continue
        key = "l1d_bytes" if level == "1" else f"l{level}_bytes"
        sizes[key] = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    if not any(sizes.values()) and isinstance(native, dict):
        return {key: int(native.get(key, 0)) for key in sizes}
    return sizes
